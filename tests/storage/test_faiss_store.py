"""What is particular to the FAISS store: several stores on one file, replay, compaction, threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import NotFoundError, StorageError
from quarterdeck.storage.vectors import faiss as faiss_store
from quarterdeck.storage.vectors import sqlite as truth
from quarterdeck.storage.vectors.base import Hit, Point
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.flat import FlatIndex
from tests.clock import ManualClock

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
Open = Callable[[], Awaitable[FaissVectorStore]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.db"


@pytest.fixture
async def open_store(path: Path, clock: ManualClock) -> AsyncIterator[Open]:
    """Opens stores that share one file, as several servers do."""
    opened: list[FaissVectorStore] = []

    async def open_one() -> FaissVectorStore:
        opened.append(await FaissVectorStore.open(path, clock))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


async def found(store: FaissVectorStore, **options: Any) -> list[str]:
    (hits,) = await store.search("c", [EAST], limit=5000, **options)
    return sorted(hit.id for hit in hits)


async def test_each_server_sees_what_the_others_acknowledged(open_store: Open) -> None:
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point("a", EAST), Point("b", EAST), Point("x", EAST)])
    assert await found(two) == ["a", "b", "x"]
    await two.delete("c", ["a"])
    assert await found(one) == ["b", "x"]
    await one.upsert("c", [Point("a", EAST, {"again": True}), Point("b", NORTH)])
    assert await found(two, where={"again": True}) == ["a"]
    assert await found(two, threshold=0.5) == ["a", "x"]
    await two.delete_where("c", {"again": {"exists": False}})
    assert await found(one) == ["a"]
    await one.drop("c")
    with pytest.raises(NotFoundError):
        await two.search("c", [EAST], limit=1)
    await two.upsert("c", [Point("new", EAST)])
    assert await found(one) == ["new"]


async def test_a_collection_that_another_server_made_anew_is_not_taken_for_the_old(open_store: Open) -> None:
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point("old", EAST)])
    assert await found(two) == ["old"]
    await one.drop("c")
    await one.upsert("c", [Point("new", EAST)])  # change 1, as the old one's
    assert await found(two) == ["new"]


async def test_a_replacement_that_has_ended_leaves_nothing_of_the_old_point(
    open_store: Open, clock: ManualClock
) -> None:
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point("a", EAST, {"v": 1})])
    assert await found(two) == ["a"]
    await one.upsert("c", [Point("a", EAST, {"v": 2}, clock.now() + 1000)])
    clock.advance(2)
    await one.upsert("c", [Point("b", EAST)])  # removes the ended row on its way
    assert await found(two) == ["b"]


async def test_a_server_that_fell_far_behind_starts_from_nothing(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.setattr(truth, "KEPT_CHANGES", 3)
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point(str(n), EAST) for n in range(9)])
    assert len(await found(two)) == 9
    for n in range(8):
        await one.delete("c", [str(n)])
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM deletions").fetchone() == (3,), "older ones are forgotten"
    db.close()
    assert await found(two) == ["8"]
    assert await found(one) == ["8"]


async def test_points_survive_a_restart(open_store: Open) -> None:
    one = await open_store()
    points = [Point(str(n), [float(n), 1.0], {"n": n}) for n in range(truth.CHUNK_ROWS + 10)]
    await one.upsert("c", points)
    two = await open_store()
    assert await found(two) == sorted(point.id for point in points)
    (kept,) = await two.get("c", ["7"])
    assert (list(kept.vector), kept.payload) == ([7.0, 1.0], {"n": 7})


async def test_searches_in_threads_and_inline_agree(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    search = FlatIndex.search

    def spy(*arguments: Any) -> list[list[Hit]]:
        threads.append(threading.current_thread().name)
        return search(*arguments)

    monkeypatch.setattr(FlatIndex, "search", spy)
    store = await open_store()
    await store.upsert("c", [Point(str(n), [1.0, float(n)], {"n": n}) for n in range(50)])
    await found(store)
    answers = [await store.search("c", [EAST, NORTH], limit=7, where={"n": {"gt": 9}})]
    monkeypatch.setattr(faiss_store, "INLINE_WORK", 0)
    answers.append(await store.search("c", [EAST, NORTH], limit=7, where={"n": {"gt": 9}}))
    assert answers[0] == answers[1]
    main = threading.main_thread().name
    assert [name == main for name in threads] == [False, True, False]


async def test_dead_slots_are_dropped_once_they_are_the_most(
    open_store: Open, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacted: list[tuple[int, int]] = []
    compact = FlatIndex.compact

    def slots(index: FlatIndex) -> int:
        return index.work(1, filtered=False) // 2  # of dimension 2

    def noted(index: FlatIndex) -> None:
        before = slots(index)
        compact(index)
        compacted.append((before, slots(index)))

    monkeypatch.setattr(FlatIndex, "compact", noted)
    store = await open_store()
    for number in range(8):
        await store.upsert("c", [Point(str(n), [1.0, float(number)], {"n": number}) for n in range(10)])
        (hits,) = await store.search("c", [EAST], limit=99)
        assert [hit.payload["n"] for hit in hits] == [number] * 10
    assert compacted == [(30, 10)] * 3

    await store.upsert("c", [Point(f"brief {n}", EAST, {}, clock.now() + 1000) for n in range(30)])
    assert len(await found(store)) == 40
    clock.advance(1)
    assert len(await found(store)) == 10
    assert [after for _, after in compacted[3:]] == [10]


async def test_expired_points_leave_the_file_with_the_next_change(
    open_store: Open, clock: ManualClock, path: Path
) -> None:
    store = await open_store()
    await store.upsert("c", [Point(str(n), EAST, {}, clock.now() + 1000) for n in range(5)])
    clock.advance(1)
    await store.delete("c", ["unknown"])
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM points").fetchone() == (0,)
    db.close()


async def test_a_cancelled_upsert_is_whole_or_absent(open_store: Open) -> None:
    store = await open_store()
    await store.create("c", 2)
    for turns in range(12):
        task = asyncio.create_task(store.upsert("c", [Point(f"{turns}-{n}", EAST) for n in range(50)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.upsert("c", [Point("last", EAST)])  # queued behind whatever still runs
    batches = [point_id.split("-")[0] for point_id in await found(store) if point_id != "last"]
    assert {batches.count(batch) for batch in batches} <= {50}
    assert await store.count("c") == len(batches) + 1


async def test_a_cancelled_search_keeps_the_index_to_itself_until_its_thread_is_done(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()
    search, put = FlatIndex.search, FlatIndex.put
    order: list[str] = []

    def slow_search(*arguments: Any) -> list[list[Hit]]:
        started.set()
        release.wait(10)
        order.append("searched")
        return search(*arguments)

    def noted_put(index: FlatIndex, rows: Any) -> None:
        order.append("put")
        put(index, rows)

    store = await open_store()
    await store.upsert("c", [Point("a", EAST)])
    with monkeypatch.context() as patch:
        patch.setattr(FlatIndex, "search", slow_search)
        abandoned = asyncio.create_task(store.search("c", [EAST], limit=1))
        await asyncio.to_thread(started.wait, 10)
    monkeypatch.setattr(FlatIndex, "put", noted_put)
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    await store.upsert("c", [Point("b", EAST)])
    waiting = asyncio.create_task(found(store))
    for _ in range(20):
        await asyncio.sleep(0)
    release.set()
    assert await waiting == ["a", "b"]
    assert order == ["searched", "put"]


async def test_no_inline_search_runs_beside_a_thread_in_the_index(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = threading.Event(), threading.Event()
    search = FlatIndex.search

    def slow_search(*arguments: Any) -> list[list[Hit]]:
        started.set()
        release.wait(10)
        return search(*arguments)

    store = await open_store()
    await store.upsert("c", [Point("a", EAST)])
    with monkeypatch.context() as patch:
        patch.setattr(FlatIndex, "search", slow_search)
        in_thread = asyncio.create_task(found(store))
        await asyncio.to_thread(started.wait, 10)
    second = asyncio.create_task(found(store))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.done()
    release.set()
    assert await in_thread == await second == ["a"]


async def test_closing_lets_an_abandoned_write_end(path: Path, clock: ManualClock) -> None:
    store = await FaissVectorStore.open(path, clock)
    writing = asyncio.create_task(store.create("c", 2))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await store.close()
    again = await FaissVectorStore.open(path, clock)
    assert await again.count("c") == 0
    await again.close()


async def test_the_file_is_private(open_store: Open, path: Path) -> None:
    await (await open_store()).create("c", 2)
    assert mode_of(path) == 0o600


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_file_of_a_newer_program_is_refused(open_store: Open, path: Path, clock: ManualClock) -> None:
    await open_store()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StorageError, match="upgrade quarterdeck"):
        await FaissVectorStore.open(path, clock)


async def test_a_file_that_is_no_database_is_refused(path: Path, clock: ManualClock) -> None:
    spoil(path)
    with pytest.raises(StorageError, match="not a database"):
        await FaissVectorStore.open(path, clock)


def spoil(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


async def test_a_failing_disk_is_told_and_keeps_nothing(open_store: Open, path: Path) -> None:
    store = await open_store()
    await store.upsert("c", [Point("a", EAST)])
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON points BEGIN SELECT raise(ABORT, 'disk is full'); END")
    db.close()
    with pytest.raises(StorageError, match="disk is full"):
        await store.upsert("c", [Point("b", EAST)])
    assert await found(store) == ["a"]
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER full")
    db.close()
    await store.upsert("c", [Point("b", EAST)])
    assert await found(store) == ["a", "b"]
