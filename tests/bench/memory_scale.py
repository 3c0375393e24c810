"""What memory costs as it grows: a million entries beside a thousand, and a hundred thousand stores in one session."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Iterator, Mapping
from itertools import count, islice, repeat
from pathlib import Path
from time import time
from typing import Any

import psutil

from quarterdeck.storage.memory.sqlite import SqliteMemoryStore

from .entries import VALUE_BYTES, entries
from .measure import Figure, deck, latency
from .raw_client import Era, RawClient

MANY = 1_000_000
FEW = 1_000
NAMESPACES = 10  # of these entries
OWN = 100  # entries of one more namespace, spread among them: it is listed and searched
COMMON = "common"  # a word of every entry
GATHERED = 2_000  # puts in one commit
BLOCKS = 20  # and one to warm up
BLOCK = 50  # calls
COST_TARGET = 1.3  # times that with few entries

STORES = 100_000
IN_FLIGHT = 16
RSS_TARGET = 1.05  # in the second half of the stores: some megabytes

ERA: Era = "modern"
PEER = f"with {FEW:,} entries"

Calls = Iterator[Mapping[str, Any]]


def measure(folder: Path) -> list[Figure]:
    return [*_growth(folder), *_session(folder / "session")]


def _growth(folder: Path) -> Iterator[Figure]:
    for size in (MANY, FEW):
        asyncio.run(_fill(folder / f"{size}", size))
    own = {"namespace": "own", "limit": OWN}
    searches = repeat({"action": "search", "query": COMMON, **own})
    lists = repeat({"action": "list", **own})
    counts = repeat({"action": "namespaces"})
    with deck(ERA, folder / f"{MANY}") as many, deck(ERA, folder / f"{FEW}") as few:

        def compare(action: str, ours: Calls, theirs: Calls) -> Figure:
            pairs = [(_p50(many, ours, BLOCK), _p50(few, theirs, BLOCK)) for _ in range(BLOCKS + 1)][1:]
            seconds = [our for our, _ in pairs], [their for _, their in pairs]
            return latency(f"{action} p50 with {MANY:,} entries", *seconds, PEER, COST_TARGET)

        # The first search takes all that was stored into the index.
        first = [_p50(many, searches, 1) / MANY], [_p50(few, searches, 1) / FEW]
        yield latency(f"first search after {MANY:,} stores, by store", *first, PEER, None)
        yield compare("store", _stores(MANY), _stores(FEW))
        yield compare("retrieve", _retrieves(MANY), _retrieves(FEW))
        yield compare("list of one namespace", lists, lists)
        yield compare("search of one namespace", searches, searches)
        counted = [_p50(many, counts, 3) / MANY], [_p50(few, counts, 3) / FEW]
        yield latency(f"namespaces of {MANY:,} entries, by entry", *counted, PEER, None)


async def _fill(folder: Path, size: int) -> None:
    """Make a deck's database of so many entries and `OWN` more."""
    (folder / "data").mkdir(parents=True)
    store = SqliteMemoryStore(folder / "data" / "memory.db")
    now = int(time() * 1000)
    values = entries("filled")

    async def put(namespace: str, key: str) -> None:
        text = f'"{COMMON} {next(values).value}'[:VALUE_BYTES] + '"'
        await store.put(namespace, key, text, size=len(text), now=now, ttl=0, grace=0)

    for start in range(0, size, GATHERED):
        numbers = range(start, min(start + GATHERED, size))
        await asyncio.gather(*(put(_namespace(number), _key(number)) for number in numbers))
        own = [number for number in numbers if number % (size // OWN) == 0]
        await asyncio.gather(*(put("own", _key(number)) for number in own))
    await store.close()


def _stores(size: int) -> Calls:
    """New entries, anywhere among those that are there."""
    for number, entry in zip(count(size), entries("new"), strict=False):
        yield {"action": "store", "namespace": _namespace(number), "key": _key(number), "value": entry.value}


def _retrieves(size: int) -> Calls:
    """Entries from anywhere."""
    generator = random.Random(size)
    while True:
        number = generator.randrange(size)
        yield {"action": "retrieve", "namespace": _namespace(number), "key": _key(number)}


def _namespace(number: int) -> str:
    return f"namespace-{number % NAMESPACES}"


def _key(number: int) -> str:
    """A name for each number, in no order."""
    return f"{number * 2_654_435_761 % (1 << 32):08x}"


def _p50(server: RawClient, calls: Calls, block: int) -> float:
    return statistics.median(server.latencies("memory_usage", islice(calls, block)))


def _session(folder: Path) -> Iterator[Figure]:
    """The resident memory of a server at the middle and the end of many stores."""
    folder.mkdir()
    calls = ({"action": "store", "key": entry.key, "value": entry.value} for entry in entries("session"))
    with deck(ERA, folder) as server:

        def after(stores: int) -> float:
            server.throughput("memory_usage", islice(calls, stores), IN_FLIGHT)
            return psutil.Process(server.pid).memory_info().rss / (1 << 20)

        start = after(STORES // 100)
        middle = after(STORES // 2 - STORES // 100)
        end = after(STORES // 2)
    for measure, ours, theirs, at, target in (
        (f"RSS after {STORES // 2:,} stores", middle, start, STORES // 100, None),
        (f"RSS after {STORES:,} stores", end, middle, STORES // 2, RSS_TARGET),
    ):
        yield Figure(measure, f"{ours:.1f} MB", f"{theirs:.1f} MB", f"after {at:,}", ours / theirs, target)
