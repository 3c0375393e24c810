"""Agents on Claude Code through a deck, as a client drives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.supervisor import is_supported
from tests.here import DeckHere
from tests.servers.anthropic import MessagesApi, Reply
from tests.tools.agents.claude_agents import bash, environment
from tests.until import until

Json = dict[str, Any]


@pytest.fixture
async def api() -> AsyncGenerator[MessagesApi]:
    api = MessagesApi()
    await api.open()
    yield api
    await api.close()


def deck_with(api: MessagesApi, folder: Path, deck: type[DeckClient] = DeckHere, **more: str) -> DeckClient:
    """A deck with a type `pilot`, which works in `folder`; `more` is of its environment."""
    needed = {**environment(api, folder / "home"), **more}
    kind = {"runner": "claude", "env": list(needed), "allowed_tools": ["Bash"], "cwd": str(folder)}
    return deck(
        folder / "deck",
        environment={**needed, "QUARTERDECK_AGENTS": json.dumps({"types": {"pilot": kind}})},
        cwd=folder,
    )


async def begin(deck: DeckClient, **query: Any) -> str:
    """Spawn an agent and start a query."""
    [spawned] = (await deck.call("agents_spawn_parallel", agents=[{"type": "pilot", "name": "Ada"}]))["results"]
    assert spawned["status"] == "spawned", spawned
    return (await deck.call("query_start", agentId=spawned["agentId"], prompt="go", **query))["queryId"]


async def entry(deck: DeckClient, query_id: str) -> Json:
    listed = (await deck.call("query_list", includeHistory=True))["queries"]
    [found] = [query for query in listed if query["queryId"] == query_id]
    return found


async def wait(deck: DeckClient, query_id: str) -> Json:
    [result] = (await deck.call("query_wait", queryIds=[query_id], timeout=60))["results"]
    return result


async def test_a_client_steers_a_running_query(api: MessagesApi, tmp_path: Path) -> None:
    async with deck_with(api, tmp_path) as deck:
        ready = asyncio.Event()
        api.will_say(Reply("", [bash("touch ran")], until=ready), "done")
        query = await begin(deck)

        async def control(action: str, **options: Any) -> Json:
            return await deck.call("query_control", action=action, queryId=query, **options)

        await until(lambda: api.requests)
        pausing = asyncio.create_task(control("pause"))
        ready.set()
        await pausing

        async def is_paused() -> bool:
            return (await entry(deck, query))["status"] == "paused"

        await until(is_paused)
        with pytest.raises(ToolRefusedError, match=r"unknown model 'gpt' \(valid: small, medium, large"):
            await control("change_model", model="gpt")
        with pytest.raises(ToolRefusedError, match=r"unknown command 'nonsense' \(valid: "):
            await control("execute_command", command="/nonsense")
        with pytest.raises(ToolRefusedError, match="acceptEdits"):
            await control("change_permissions", permissionMode="acceptEdits")
        assert (await control("change_model", model="large"))["status"] == "queued"
        assert "sonnet" in (await entry(deck, query))["model"]
        assert not (tmp_path / "ran").exists()
        assert (await control("resume"))["status"] == "applied"
        result = await wait(deck, query)
        assert (result["status"], result["result"]) == ("completed", "done")
        assert result["usage"]["tokens"] == 220
        assert result["usage"]["usd"] > 0
        assert "opus" in (await entry(deck, query))["model"]
        assert ["sonnet" in api.requests[0].model, "opus" in api.requests[1].model] == [True, True]


async def test_a_budget_pauses_before_the_request_that_would_cross_it(api: MessagesApi, tmp_path: Path) -> None:
    async with deck_with(api, tmp_path) as deck:
        api.will_say(Reply("", [bash("echo 1")]), Reply("", [bash("echo 2")]), "done")
        query = await begin(deck, budget={"tokens": 200})

        async def is_paused() -> bool:
            return (await entry(deck, query))["status"] == "paused"

        await until(is_paused)
        assert len(api.requests) == 2
        assert (await entry(deck, query))["usage"]["tokens"] == 220
        await deck.call("query_control", action="resume", queryId=query, budget={"tokens": 1000})
        assert (await wait(deck, query))["result"] == "done"
        assert len(api.requests) == 3


async def test_an_agent_uses_the_tools_of_the_deck_with_its_own_rights(api: MessagesApi, tmp_path: Path) -> None:
    def store(namespace: str) -> tuple[str, Json]:
        return "mcp__deck__memory_usage", {"action": "store", "namespace": namespace, "key": "k", "value": "v"}

    async with deck_with(api, tmp_path) as deck:
        api.will_say(
            Reply("", [store("pilot")]), Reply("", [store("default")]), Reply("", [("mcp__deck__query_list", {})])
        )
        query = await begin(deck)
        assert (await wait(deck, query))["result"] == "done"
        assert (await deck.call("memory_usage", action="retrieve", namespace="pilot", key="k"))["value"] == "v"
        assert not (await deck.call("memory_usage", action="retrieve", key="k"))["found"]
        refused, listed = api.requests[2].last, api.requests[3].last
        assert "permission mode default writes only to pilot" in refused
        assert query in listed
        offered = {tool["name"] for tool in api.requests[0].body["tools"]}
        assert "mcp__deck__vector_search" in offered
        assert "mcp__deck__agents_spawn_parallel" not in offered


@pytest.mark.parametrize("held", [True, False])
async def test_a_terminated_query_leaves_an_agent_that_works(api: MessagesApi, tmp_path: Path, held: bool) -> None:
    async with deck_with(api, tmp_path) as deck:
        api.will_say(Reply("", [bash("touch up; sleep 600")]))
        query = await begin(deck)
        await until((tmp_path / "up").exists)
        if held:
            await deck.call("query_control", action="pause", queryId=query, level="freeze")
        outcome = await deck.call("query_control", action="terminate", queryId=query)
        assert outcome["observed"] == {"status": "terminated", "agent": "idle"}
        agent = (await entry(deck, query))["agentId"]
        again = (await deck.call("query_start", agentId=agent, prompt="once more"))["queryId"]
        assert (await wait(deck, again))["result"] == "done"


@pytest.mark.skipif(not is_supported(), reason="no child subreaper here")
async def test_a_killed_server_leaves_nothing_and_the_next_one_goes_on(api: MessagesApi, tmp_path: Path) -> None:
    async with deck_with(api, tmp_path, DeckClient) as deck:
        api.will_say(Reply("", [bash("echo step one")]), Reply("", [bash("setsid sleep 600 & touch up; sleep 600")]))
        query = await begin(deck)
        await until((tmp_path / "up").exists)
        server = processes.identify((await deck.call("server_status"))["pid"])
        assert len(psutil.Process(server.pid).children(recursive=True)) > 3
        await deck.kill()
        await until(lambda: processes.marked(server) == [], seconds=10)

        await deck.start()
        assert (await entry(deck, query))["status"] == "interrupted"
        api.will_say("the end")
        await deck.call("query_control", action="resume", queryId=query)
        result = await wait(deck, query)
        assert (result["status"], result["result"]) == ("completed", "the end")
        assert result["usage"]["tokens"] == 220  # one answer before the kill was accounted for, and the last one
        assert "step one" in api.requests[-1].text
        assert "Continue where you left off." in api.requests[-1].text


async def test_an_api_that_is_down_when_it_is_resumed_fails_the_query_plainly(api: MessagesApi, tmp_path: Path) -> None:
    async with deck_with(api, tmp_path, CLAUDE_CODE_MAX_RETRIES="0") as deck:
        ready = asyncio.Event()
        api.will_say(Reply("", [bash("touch ran")], until=ready))
        query = await begin(deck)
        await until(lambda: api.requests)
        pausing = asyncio.create_task(deck.call("query_control", action="pause", queryId=query))
        ready.set()
        await pausing

        async def is_paused() -> bool:
            return (await entry(deck, query))["status"] == "paused"

        await until(is_paused)
        await api.close()
        assert (await deck.call("query_control", action="resume", queryId=query))["status"] == "applied"
        result = await wait(deck, query)
        assert result["status"] == "failed"
        assert "API Error" in result["error"]
