"""A vector server is killed with SIGKILL while it writes; and what it acknowledges, another sees at once."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from pathlib import Path

import pytest

from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.vectors.faiss import FaissVectorStore

from .vector_writer import BATCH, DIMENSION

WRITER = Path(__file__).with_name("vector_writer.py")
QUERY = [1.0, 1.0] + [0.5] * (DIMENSION - 2)
EVERYTHING = 100_000


async def start_writer(path: Path, first: int) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, str(WRITER), str(path), str(first), stdout=PIPE)


async def acknowledged(writer: Process) -> int:
    assert writer.stdout is not None
    line = await writer.stdout.readline()
    assert line, "the writer failed; its traceback is on stderr"
    return int(line)


async def points_by_batch(store: FaissVectorStore) -> Counter[int]:
    (hits,) = await store.search("c", [QUERY], limit=EVERYTHING)
    assert len(hits) == await store.count("c")
    return Counter(hit.payload["batch"] for hit in hits)


def check_whole(found: Counter[int], last: int) -> None:
    """Batches up to `last` have lost the one deleted point; one more may have been cut off before its deletion."""
    for batch in range(last + 1):
        assert found.pop(batch) == BATCH - 1
    assert all(batch == last + 1 and size in (BATCH, BATCH - 1) for batch, size in found.items())


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
async def test_a_killed_writer_loses_no_acknowledged_batch_and_splits_none(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "vectors.db"
    batches = 0
    for number in range(rounds):
        writer = await start_writer(path, batches)
        last = await acknowledged(writer)
        for _ in range(number % 7):
            last = await acknowledged(writer)
        await asyncio.sleep(0.0007 * (number % 5))  # at another moment of the write each time
        writer.kill()
        rest, _ = await writer.communicate()
        last = max([last, *map(int, rest.split())])
        store = await FaissVectorStore.open(path, SystemClock())
        found = await points_by_batch(store)
        assert await store.verify("c") == []
        await store.close()
        check_whole(found, last)
        batches = last + 1


async def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vectors.db"
    firsts = (0, 1000)
    writers = [await start_writer(path, first) for first in firsts]
    for writer, first in zip(writers, firsts, strict=True):
        assert [await acknowledged(writer) for _ in range(10)] == list(range(first, first + 10))
    for writer in writers:
        writer.kill()
        await writer.communicate()
    store = await FaissVectorStore.open(path, SystemClock())
    found = await points_by_batch(store)
    await store.close()
    for first in firsts:
        assert [found[batch] for batch in range(first, first + 10)] == [BATCH - 1] * 10
    assert set(found.values()) <= {BATCH, BATCH - 1}


async def test_another_process_sees_every_acknowledged_batch(tmp_path: Path) -> None:
    path = tmp_path / "vectors.db"
    store = await FaissVectorStore.open(path, SystemClock())
    writer = await start_writer(path, 0)
    try:
        for _ in range(15):
            last = await acknowledged(writer)
            (hits,) = await store.search("c", [QUERY], limit=EVERYTHING)
            found = Counter(hit.payload["batch"] for hit in hits)
            assert [found[batch] for batch in range(last + 1)] == [BATCH - 1] * (last + 1)
            assert {found[batch] for batch in found if batch > last} <= {BATCH, BATCH - 1}
    finally:
        writer.kill()
        await writer.communicate()
        await store.close()
