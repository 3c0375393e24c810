"""An S3 store that resets, refuses, stalls, crawls or loses answers: retries in a deadline, then a plain failure."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from quarterdeck.storage.errors import ConflictError, StorageError
from quarterdeck.storage.objects.base import ObjectInfo
from quarterdeck.storage.objects.s3 import S3ObjectStore
from quarterdeck.storage.objects.s3_put import PART_BYTES
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.sources import InlineSource
from tests.clock import ManualClock
from tests.contents import contents
from tests.ready import ready
from tests.servers.proxy import Fate, Proxy
from tests.servers.seaweed import SeaweedServer
from tests.until import until

LARGE = 2 * PART_BYTES + 1
SHORT = 1.5  # seconds of a request with all its attempts
LONG = 60.0


@dataclass
class Site:
    """A bucket behind a proxy, and stores on it."""

    server: SeaweedServer
    proxy: Proxy
    bucket: str
    opened: list[S3ObjectStore]

    async def store(self, deadline: float = LONG) -> S3ObjectStore:
        location = self.server.location(self.bucket, self.proxy.port)
        self.opened.append(await S3ObjectStore.open(location, "uploads/", deadline))
        return self.opened[-1]


@pytest.fixture
async def site(s3_server: SeaweedServer) -> AsyncIterator[Site]:
    async with Proxy(s3_server.port).serve() as proxy:
        site = Site(s3_server, proxy, s3_server.new_bucket(), [])
        yield site
        for store in site.opened:
            await store.close()


async def put(store: S3ObjectStore, key: str, whole: bytes) -> ObjectInfo:
    return await store.put(key, contents(whole), size=len(whole), name="n", content_type="t/t", created_at=0)


def first(count: int, fate: Fate, method: str) -> Callable[[str], Fate]:
    """Let the first requests of the method have that fate."""
    met: Counter[str] = Counter()

    def decide(line: str) -> Fate:
        met.update([line.split()[0]])
        return fate if line.startswith(method) and met[method] <= count else "pass"

    return decide


@pytest.mark.parametrize("fate", ["reset", "refuse"])
@pytest.mark.parametrize("size", [100, LARGE])
async def test_what_passes_is_tried_again(site: Site, fate: Fate, size: int) -> None:
    store = await site.store()
    site.proxy.fate = first(2, fate, "PUT")
    info = await put(store, "uploads/k", b"x" * size)
    assert info.sha256 == hashlib.sha256(b"x" * size).hexdigest()
    assert await store.stat("uploads/k") == info
    assert sum(line.startswith("PUT") for line in site.proxy.requests) == -(-size // PART_BYTES) + 2


@pytest.mark.parametrize(("method", "size"), [("PUT", 100), ("PUT", LARGE), ("POST", LARGE)])
async def test_an_answer_that_got_lost_is_no_failure(site: Site, method: str, size: int) -> None:
    """The object is there when the second attempt comes, and refuses it: it is known as ours by its mark."""
    store = await site.store()

    def lose_once(line: str) -> Fate:
        if line.startswith(method) and (method == "PUT" or "uploadId=" in line) and not lost:
            lost.append(line)
            return "lose the answer"
        return "pass"

    lost: list[str] = []
    site.proxy.fate = lose_once
    info = await put(store, "uploads/k", b"x" * size)
    assert len(lost) == 1
    assert await store.stat("uploads/k") == info
    assert site.server.unfinished(site.bucket) == []


async def test_a_key_that_was_taken_is_not_mistaken_for_ours(site: Site) -> None:
    store = await site.store()
    await put(store, "uploads/k", b"theirs")
    site.proxy.fate = first(1, "lose the answer", "PUT")
    with pytest.raises(ConflictError):
        await put(store, "uploads/k", b"ours")
    assert await store.read("uploads/k", 0, 10) == b"theirs"


@pytest.mark.parametrize("fate", ["stall", "crawl"])
@pytest.mark.parametrize("size", [300_000, LARGE])
async def test_a_store_that_stalls_or_crawls_fails_that_file_alone(site: Site, fate: Fate, size: int) -> None:
    service = UploadService(ready(await site.store(SHORT)), [], ManualClock())
    site.proxy.fate = lambda line: fate if line.startswith("PUT") and "bad.bin" in line else "pass"
    sources = [InlineSource(name, b"x" * length) for name, length in (("a", 10), ("bad.bin", size), ("c", 10))]
    answer = await service.upload(sources)
    assert answer["status"] == 207
    assert [file["originalName"] for file in answer["files"]] == ["a", "c"]
    [warning] = answer.get("warnings", [])
    assert warning.startswith("Upload failed: bad.bin - bucket ")
    assert warning.endswith("no answer within 1.5 s")
    assert not any("bad.bin" in key for key in site.server.keys(site.bucket))
    assert site.server.unfinished(site.bucket) == []


async def test_a_store_that_refuses_for_ever_is_a_plain_failure(site: Site) -> None:
    store = await site.store(SHORT)
    site.proxy.fate = lambda _: "refuse"
    with pytest.raises(StorageError, match=r"no answer within 1\.5 s|SlowDown"):
        await put(store, "uploads/k", b"x")
    site.proxy.fate = lambda _: "pass"
    assert await store.stat("uploads/k") is None


async def test_parts_that_cannot_be_taken_back_are_taken_back_later(site: Site) -> None:
    store = await site.store(SHORT)
    site.proxy.fate = lambda line: "stall" if "uploadId=" in line else "pass"
    with pytest.raises(StorageError, match="no answer within"):
        await put(store, "uploads/k", b"x" * LARGE)
    assert site.server.unfinished(site.bucket) == ["uploads/k"]
    site.proxy.fate = lambda _: "pass"
    await put(store, "uploads/other", b"x")
    assert site.server.unfinished(site.bucket) == []
    assert site.server.keys(site.bucket) == ["uploads/other"]


@pytest.mark.parametrize(("begun", "size"), [("partNumber=", LARGE), ("PUT", 100)])
async def test_a_put_that_is_cancelled_in_flight_leaves_no_trace(site: Site, begun: str, size: int) -> None:
    store = await site.store()
    in_flight = asyncio.Event()

    def stall(line: str) -> Fate:
        if begun in line:
            in_flight.set()
            return "stall"
        return "pass"

    site.proxy.fate = stall
    task = asyncio.create_task(put(store, "uploads/k", b"x" * size))
    async with asyncio.timeout(30):
        await in_flight.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.server.unfinished(site.bucket) == []
    assert site.server.keys(site.bucket) == []


async def test_a_put_that_is_cancelled_after_it_was_stored_leaves_no_trace(site: Site) -> None:
    store = await site.store()
    site.proxy.fate = lambda line: "lose the answer" if line.startswith("PUT") else "pass"
    task = asyncio.create_task(put(store, "uploads/k", b"x"))
    await until(lambda: site.server.keys(site.bucket))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.server.keys(site.bucket) == []


async def test_a_put_that_is_cancelled_before_it_is_stored_leaves_no_trace(site: Site) -> None:
    """What was sent is stored whether its sender waits or not: so the sender does, and takes it back."""
    store = await site.store()
    sent = asyncio.Event()

    def hold(line: str) -> Fate:
        if line.startswith("PUT"):
            sent.set()
            return "crawl"
        return "pass"

    site.proxy.fate = hold
    task = asyncio.create_task(put(store, "uploads/k", b"x" * 4_000))
    async with asyncio.timeout(30):
        await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [line.split()[0] for line in site.proxy.requests[-3:]] == ["PUT", "HEAD", "DELETE"]
    assert site.server.keys(site.bucket) == []
