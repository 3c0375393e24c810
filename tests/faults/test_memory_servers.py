"""The memory's server dies under a running deck, and comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from quarterdeck.server.stores import open_memory_store
from quarterdeck.storage import postgres
from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.memory import redis
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import ValkeyServer
from tests.until import until

Server = PostgresServer | ValkeyServer


@pytest.fixture(params=[PostgresServer, ValkeyServer])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that nobody else uses, since it will be killed."""
    started: Server = request.param()
    yield started
    started.close()


async def test_what_was_acknowledged_survives_and_the_deck_goes_on(server: Server, tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    refusals: list[dict[str, object]] = []

    async def store(deck: DeckClient, worker: int) -> None:
        """Until the server is gone."""
        for number in range(100_000):
            key = f"{worker}-{number}"
            try:
                await deck.call("memory_usage", action="store", key=key, value=number)
            except ToolRefusedError as exc:
                refusals.append(exc.answer)
                return
            acknowledged.add(key)

    async def answers(deck: DeckClient) -> bool:
        try:
            await deck.call("memory_usage", action="retrieve", key="0-0")
        except ToolRefusedError:
            return False
        return True

    async with DeckClient(tmp_path, environment={"QUARTERDECK_MEMORY_URL": server.url}) as deck:
        for round_number in range(3):
            before = len(acknowledged)
            workers = [asyncio.create_task(store(deck, 10 * round_number + worker)) for worker in range(6)]
            await until(lambda seen=before: len(acknowledged) > seen + 100)
            server.kill()
            await asyncio.gather(*workers)
            assert not await answers(deck)
            assert (await deck.call("server_status"))["backends"]["memory"] in ("postgres", "redis")
            server.restart()
            assert await answers(deck)
        kept: set[str] = set()
        cursor: str | None = None
        while True:
            page = await deck.call("memory_usage", action="list", limit=500, cursor=cursor, includeValues=False)
            kept |= {entry["key"] for entry in page["entries"]}
            if (cursor := page["nextCursor"]) is None:
                break
        assert acknowledged <= kept
        assert len(kept - acknowledged) <= len(refusals)  # what was answered with "may have been made or not"
        log = [json.loads(line) for line in deck.stderr.splitlines()]
        assert [line for line in log if line["level"] == "ERROR"] == []
    assert len(refusals) == 18
    assert {refusal["code"] for refusal in refusals} == {"storage"}
    assert all(server.url.partition("://")[0] in str(refusal["error"]) for refusal in refusals)


async def test_a_server_that_stands_still_holds_up_neither_a_call_nor_the_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (postgres, redis):
        monkeypatch.setattr(module, "TIMEOUT", 0.2)  # seconds, as all times here
        monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.2)
    one, two = [await open_memory_store(server.url, tmp_path) for _ in range(2)]
    await one.put("n", "k", "1", size=1, now=1, ttl=0, grace=0)
    for process in server.processes():
        process.suspend()
    try:
        async with asyncio.timeout(20):
            for _ in range(2):
                with pytest.raises(StorageError, match=r"no answer in time|Timeout"):
                    await one.get("n", "k", now=1)
            await two.close()
    finally:
        for process in reversed(server.processes()):
            process.resume()
    assert await one.get("n", "k", now=1) is not None
    await one.close()
