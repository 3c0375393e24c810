"""What is Redis' alone: its own expiry, and that nothing stays behind."""

# pyright: reportUnknownMemberType=false
# redis-py leaves some arguments unannotated.

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.memory.redis import RedisMemoryStore
from quarterdeck.storage.memory.redis_scripts import PREFIX, SCHEMA_KEY
from tests.servers.valkey import ValkeyServer

NOW = 1_750_000_000_000
SLACK = 60_000
ENTRY = f"{PREFIX}entry:n\nk"


@pytest.fixture
async def url(valkey_server: ValkeyServer) -> str:
    valkey_server.clear()
    return valkey_server.url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    async with Redis(unix_socket_path=url.removeprefix("unix://"), decode_responses=True) as opened:
        yield opened


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisMemoryStore]:
    opened = await RedisMemoryStore.open(url)
    yield opened
    await opened.close()


async def put(store: RedisMemoryStore, *, ttl: int = 0, grace: int = 0, key: str = "k") -> None:
    await store.put("n", key, '"x"', size=3, now=NOW, ttl=ttl, grace=grace)


async def test_redis_expires_an_entry_a_minute_after_its_grace(store: RedisMemoryStore, client: Redis) -> None:
    async def expires_in(milliseconds: int) -> bool:
        return 0 <= milliseconds + SLACK - await client.pttl(ENTRY) < 30_000

    await put(store, ttl=500_000, grace=100_000)
    assert await expires_in(600_000)
    await store.touch("n", "k", now=NOW, ttl=900_000)
    assert await expires_in(1_000_000)
    await put(store, ttl=0, grace=200_000)
    assert await client.pttl(ENTRY) == -1
    await store.delete("n", "k", now=NOW)
    assert await expires_in(200_000)
    await store.restore("n", "k", now=NOW, ttl=None)
    assert await client.pttl(ENTRY) == -1


async def test_nothing_stays_behind(store: RedisMemoryStore, client: Redis) -> None:
    for number in range(5):
        await put(store, ttl=1_000, grace=500, key=f"k{number}")
    await store.purge(now=NOW + 1_499, limit=9)
    assert len(await client.keys(f"{PREFIX}entry:*")) == 5
    await store.purge(now=NOW + 1_500, limit=3)
    assert len(await client.keys(f"{PREFIX}entry:*")) == 2
    await store.purge(now=NOW + 1_500, limit=3)
    assert await client.keys("*") == [SCHEMA_KEY]


async def test_what_redis_has_expired_is_forgotten_at_the_next_look(store: RedisMemoryStore, client: Redis) -> None:
    await put(store)
    await put(store, key="other")
    await client.delete(ENTRY)  # as its expiry does
    assert [entry.key for entry in await store.page("n", now=NOW, limit=9)] == ["other"]
    assert await client.zcard(f"{PREFIX}keys:n") == 1
    await client.delete(f"{PREFIX}entry:n\nother")
    assert await store.namespaces(now=NOW, limit=9) == []
    assert await client.keys("*") == [SCHEMA_KEY]


async def test_an_earlier_value_is_freed_when_its_grace_is_over(store: RedisMemoryStore, client: Redis) -> None:
    await put(store, grace=1_000)
    await put(store, grace=1_000)
    assert await client.hexists(ENTRY, "previous")
    await store.purge(now=NOW + 1_000, limit=9)
    assert not await client.hexists(ENTRY, "previous")
    assert await client.zcard(f"{PREFIX}over") == 0


async def test_without_grace_no_earlier_value_is_kept(store: RedisMemoryStore, client: Redis) -> None:
    await put(store)
    await put(store)
    assert not await client.hexists(ENTRY, "previous")


async def test_a_search_holds_a_bounded_part_of_the_values(store: RedisMemoryStore, client: Redis) -> None:
    text = '"' + "tea " * 150_000 + '"'
    for number in range(5):
        await store.put("n", f"k{number}", text, size=len(text), now=NOW, ttl=0, grace=0)
    before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    assert len(await store.search("n", ["tea"], now=NOW, limit=9)) == 5
    steps = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before
    assert steps == 3  # of two values, each a little over half of what a step may hold


async def test_a_namespace_is_read_in_steps(store: RedisMemoryStore) -> None:
    for number in range(1_203):
        await put(store, ttl=1 if number < 700 else 0, key=f"{number:04}")
    page = await store.page("n", now=NOW + 1, limit=2)
    assert [entry.key for entry in page] == ["0700", "0701"]
    assert len(await store.search("n", ["x"], now=NOW + 1, limit=999)) == 503
    [stats] = await store.namespaces(now=NOW + 1, limit=9)
    assert (stats.count, stats.size) == (503, 503 * 3)


async def test_what_a_newer_program_wrote_is_refused(url: str, client: Redis) -> None:
    await client.set(SCHEMA_KEY, 99)
    with pytest.raises(StorageError, match="schema 99, this program knows up to 1: upgrade quarterdeck"):
        await RedisMemoryStore.open(url)
    assert await client.get(SCHEMA_KEY) == "99"


async def test_a_full_server_refuses_and_keeps_what_it_has(store: RedisMemoryStore, client: Redis) -> None:
    await put(store, grace=1_000)
    await client.config_set("maxmemory", "1")
    try:
        for change in (put(store), store.touch("n", "k", now=NOW, ttl=1), store.restore("n", "k", now=NOW, ttl=None)):
            with pytest.raises(StorageError, match="maxmemory"):
                await change
        [kept] = await store.page("n", now=NOW, limit=9)
        assert (kept.version, kept.expires_at) == (1, None)
        assert await store.delete("n", "k", now=NOW)
        await store.purge(now=NOW + 1_000, limit=9)
        assert await client.keys("*") == [SCHEMA_KEY]
    finally:
        await client.config_set("maxmemory", "0")
