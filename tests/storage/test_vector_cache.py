"""Cached answers are those that the store would give now, nobody else's to change, and gone in time."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck.storage.cache import ENTRY_BYTES, TTL, Kept, Made, TieredCache
from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.redis_cache import PAUSE, PREFIX, RedisCache
from quarterdeck.storage.vectors.base import Point, VectorStore
from quarterdeck.storage.vectors.cache import CachingVectorStore
from quarterdeck.storage.vectors.cache_report import cache_report
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from quarterdeck.storage.vectors.qdrant_catalogue import FRESH
from tests.clock import ManualClock
from tests.servers.qdrant import QDRANTS, qdrant_place
from tests.servers.valkey import ValkeyServer

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
PLACES = [EAST, NORTH, WEST]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> TieredCache:
    return TieredCache(clock)


@pytest.fixture
async def plain(tmp_path: Path, clock: ManualClock) -> AsyncIterator[FaissVectorStore]:
    opened = await FaissVectorStore.open(tmp_path / "vectors.db", clock)
    yield opened
    await opened.close()


@pytest.fixture
def cached(plain: FaissVectorStore, cache: TieredCache) -> CachingVectorStore:
    return CachingVectorStore(plain, cache)


def answered(cache: TieredCache) -> dict[str, int]:
    return {tier: shown["answered"] for tier, shown in cache.report()["tiers"].items()}


async def test_a_repeated_search_is_answered_from_the_cache(cached: CachingVectorStore, cache: TieredCache) -> None:
    await cached.upsert("c", [Point("a", EAST, {"n": 1}), Point("b", NORTH)])
    first = await cached.search("c", [EAST, NORTH], limit=2)
    again = await cached.search("c", [np.array(NORTH, np.float32), EAST, WEST], limit=2)
    assert again[:2] == [first[1], first[0]]
    assert answered(cache) == {"l1": 2, "l2": 0, "l3": 3}


async def test_what_tells_searches_apart(cached: CachingVectorStore, cache: TieredCache) -> None:
    await cached.upsert("c", [Point("a", EAST, {"n": 1}), Point("b", NORTH)])
    await cached.upsert("d", [Point("a", EAST, {"n": 1}), Point("b", NORTH)])
    options: list[dict[str, Any]] = [
        {"limit": 1},
        {"limit": 2},
        {"limit": 2, "threshold": 0.5},
        {"limit": 2, "where": {"n": 1}},
        {"limit": 2, "where": {"n": True}},
        {"limit": 2, "precision": "exact"},
    ]
    for name in ("c", "d"):
        for each in options:
            await cached.search(name, [EAST], **each)
    assert answered(cache) == {"l1": 0, "l2": 0, "l3": 12}


async def test_an_answer_belongs_to_its_caller(cached: CachingVectorStore) -> None:
    await cached.upsert("c", [Point("a", EAST, {"deep": {"list": [1]}})])
    expected = copy.deepcopy(await cached.search("c", [EAST], limit=1))
    for _ in range(3):
        found = await cached.search("c", [EAST], limit=1)
        assert found == expected
        cast("dict[str, Any]", found[0][0].payload)["deep"]["list"].append(2)
        found[0].clear()


async def test_what_the_store_refuses_is_refused_each_time(cached: CachingVectorStore, cache: TieredCache) -> None:
    await cached.upsert("c", [Point("a", EAST)])
    for _ in range(2):
        for query, where in (([math.nan, 1.0], None), ([1.0], None), (EAST, {"n": {"about": 1}}), (EAST, {"n": EAST})):
            with pytest.raises(InvalidArgumentError):
                await cached.search("c", [query], limit=1, where=cast("Mapping[str, Any] | None", where))
        with pytest.raises(InvalidArgumentError):
            await cached.search("c", [EAST], limit=1, where={"n": object()})
        with pytest.raises(NotFoundError):
            await cached.search("nowhere", [EAST], limit=1)
    assert cache.report()["cache_size"] == 0


async def test_a_refusal_names_a_query_by_its_place_in_the_call(cached: CachingVectorStore) -> None:
    await cached.upsert("c", [Point("a", EAST)])
    await cached.search("c", [EAST, NORTH], limit=1)
    with pytest.raises(InvalidArgumentError, match=r"^query 2 has dimension 1"):
        await cached.search("c", [EAST, NORTH, [1.0]], limit=1)


async def test_entries_go_after_their_time_and_when_there_is_no_room(clock: ManualClock) -> None:
    cache = TieredCache(clock, max_bytes=3 * (ENTRY_BYTES + 10))
    made: list[bytes] = []

    async def get(digest: bytes, size: int = 10) -> None:
        async def make(_: object) -> Made:
            made.append(digest)
            return Made([b"x" * size], keep=True)

        assert await cache.through("g", [digest], make) == [b"x" * size]

    for digest in (b"a", b"b", b"c", b"a", b"d", b"a", b"c", b"b"):
        await get(digest)
    assert made == [b"a", b"b", b"c", b"d", b"b"], "the least recently used has gone"
    clock.advance(TTL - 0.001)
    await get(b"c")
    clock.advance(0.001)
    await get(b"c")
    await get(b"large", 10_000)
    await get(b"large", 10_000)
    assert made[5:] == [b"c", b"large", b"large"]
    assert cache.report()["cache_size"] == 1


async def test_an_answer_of_another_version_than_asked_for_is_not_kept(
    plain: FaissVectorStore, cached: CachingVectorStore, cache: TieredCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plain.upsert("c", [Point("a", EAST)])
    search = plain.search

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        await plain.upsert("c", [Point("b", EAST)])
        return await search(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(plain, "search", overtaken)
        await cached.search("c", [EAST], limit=9)
    assert cache.report()["cache_size"] == 0


@dataclass(frozen=True)
class Step:
    """What deck `who` does next."""

    kind: Literal["put", "delete", "drop", "wait", "search"]
    who: int = 0
    number: int = 0
    place: int = 0
    seconds: float = 0
    is_filtered: bool = False


steps = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from(["put", "put", "delete", "drop", "wait", "search", "search", "search"]),
        who=st.integers(0, 1),
        number=st.integers(0, 5),
        place=st.integers(0, 2),
        seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        is_filtered=st.booleans(),
    ),
    max_size=30,
)


async def play(decks: Sequence[VectorStore], clock: ManualClock, steps: Sequence[Step], lag: float) -> None:
    """Every search, `lag` seconds after the step before it, finds what the steps have left."""
    points: dict[str, tuple[int, float]] = {}  # place and end
    await decks[0].create("c", 2)
    for step in steps:
        deck, point_id = decks[step.who], str(step.number)
        match step.kind:
            case "put":
                end = clock.now() + round(step.seconds * 1000) if step.seconds else None
                await deck.upsert("c", [Point(point_id, PLACES[step.place], {"place": step.place}, end)])
                points[point_id] = (step.place, math.inf if end is None else end)
            case "delete":
                await deck.delete("c", [point_id])
                points.pop(point_id, None)
            case "drop":
                await deck.drop("c")
                await decks[1 - step.who].create("c", 2)
                points = {}
            case "wait":
                clock.advance(step.seconds)
            case "search":
                clock.advance(lag)
                where = {"place": step.place} if step.is_filtered else None
                (hits,) = await deck.search("c", [PLACES[step.place]], limit=9, where=where)
                live = {name: at for name, (at, end) in points.items() if end > clock.now()}
                expected = {name: at for name, at in live.items() if not step.is_filtered or at == step.place}
                assert {hit.id: hit.payload["place"] for hit in hits} == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(steps=steps)
async def test_no_answer_is_stale_whoever_writes(tmp_path: Path, steps: list[Step]) -> None:
    """Two stores on one file, as two servers have."""
    clock = ManualClock()
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        stores = [await FaissVectorStore.open(Path(folder) / "vectors.db", clock) for _ in range(2)]
        await play([CachingVectorStore(store, TieredCache(clock)) for store in stores], clock, steps, 0)
        for store in stores:
            await store.close()


async def test_a_repeating_workload_hits(cached: CachingVectorStore, cache: TieredCache) -> None:
    """Zipf's law, exponent 1.1: 10,000 queries of 1,000 distinct ones."""
    random = np.random.default_rng(11)
    queries = random.normal(size=(1000, 2)).astype(np.float32)
    await cached.upsert("c", [Point(str(n), row) for n, row in enumerate(random.normal(size=(50, 2)))])
    weights = 1 / np.arange(1, 1001) ** 1.1
    for number in random.choice(1000, size=10_000, p=weights / weights.sum()):
        await cached.search("c", [queries[number]], limit=3)
    assert cache.report("c")["cache_hit_rate"] > 0.6


async def test_figures_are_told_whole_and_by_collection(
    plain: FaissVectorStore, cached: CachingVectorStore, cache: TieredCache
) -> None:
    empty = await cache_report(cache, None)
    assert (empty["cache_hit_rate"], empty["hnsw_index_enabled"], empty["collections"]) == (None, None, {})
    for name in ("c", "d"):
        await cached.upsert(name, [Point("a", EAST)])
        await cached.search(name, [EAST], limit=1)
    for _ in range(2):
        await cached.search("c", [EAST], limit=1)
    report = await cache_report(cache, plain)
    assert (report["cache_size"], report["cache_ttl"], report["cache_hit_rate"]) == (2, TTL, 0.5)
    assert (report["hash_embedding_enabled"], report["hnsw_index_enabled"]) == (False, False)
    assert list(report["collections"]) == ["c", "d"], "the busiest first"
    assert report["collections"]["c"]["cache_hit_rate"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["collections"]["c"]["tiers"]["l1"]["answered"] == 2
    await plain.drop("d")
    assert (await cache_report(cache, plain))["collections"]["d"]["hnsw_index_enabled"] is None


# ---- the second tier


async def make_nothing(places: Any) -> Made:
    raise AssertionError(f"{places} should be in a cache")


async def test_decks_share_the_second_tier(valkey_server: ValkeyServer, clock: ManualClock) -> None:
    valkey_server.clear()
    shared = [RedisCache(valkey_server.url, clock) for _ in range(2)]
    one, two = [TieredCache(clock, each) for each in shared]

    async def make(places: Any) -> Made:
        return Made([b"\x00\xff%d" % place for place in places], keep=True)

    assert await one.through("g", [b"a", b"b"], make) == [b"\x00\xff0", b"\x00\xff1"]
    assert await two.through("g", [b"b", b"a"], make_nothing) == [b"\x00\xff1", b"\x00\xff0"]
    assert await two.through("g", [b"b"], make_nothing) == [b"\x00\xff1"]
    assert answered(two) == {"l1": 1, "l2": 2, "l3": 0}
    assert 0 < int((valkey_server.answer(f"PTTL {PREFIX.decode()}a") or "")[1:]) <= TTL * 1000
    for each in shared:
        await each.close()


async def test_what_comes_from_the_second_tier_stays_no_longer_than_it_would_have_there(
    valkey_server: ValkeyServer, clock: ManualClock
) -> None:
    valkey_server.clear()
    shared = RedisCache(valkey_server.url, clock)
    await shared.put_many({b"a": b"value"}, 60)
    [kept] = await shared.get_many([b"a"])
    assert isinstance(kept, Kept)
    assert 0 < kept.seconds <= 60
    cache = TieredCache(clock, shared)
    await cache.through("g", [b"a"], make_nothing)
    clock.advance(60)
    assert cache.report()["cache_size"] == 0
    await shared.close()


async def test_a_dead_second_tier_costs_hits_and_nothing_else(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = ValkeyServer()
    shared = RedisCache(server.url, clock)
    cache = TieredCache(clock, shared)
    calls: list[bytes] = []

    async def get(digest: bytes) -> None:
        async def make(_: Any) -> Made:
            calls.append(digest)
            return Made([b"v"], keep=True)

        assert await cache.through("g", [digest], make) == [b"v"]

    await get(b"a")
    server.kill()
    await get(b"b")
    await get(b"c")
    assert calls == [b"a", b"b", b"c"]
    assert len(caplog.messages) == 1, "left alone after the first failure"
    server.restart()
    clock.advance(PAUSE)
    await get(b"d")
    other = TieredCache(clock, shared)
    await other.through("g", [b"d", b"a"], make_nothing)
    await shared.close()
    server.close()


# ---- over Qdrant, whose token may lag


@pytest.fixture(params=QDRANTS)
async def decks(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> AsyncIterator[list[CachingVectorStore]]:
    """Two decks on one server."""
    async with qdrant_place(request, monkeypatch) as place:
        stores = [await QdrantVectorStore.open(*place, clock) for _ in range(2)]
        yield [CachingVectorStore(store, TieredCache(clock)) for store in stores]
        for store in stores:
            await store.close()


async def ids(store: CachingVectorStore) -> list[str]:
    (hits,) = await store.search("c", [EAST], limit=9)
    return [hit.id for hit in hits]


async def test_own_writes_are_seen_at_once_and_others_within_a_second(
    decks: list[CachingVectorStore], clock: ManualClock
) -> None:
    one, two = decks
    await one.upsert("c", [Point("a", EAST)])
    assert (await ids(one), await ids(two)) == (["a"], ["a"])
    await one.upsert("c", [Point("b", NORTH)])
    assert await ids(one) == ["a", "b"]
    clock.advance(FRESH)
    assert await ids(two) == ["a", "b"]
    await two.delete("c", ["a"])
    assert await ids(two) == ["b"]
    clock.advance(FRESH)
    assert await ids(one) == ["b"]


async def test_a_point_of_another_deck_ends_in_the_cache_too(
    decks: list[CachingVectorStore], clock: ManualClock
) -> None:
    one, two = decks
    await one.upsert("c", [Point("a", EAST), Point("long", NORTH, {}, clock.now() + 60_000)])
    clock.advance(FRESH)
    await two.count("c")  # knows the collection now
    await one.upsert("c", [Point("brief", EAST, {}, clock.now() + 300)])
    for _ in range(2):
        assert set(await ids(two)) == {"a", "brief", "long"}
    clock.advance(0.3)
    assert set(await ids(two)) == set(await ids(one)) == {"a", "long"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=12)
@given(steps=steps)
async def test_no_answer_of_two_decks_is_older_than_a_second(
    decks: list[CachingVectorStore], clock: ManualClock, steps: list[Step]
) -> None:
    for info in await decks[0].collections(limit=9):
        await decks[0].drop(info.name)
    await play(decks, clock, steps, FRESH)
