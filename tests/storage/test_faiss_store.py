"""What is particular to the FAISS store: several stores on one file, replay, tombstones, threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quarterdeck.storage.errors import NotFoundError, StorageError
from quarterdeck.storage.vectors import faiss as faiss_store
from quarterdeck.storage.vectors import reader, writer
from quarterdeck.storage.vectors.base import Hit, Point
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.generation import Generation
from quarterdeck.storage.vectors.schema import MIGRATIONS
from tests.clock import ManualClock
from tests.until import until

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


async def test_a_server_that_fell_far_behind_learns_what_is_gone(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    for module in (reader, writer):
        monkeypatch.setattr(module, "KEPT_CHANGES", 3)
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
    points = [Point(str(n), [float(n), 1.0], {"n": n}) for n in range(reader.CHUNK_ROWS + 10)]
    await one.upsert("c", points)
    two = await open_store()
    assert await found(two) == sorted(point.id for point in points)
    (kept,) = await two.get("c", ["7"])
    assert (list(kept.vector), kept.payload) == ([7.0, 1.0], {"n": 7})


async def test_searches_in_threads_and_inline_agree(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    search = Generation.search

    def spy(*arguments: Any, **options: Any) -> list[list[Hit]]:
        threads.append(threading.current_thread().name)
        return search(*arguments, **options)

    monkeypatch.setattr(Generation, "search", spy)
    store = await open_store()
    await store.upsert("c", [Point(str(n), [1.0, float(n)], {"n": n}) for n in range(50)])
    await found(store, where={"n": 1})
    answers = [await store.search("c", [EAST, NORTH], limit=7, where={"n": {"gt": 9}})]
    monkeypatch.setattr(faiss_store, "INLINE_BYTES", 0)
    answers.append(await store.search("c", [EAST, NORTH], limit=7, where={"n": {"gt": 9}}))
    assert answers[0] == answers[1]
    main = threading.main_thread().name
    assert [name == main for name in threads] == [False, True, False]


async def test_dead_slots_are_dropped_once_they_are_the_most(open_store: Open, clock: ManualClock) -> None:
    store = await open_store()
    most = 0
    for number in range(8):
        await store.upsert("c", [Point(str(n), [1.0, float(number)], {"n": number}) for n in range(10)])
        (hits,) = await store.search("c", [EAST], limit=99)
        assert [hit.payload["n"] for hit in hits] == [number] * 10
        await until(lambda: is_quiet(store))
        most = max(most, (await store.inspect("c")).tombstones or 0)
    assert most == 10, "built anew as soon as there were 20 dead for 10 living"

    await store.upsert("c", [Point(f"brief {n}", EAST, {}, clock.now() + 1000) for n in range(30)])
    assert len(await found(store)) == 40
    clock.advance(1)
    assert len(await found(store)) == 10
    assert (await store.optimize("c")).tombstones == 30, "their rows stay until the next change"
    await store.delete("c", ["unknown"])
    assert (await store.optimize("c")).tombstones == 0


async def is_quiet(store: FaissVectorStore) -> bool:
    return (await store.inspect("c")).building is None


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
    search, put = Generation.search, Generation.put
    order: list[str] = []

    def slow_search(*arguments: Any, **options: Any) -> list[list[Hit]]:
        started.set()
        release.wait(10)
        order.append("searched")
        return search(*arguments, **options)

    def noted_put(generation: Generation, rows: Any) -> Any:
        order.append("put")
        return put(generation, rows)

    store = await open_store()
    await store.upsert("c", [Point("a", EAST)])
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "search", slow_search)
        abandoned = asyncio.create_task(store.search("c", [EAST], limit=1))
        await asyncio.to_thread(started.wait, 10)
    monkeypatch.setattr(Generation, "put", noted_put)
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
    search = Generation.search

    def slow_search(*arguments: Any, **options: Any) -> list[list[Hit]]:
        started.set()
        release.wait(10)
        return search(*arguments, **options)

    store = await open_store()
    await store.upsert("c", [Point("a", EAST)])
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "search", slow_search)
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


async def test_a_file_of_the_first_schema_is_migrated(path: Path, clock: ManualClock) -> None:
    db = sqlite3.connect(path)
    db.executescript(MIGRATIONS[0])
    db.execute("PRAGMA user_version = 1")
    db.execute("INSERT INTO collections VALUES (7, 'c', 2, 'l2', 'e', 5, 3)")
    rows = [(7, str(n), 9 - n, np.array([n, 0], "<f4").tobytes(), f'{{"n":{n}}}', None) for n in range(5)]
    db.executemany("INSERT INTO points VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.commit()
    db.close()
    store = await FaissVectorStore.open(path, clock)
    info = await store.describe("c")
    assert (info.dimension, info.metric, info.embedder, info.created_at) == (2, "l2", "e", 5)
    assert (info.index, info.quantization, info.stored) == ("auto", "none", "float32")
    (hits,) = await store.search("c", [[1.0, 0.0]], limit=9)
    assert [(hit.id, hit.score, hit.payload) for hit in hits[:1]] == [("1", 0.0, {"n": 1})]
    assert len(hits) == await store.count("c") == 5
    assert await store.delete("c", ["1", "2"]) == 2
    assert await store.count("c") == 3
    await store.close()


async def test_the_bytes_on_disk_are_those_of_the_points(open_store: Open) -> None:
    store = await open_store()
    await store.create("c", 2)
    assert (await store.inspect("c")).disk_bytes == 0
    row = 8 + 4 + len('{"text":""}')
    await store.upsert("c", [Point(f"{n:04}", [1, n], {"text": "é" * 500}) for n in range(9000)])
    assert (await store.inspect("c")).disk_bytes == 9000 * (row + 1000)
    await store.upsert("c", [Point(f"{n:04}", [1, n], {"text": ""}) for n in range(3000)])
    await store.upsert("c", [Point(f"{n:04}", [1, n], {"text": ""}) for n in range(9000, 9999)])
    await store.upsert("c", [Point(f"{n}", [1, n], {"text": ""}) for n in range(10_000, 13_000)])
    expected = 6000 * (row + 1000) + 6999 * row
    assert (await store.inspect("c")).disk_bytes == pytest.approx(expected, rel=0.2), "of many points some are measured"
