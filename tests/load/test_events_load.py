"""Many agents, many queries, many changes, and pages that look on: the server's memory stays level."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import httpx2
import psutil
import pytest

from quarterdeck.storage.runs.base import Agent, Event, Query
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.tools.agents import processes
from tests.servers.http import http_server
from tests.until import until

AGENTS, QUERIES = 200, 1_000
ROUND = 1_000  # changes: 20 seconds of 50 a second
ROUNDS = 6
PAGES = 4
MAX_GROWTH = 8 << 20


@pytest.mark.slow
async def test_the_memory_of_the_server_stays_level(tmp_path: Path) -> None:
    with http_server(tmp_path, QUARTERDECK_HTTP_RATE="0") as server:
        async with await server.client() as client:
            runs = SqliteRunStore(server.data_dir / "runs.db")  # as another server on the data directory has it
            queries = await fill(runs)
            seen = [0] * PAGES
            pages = [asyncio.create_task(look_on(client, seen, page)) for page in range(PAGES)]
            address = (client.base_url.host, client.base_url.port)
            with socket.create_connection(address) as deaf:  # a page that never reads
                deaf.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                process = psutil.Process(server.process.pid)
                sizes: list[int] = []
                for round_ in range(ROUNDS):
                    for number in range(ROUND):
                        query = queries[(round_ * ROUND + number) % QUERIES]
                        query.progress = {"done": number, "total": ROUND, "message": f"step {number} of {round_}"}
                        await runs.put_query(query)
                        await runs.add_event(Event(number, query.agent_id, "step", query.id))
                    told = list(seen)
                    await until(lambda told=told: all(now > before for now, before in zip(seen, told, strict=True)), 60)
                    sizes.append(process.memory_info().rss)
            for page in pages:
                assert not page.done()
                page.cancel()
            await runs.close()
    print("RSS after each round, MB:", [round(size / 2**20, 1) for size in sizes])
    assert sizes[-1] - sizes[1] < MAX_GROWTH  # the first round fills caches


async def fill(runs: SqliteRunStore) -> list[Query]:
    owner = processes.identify(os.getpid())
    agents = [Agent(f"agent-{n}", "researcher", f"n{n}", "process", owner, n, status="busy") for n in range(AGENTS)]
    queries = [
        Query(f"query-{n}", f"agent-{n % AGENTS}", "researcher", "words", owner, n, status="running", started_at=n)
        for n in range(QUERIES)
    ]
    await asyncio.gather(*map(runs.put_agent, agents))
    await asyncio.gather(*map(runs.add_query, queries))
    return queries


async def look_on(client: httpx2.AsyncClient, seen: list[int], page: int) -> None:
    """As the page does: for each change, load what it shows anew."""
    async with client.stream("GET", "/api/events", timeout=None) as events:
        async for line in events.aiter_lines():
            if line == "event: changed":
                for path in ("/api/queries?limit=100", "/api/agents?limit=200"):
                    answer = await client.get(path)
                    assert answer.status_code == 200, answer.text
                seen[page] += 1
