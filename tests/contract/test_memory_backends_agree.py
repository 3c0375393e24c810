"""Whatever is done to memory in whatever order, the backends answer alike."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck.server.stores import open_memory_store
from quarterdeck.storage.errors import ConflictError
from quarterdeck.storage.memory.base import MemoryStore
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import ValkeyServer

NOW = 1_750_000_000_000
NUMBERS = count()  # of the namespaces: a fresh one for each example

keys = st.sampled_from(["a", "ab", "user", "Zoë"])
durations = st.sampled_from([0, 1_000, 5_000])
versions = st.none() | st.integers(0, 4)
pieces = st.sampled_from(
    ["tea", "Teapot", "zoë", "user:42", "user", "42", "x.y", "日本", '"', "\\", "/", "\x7f", "\U0001f600", " ", "_"]
)
values = st.lists(pieces, max_size=8).map("".join) | st.dictionaries(pieces, st.integers() | st.none(), max_size=3)
words = st.lists(
    st.sampled_from(["te", "TEA", "zoe", "user:4", "42", "日", "x.y", "null", "."]), min_size=1, max_size=2
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, values, durations, durations, versions),
        st.tuples(st.just("delete"), keys, versions),
        st.tuples(st.just("touch"), keys, st.none() | durations),
        st.tuples(st.just("restore"), keys, st.none() | durations),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("page"), st.sampled_from(["", "a", "ab", "us"]), st.none() | keys, st.integers(1, 9)),
        st.tuples(st.just("search"), words),
        st.tuples(st.just("count")),
        st.tuples(st.just("pass"), st.sampled_from([1, 999, 1_000, 4_000, -500])),
    ),
    max_size=40,
)


@pytest.fixture
async def stores(
    tmp_path: Path, postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> AsyncIterator[list[MemoryStore]]:
    valkey_server.clear()
    async with AsyncExitStack() as stack:
        opened: list[MemoryStore] = []
        for url in (None, await postgres_server.new_database(), valkey_server.url):
            opened.append(await open_memory_store(url, tmp_path))
            stack.push_async_callback(opened[-1].close)
        yield opened


async def answer(store: MemoryStore, namespace: str, now: int, step: tuple[Any, ...]) -> Any:
    """What the store says, as something that can be compared."""
    try:
        match step:
            case "put", key, value, ttl, grace, version:
                text = json.dumps(value, ensure_ascii=False)
                size = len(text.encode())
                return await store.put(
                    namespace, key, text, size=size, now=now, ttl=ttl, grace=grace, if_version=version
                )
            case "delete", key, version:
                return await store.delete(namespace, key, now=now, if_version=version)
            case "touch", key, ttl:
                return await store.touch(namespace, key, now=now, ttl=ttl)
            case "restore", key, ttl:
                return await store.restore(namespace, key, now=now, ttl=ttl)
            case "get", key:
                return await store.get(namespace, key, now=now), await store.get_many(namespace, [key], now=now)
            case "page", prefix, after, limit:
                return await store.page(namespace, now=now, limit=limit, prefix=prefix, after=after)
            case "search", looked_for:
                hits = await store.search(namespace, looked_for, now=now, limit=9)
                return sorted((hit.entry.key, hit.entry, hit.snippet) for hit in hits)
            case _:
                before = f"{int(namespace) - 1:06}"
                return await store.namespaces(now=now, limit=1, after=before)
    except ConflictError as exc:
        return exc.message


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_any_sequence_of_calls_has_the_same_answers(stores: list[MemoryStore], steps: list[Any]) -> None:
    namespace, now = f"{next(NUMBERS):06}", NOW
    for number, step in enumerate(steps):
        if step[0] == "pass":
            now += step[1]
            continue
        sqlite, *others = [await answer(store, namespace, now, step) for store in stores]
        for other in others:
            assert other == sqlite, (number, step)
