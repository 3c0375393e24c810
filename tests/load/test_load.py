"""One real server over stdio under many calls at once. No times are asserted: what is acknowledged must be there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.server.client import DeckClient
from tests.until import until

Answer = dict[str, Any]


@asynccontextmanager
async def loaded_server(tmp_path: Path) -> AsyncGenerator[tuple[DeckClient, psutil.Process]]:
    """A server and its process; at the end it must have logged no warning and no error."""
    async with DeckClient(tmp_path) as deck:
        yield deck, psutil.Process((await deck.call("server_status"))["pid"])
        await deck.stop()
        lines = [json.loads(line) for line in deck.stderr.splitlines()]
        assert [line for line in lines if line["level"] not in ("DEBUG", "INFO")] == []


async def in_flight(limit: int, make: Callable[[int], Awaitable[Answer]], total: int) -> list[Answer]:
    """Make `total` calls, `limit` of them unanswered at any time, and return the answers in the order of the calls."""
    answers: dict[int, Answer] = {}
    numbers = iter(range(total))

    async def work() -> None:
        for number in numbers:
            answers[number] = await make(number)

    await asyncio.gather(*(work() for _ in range(limit)))
    return [answers[number] for number in range(total)]


@pytest.mark.slow
async def test_two_thousand_stores_with_32_in_flight_are_all_found(tmp_path: Path) -> None:
    async with loaded_server(tmp_path) as (deck, _):
        stored = await in_flight(
            32, lambda n: deck.call("memory_usage", action="store", key=f"{n:04}", value={"number": n}), 2000
        )
        assert all(answer["stored"] and answer["version"] == 1 for answer in stored)

        entries: list[Answer] = []
        cursor: str | None = None
        while True:
            page = await deck.call("memory_usage", action="list", limit=500, cursor=cursor)
            entries += page["entries"]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        assert [(entry["key"], entry["value"]) for entry in entries] == [
            (f"{n:04}", {"number": n}) for n in range(2000)
        ]


async def test_writers_of_one_key_lose_no_update(tmp_path: Path) -> None:
    async with loaded_server(tmp_path) as (deck, _):
        stored = await in_flight(32, lambda n: deck.call("memory_usage", action="store", key="shared", value=n), 500)
        assert sorted(answer["version"] for answer in stored) == list(range(1, 501))
        last = max(range(500), key=lambda n: stored[n]["version"])
        assert (await deck.call("memory_usage", action="retrieve", key="shared"))["value"] == last


async def test_upserts_and_searches_side_by_side_see_every_acknowledged_point(tmp_path: Path) -> None:
    async def upsert_and_search(deck: DeckClient, number: int) -> Answer:
        text = f"report{number} about the harbour and its ships"
        points = [{"id": f"p{number}", "text": text, "payload": {"number": number}}]
        await deck.call("vector_upsert", collection="reports", points=points)
        return await deck.call("vector_search", collection="reports", query=text, limit=1)

    async with loaded_server(tmp_path) as (deck, _):
        found = await in_flight(16, lambda n: upsert_and_search(deck, n), 200)
        best = [answer["results"][0][0] for answer in found]
        assert [(hit["id"], hit["payload"]["number"]) for hit in best] == [(f"p{n}", n) for n in range(200)]
        everything = await deck.call("vector_search", collection="reports", query="harbour", limit=500)
        assert {hit["id"] for hit in everything["results"][0]} == {f"p{n}" for n in range(200)}


async def test_forty_uploads_of_one_name_at_once_get_forty_keys(tmp_path: Path) -> None:
    contents = [f"contents {number}\n" * 1000 for number in range(40)]
    async with loaded_server(tmp_path) as (deck, _):
        answers = await deck.call_all(
            *(("upload", {"files": [{"name": "same.txt", "content": content}]}) for content in contents)
        )
        assert [(answer["count"], answer["status"]) for answer in answers] == [(1, 200)] * 40
        keys = [answer["files"][0]["path"] for answer in answers]
        assert len(set(keys)) == 40
        read = await deck.call_all(*(("uploads", {"action": "read", "key": key}) for key in keys))
        assert [answer["content"] for answer in read] == contents
        listed = await deck.call("uploads", action="list")
        assert {upload["key"] for upload in listed["uploads"]} == set(keys)


async def test_thirty_agents_leave_no_process_and_no_open_file(tmp_path: Path) -> None:
    names = count()

    async def spawn_and_stop(deck: DeckClient, agents: int) -> None:
        wanted = [{"type": "researcher", "name": f"agent-{next(names)}"} for _ in range(agents)]
        spawned = await deck.call("agents_spawn_parallel", agents=wanted, maxConcurrency=10, batchSize=30)
        assert spawned["agentsSpawned"] == agents, spawned
        ids = [result["agentId"] for result in spawned["results"]]
        live = (await deck.call("agents_list", limit=100))["agents"]
        assert {agent["agentId"] for agent in live} == set(ids)
        workers = [psutil.Process(agent["pid"]) for agent in live]
        assert len({worker.pid for worker in workers}) == agents
        stopped = await deck.call("agents_stop", agentIds=ids)
        assert stopped["stopped"] == agents
        assert not any(worker.is_running() for worker in workers)

    async with loaded_server(tmp_path) as (deck, process):
        await spawn_and_stop(deck, 1)  # what is opened once and kept
        before = process.num_fds(), len(process.children(recursive=True))
        for _ in range(3):
            await spawn_and_stop(deck, 10)
        await spawn_and_stop(deck, 30)
        await until(lambda: (process.num_fds(), len(process.children(recursive=True))) == before)
