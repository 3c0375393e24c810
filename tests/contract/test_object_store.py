"""What every object store keeps to; a backend joins by one more parameter of the fixture."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from anyio import create_task_group

from quarterdeck.storage.errors import ConflictError, DeckError, InvalidArgumentError, NotFoundError
from quarterdeck.storage.objects.base import ObjectInfo, ObjectStore, Stored
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.objects.s3 import S3ObjectStore
from quarterdeck.storage.objects.s3_put import PART_BYTES
from tests.contents import contents
from tests.servers.seaweed import SeaweedServer
from tests.until import until


@pytest.fixture(params=["local", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened: ObjectStore
    if request.param == "s3":
        server: SeaweedServer = request.getfixturevalue("s3_server")
        opened = await S3ObjectStore.open(server.location(server.new_bucket()), prefix="uploads/")
    else:
        opened = LocalObjectStore(tmp_path / "objects")
    yield opened
    await opened.close()


async def put(store: ObjectStore, key: str, *parts: bytes, stored: Stored | None = None) -> ObjectInfo:
    return await store.put(
        key,
        contents(*parts),
        size=sum(map(len, parts)),
        name="n.txt",
        content_type="text/plain",
        created_at=1_750_000_000_123,
        stored=stored,
    )


async def keys(store: ObjectStore, prefix: str = "", after: str = "", limit: int = 100) -> list[str]:
    return [info.key for info in await store.list(prefix, after, limit)]


async def test_an_object_comes_back_as_it_was_given(store: ObjectStore) -> None:
    parts = [bytes([number]) * (1 << 20) for number in range(3)]
    info = await put(store, "a/b.txt", *parts)
    whole = b"".join(parts)
    assert info == ObjectInfo(
        "a/b.txt", "n.txt", "text/plain", len(whole), hashlib.sha256(whole).hexdigest(), 1_750_000_000_123
    )
    assert await store.stat("a/b.txt") == info
    assert await store.list("", "", 10) == [info]
    assert await store.read("a/b.txt", 0, len(whole) + 1) == whole


async def test_an_object_may_be_empty(store: ObjectStore) -> None:
    info = await put(store, "empty")
    assert (info.size, info.sha256) == (0, hashlib.sha256().hexdigest())
    assert await store.stat("empty") == info
    assert await store.read("empty", 0, 10) == b""


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 3, b"012"), (4, 2, b"45"), (8, 100, b"89"), (10, 1, b""), (99, 1, b""), (3, 0, b"")],
)
async def test_ranges(store: ObjectStore, offset: int, length: int, expected: bytes) -> None:
    await put(store, "digits", b"01234", b"56789")
    assert await store.read("digits", offset, length) == expected


async def test_a_key_is_never_overwritten(store: ObjectStore) -> None:
    await put(store, "k", b"first")
    with pytest.raises(ConflictError):
        await put(store, "k", b"second")
    assert await store.read("k", 0, 100) == b"first"


async def test_of_eight_puts_of_one_key_one_wins(store: ObjectStore) -> None:
    all_are_writing = threading.Barrier(8)

    async def one(number: int) -> bool:
        def wait() -> bytes:
            all_are_writing.wait(30)  # so none is refused before it has written
            return b"!"

        try:
            source = contents(b"%02d" % number * 1000, wait)
            await store.put("k", source, size=2001, name="n", content_type="t/t", created_at=number)
        except ConflictError:
            return False
        return True

    won = await asyncio.gather(*(one(number) for number in range(8)))
    assert won.count(True) == 1
    assert await store.read("k", 0, 10_000) == b"%02d" % won.index(True) * 1000 + b"!"
    info = await store.stat("k")
    assert info is not None
    assert info.created_at == won.index(True)


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
async def test_contents_of_many_parts_and_chunks_of_any_size(store: ObjectStore, size: int) -> None:
    whole = random.Random(size).randbytes(size)
    cut = [whole[start : start + 777_777] for start in range(0, size, 777_777)]
    info = await put(store, "k", b"", *cut, b"")
    assert (info.size, info.sha256) == (size, hashlib.sha256(whole).hexdigest())
    assert await store.stat("k") == info
    assert await store.read("k", 0, size) == whole
    assert await store.read("k", size - 3, 10) == whole[-3:]


async def test_of_two_large_puts_of_one_key_one_wins(store: ObjectStore) -> None:
    both_are_writing = threading.Barrier(2)
    size = PART_BYTES + 10

    async def one(letter: bytes) -> str | None:
        def wait() -> bytes:
            both_are_writing.wait(30)
            return letter

        try:
            source = contents(letter * (size - 1), wait)
            info = await store.put("k", source, size=size, name="n", content_type="t/t", created_at=0)
        except ConflictError:
            return None
        return info.sha256

    digests = {await done for done in asyncio.as_completed([one(b"a"), one(b"b")])}
    assert None in digests
    digests.remove(None)
    assert digests == {hashlib.sha256(await store.read("k", 0, size)).hexdigest()}


@pytest.mark.parametrize("size", [100_000, PART_BYTES + 1])
async def test_a_source_that_fails_at_its_end_leaves_no_trace(store: ObjectStore, size: int) -> None:
    def change() -> bytes:
        raise DeckError("the file changed")

    with pytest.raises(DeckError, match="the file changed"):
        await store.put("k", contents(b"x" * size, change), size=size, name="n", content_type="t/t", created_at=0)
    assert await store.stat("k") is None
    assert await keys(store) == []
    await put(store, "k", b"the key is still free")


@pytest.mark.parametrize("size", [0, 99, 101, 1 << 20])
async def test_contents_of_another_size_leave_no_trace(store: ObjectStore, size: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"the contents for k are not the {size} bytes"):
        await store.put("k", contents(b"x" * 100), size=size, name="n", content_type="t/t", created_at=0)
    assert await keys(store) == []
    await put(store, "k", b"the key is still free")


async def test_the_giver_is_told_how_much_is_stored(store: ObjectStore) -> None:
    told: list[int] = []

    async def stored(size: int) -> None:
        told.append(size)

    await put(store, "k", *[b"x" * (1 << 20)] * 20, stored=stored)
    assert told == sorted(told)
    assert len(told) > 1
    assert told[-1] == 20 << 20


async def test_a_cancelled_put_leaves_no_trace(store: ObjectStore) -> None:
    writing, may_go_on = threading.Event(), threading.Event()

    def wait() -> bytes:
        writing.set()
        may_go_on.wait(30)
        return b"x"

    source = contents(b"x" * 100_000, wait)
    async with create_task_group() as group:
        group.start_soon(partial(store.put, "k", source, size=100_001, name="n", content_type="t/t", created_at=0))
        await until(writing.is_set)
        group.cancel_scope.cancel()
        may_go_on.set()
    assert await keys(store) == []
    await put(store, "k", b"the key is still free")


async def test_lists_are_in_order_and_paged_by_key(store: ObjectStore) -> None:
    for key in ("b/2", "a/1", "b/10", "c", "b_1", "b/é"):
        await put(store, key, key.encode())
    assert await keys(store) == ["a/1", "b/10", "b/2", "b/é", "b_1", "c"]
    assert await keys(store, prefix="b/") == ["b/10", "b/2", "b/é"]
    assert await keys(store, prefix="b/", after="b/10", limit=1) == ["b/2"]
    assert await keys(store, prefix="b/", after="b/1000") == ["b/2", "b/é"]
    assert await keys(store, after="c") == []


async def test_a_deleted_object_is_gone_and_its_key_free(store: ObjectStore) -> None:
    await put(store, "k", b"old")
    assert await store.delete("k") is True
    assert await store.delete("k") is False
    assert await store.stat("k") is None
    assert await keys(store) == []
    with pytest.raises(NotFoundError):
        await store.read("k", 0, 1)
    await put(store, "k", b"new")
    assert await store.read("k", 0, 10) == b"new"


@pytest.mark.parametrize(
    "key", ["", ".", "..", "../k", "/k", ".staging", "a~b", "a\\b", "a\0b", "a\nb", "\udcff", "é" * 101, "k" * 201]
)
async def test_a_key_that_not_every_store_can_hold_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await put(store, key, b"x")
    with pytest.raises(InvalidArgumentError):
        await store.stat(key)
    with pytest.raises(InvalidArgumentError):
        await store.read(key, 0, 1)
    with pytest.raises(InvalidArgumentError):
        await store.delete(key)
    with pytest.raises(InvalidArgumentError):
        await store.presign(key, 60)


async def test_the_longest_key_can_be_held(store: ObjectStore) -> None:
    await put(store, "é" * 100, b"x")
    assert await keys(store) == ["é" * 100]
