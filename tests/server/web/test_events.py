"""The stream of what changes: whoever changes it, to everybody who looks on, and to its end."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import INVALID_PARAMS

from quarterdeck.server.client import DeckClient
from tests.server.test_keep import run
from tests.servers.http import http_server

Event = tuple[str, dict[str, Any]]


@asynccontextmanager
async def listening(client: httpx2.AsyncClient) -> AsyncGenerator[AsyncIterator[Event]]:
    async with client.stream("GET", "/api/events", headers={"Last-Event-ID": "17"}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncIterator[Event]:
            name = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))

        yield events()


async def changed(events: AsyncIterator[Event], what: str) -> dict[str, Any]:
    """The first event that tells of it."""
    async with asyncio.timeout(30):
        async for name, data in events:
            if name == "changed" and what in data["what"]:
                return data
    raise AssertionError("the stream has ended")


async def test_what_any_server_changes_is_told_to_all(tmp_path: Path) -> None:
    with http_server(tmp_path) as server:
        async with (
            await server.client() as client,
            DeckClient(server.data_dir) as other,
            listening(client) as one,
            listening(client) as two,
        ):
            for events in (one, two):
                name, hello = await anext(events)
                assert name == "hello"
                assert hello["readOnly"] is False
                assert hello["flags"]["FEATURE_QUERY_CONTROL"] is True
            await other.call("memory_usage", action="store", key="k", value=1)
            assert await changed(one, "memory")
            assert await changed(two, "memory")
            await other.call("vector_upsert", collection="c", points=[{"id": "a", "text": "words"}])
            assert await changed(one, "vectors")
            await other.call("upload", files=[{"name": "a.txt", "content": "x"}])
            assert await changed(one, "uploads")
            spawn = await other.call("agents_spawn_parallel", agents=[{"type": "researcher", "name": "r"}])
            agent = spawn["results"][0]["agentId"]
            assert agent in (await changed(one, "agents"))["agents"]
            query = (await other.call("query_start", agentId=agent, prompt="words"))["queryId"]
            assert query in (await changed(one, "queries"))["queries"]


async def test_an_import_beside_the_server_is_told_too(tmp_path: Path) -> None:
    row = {"namespace": "n", "key": "k", "value": 1, "version": 1, "expiresAt": None}
    row |= dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00Z")
    with http_server(tmp_path) as server:
        async with await server.client() as client, listening(client) as events:
            assert (await anext(events))[0] == "hello"
            code, _, told = await run(server.data_dir, "memory", "import", given=json.dumps(row).encode())
            assert (code, told.split(",")[0]) == (0, "1 entries imported")
            assert await changed(events, "memory")


async def test_a_signal_ends_the_streams_and_the_server(tmp_path: Path) -> None:
    with http_server(tmp_path) as server:
        async with await server.client() as client, listening(client) as events:
            assert (await anext(events))[0] == "hello"
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(15):  # less than the grace that a request has
                assert [event async for event in events if event[0] == "hello"] == []
                assert await asyncio.to_thread(server.process.wait) == 0
        assert {line["level"] for line in server.log()} == {"INFO"}


async def test_mcp_refuses_what_is_too_much_to_listen_to_and_ends_what_it_took(tmp_path: Path) -> None:
    with http_server(tmp_path) as server:
        async with Client(streamable_http_client(f"{await server.url()}/mcp")) as client:
            uris = [f"memory://default/{number}" for number in range(1001)]
            with pytest.raises(MCPError, match="at most 1000 memory URIs") as refused:
                async with client.listen(resource_subscriptions=uris):
                    pytest.fail("it was accepted")
            assert refused.value.error.code == INVALID_PARAMS
            async with client.listen(resource_subscriptions=uris[:1]) as subscription:
                server.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(15):  # less than the grace that a request has
                    assert [event async for event in subscription] == []
        assert await asyncio.to_thread(server.process.wait, 30) == 0
        assert {line["level"] for line in server.log()} == {"INFO"}
