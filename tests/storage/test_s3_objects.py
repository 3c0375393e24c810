"""What is the S3 store's alone: the bucket and its keys, presigned URLs, what others put there and left behind."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError, StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.objects import s3_put
from quarterdeck.storage.objects.budget import MemoryBudget
from quarterdeck.storage.objects.s3 import S3ObjectStore
from quarterdeck.storage.objects.s3_location import REGION, S3Location
from quarterdeck.storage.objects.s3_put import PART_BYTES
from tests.contents import contents
from tests.servers.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer


@pytest.fixture
def bucket(s3_server: SeaweedServer) -> str:
    return s3_server.new_bucket()


@pytest.fixture
async def store(s3_server: SeaweedServer, bucket: str) -> AsyncIterator[S3ObjectStore]:
    opened = await S3ObjectStore.open(s3_server.location(bucket), "uploads/")
    yield opened
    await opened.close()


async def put(store: S3ObjectStore, key: str, whole: bytes, name: str = "n") -> None:
    await store.put(key, contents(whole), size=len(whole), name=name, content_type="text/html", created_at=5)


@pytest.mark.parametrize("name", ["plain.txt", "a b%20+=é\n\0.txt", "\U0001f5c2" * 90, "../../x", ""])
async def test_a_name_comes_back_as_it_was_given(store: S3ObjectStore, name: str) -> None:
    await put(store, "k", b"x", name)
    found = await store.stat("k")
    assert found is not None
    assert found.name == name


async def test_a_name_that_is_too_long_for_s3_is_cut(store: S3ObjectStore) -> None:
    await put(store, "k", b"x", "é" * 1_000)
    found = await store.stat("k")
    assert found is not None
    assert found.name == "é" * 250


async def test_a_presigned_url_gives_the_contents_to_save(store: S3ObjectStore) -> None:
    await put(store, "uploads/k", b"<script>", name="é.html")
    url = await store.presign("uploads/k", 60)

    def fetch(what: str) -> tuple[bytes, str | None]:
        with urllib.request.urlopen(what, timeout=20) as answer:  # noqa: S310  of our own server
            return answer.read(), answer.headers["Content-Disposition"]

    assert await asyncio.to_thread(fetch, url) == (b"<script>", "attachment; filename*=UTF-8''%C3%A9.html")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(fetch, url.replace("uploads/k", "uploads/other"))
    assert SECRET_KEY not in url


async def test_what_cannot_be_presigned(store: S3ObjectStore) -> None:
    await put(store, "k", b"x")
    with pytest.raises(NotFoundError, match="there is no object other"):
        await store.presign("other", 60)
    for seconds in (0, -1, 604_801):
        with pytest.raises(InvalidArgumentError, match="1 to 604800 seconds"):
            await store.presign("k", seconds)


async def test_what_others_have_put_is_shown_as_far_as_it_is_known(
    store: S3ObjectStore, s3_server: SeaweedServer, bucket: str
) -> None:
    s3_server.client.put_object(Bucket=bucket, Key="uploads/old.csv", Body=b"1,2", ContentType="text/csv")
    s3_server.client.put_object(Bucket=bucket, Key="uploads/a~b", Body=b"a key that we cannot hold")
    await put(store, "uploads/z", b"ours")
    old, ours = await store.list("uploads/", "", 2)
    assert (old.key, old.name, old.type, old.size, old.sha256) == ("uploads/old.csv", "old.csv", "text/csv", 3, None)
    assert old.created_at > 1_700_000_000_000
    assert ours.key == "uploads/z"
    assert await store.read("uploads/old.csv", 2, 9) == b"2"


async def test_contents_that_change_between_two_reads_are_refused(
    store: S3ObjectStore, s3_server: SeaweedServer, bucket: str
) -> None:
    letters = iter(b"abc")

    def changing() -> bytes:
        return bytes([next(letters)]) * (PART_BYTES + 1)

    with pytest.raises(StorageError, match="what arrived is not what was sent"):
        await store.put("k", contents(changing), size=PART_BYTES + 1, name="n", content_type="t/t", created_at=0)
    assert (s3_server.keys(bucket), s3_server.unfinished(bucket)) == ([], [])


async def test_what_dead_processes_left_half_uploaded_is_aborted(
    s3_server: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("uploads/left", "elsewhere/left"):
        s3_server.client.create_multipart_upload(Bucket=bucket, Key=key)
    young = await S3ObjectStore.open(s3_server.location(bucket), "uploads/")
    await young.close()
    assert sorted(s3_server.unfinished(bucket)) == ["elsewhere/left", "uploads/left"]
    monkeypatch.setattr(s3_put, "ABANDONED_AFTER", timedelta(0))
    later = await S3ObjectStore.open(s3_server.location(bucket), "uploads/")
    await later.close()
    assert s3_server.unfinished(bucket) == ["elsewhere/left"]


async def test_a_bucket_that_is_missing_is_named_until_it_is_there(s3_server: SeaweedServer) -> None:
    location = s3_server.location("not-yet-there")
    store = OnFirstUse(lambda: S3ObjectStore.open(location, "uploads/"))
    with pytest.raises(StorageError, match=f"there is no bucket not-yet-there at {location.endpoint}: create it"):
        await store()
    assert "not-yet-there" not in [entry["Name"] for entry in s3_server.client.list_buckets()["Buckets"]]
    s3_server.client.create_bucket(Bucket="not-yet-there")
    opened = await store()
    await put(opened, "k", b"x")
    await opened.close()


@pytest.mark.parametrize("keys", [(ACCESS_KEY, "wrong-secret"), ("wrong-access", SECRET_KEY)])
async def test_wrong_keys_are_a_plain_error_without_them(
    s3_server: SeaweedServer, bucket: str, keys: tuple[str, str]
) -> None:
    location = S3Location(bucket, s3_server.location(bucket).endpoint, REGION, *keys)
    with pytest.raises(
        StorageError, match=r"the keys are refused .* check MINIO_ACCESS_KEY and MINIO_SECRET_KEY"
    ) as no:
        await S3ObjectStore.open(location, "uploads/")
    assert keys[1] not in no.value.message
    assert keys[1] not in repr(location)


async def test_a_server_that_is_not_there_is_a_plain_error() -> None:
    location = S3Location("b-1", "http://127.0.0.1:9", REGION, "a", "s")
    with pytest.raises(StorageError, match=r"bucket b-1 at http://127\.0\.0\.1:9: "):
        await S3ObjectStore.open(location, "uploads/", deadline=1)


@pytest.mark.parametrize(
    ("url", "bucket", "endpoint", "region"),
    [
        ("s3://b", "b", None, "us-east-1"),
        ("s3://b/?endpoint=http://h:9000", "b", "http://h:9000", "us-east-1"),
        ("s3://b?region=eu-west-1&endpoint=https%3A%2F%2Fh", "b", "https://h", "eu-west-1"),
    ],
)
def test_urls(url: str, bucket: str, endpoint: str | None, region: str) -> None:
    assert S3Location.parse(url, "a", "s") == S3Location(bucket, endpoint, region, "a", "s")


@pytest.mark.parametrize(
    "url",
    ["b", "https://b", "s3://", "s3://b/path", "s3://b?key=x", "s3://b?endpoint=h:9000", "s3://b?endpoint=ftp://h",
     "s3://A:s3cret@b", "s3://b?endpoint=http://u:s3cret@h"],
)  # fmt: skip
def test_other_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        S3Location.parse(url, "a", "s")
    assert "s3cret" not in refusal.value.message


async def test_memory_is_lent_in_the_order_of_asking() -> None:
    budget = MemoryBudget(10)
    await budget.take(7)
    large = asyncio.create_task(budget.take(99))  # all of it
    small = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()  # though there would be room
    budget.give_back(7)
    await large
    assert not small.done()
    budget.give_back(99)
    await small


async def test_who_gives_up_waiting_takes_nothing() -> None:
    budget = MemoryBudget(10)
    await budget.take(10)
    waiting = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    budget.give_back(10)
    await asyncio.wait_for(budget.take(10), 5)
