"""Agents of the Agent Client Protocol through a deck, as a client drives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from tests.here import DeckHere
from tests.tools.agents.acp_agents import command
from tests.until import until

Json = dict[str, Any]


def deck_with(folder: Path, deck: type[DeckClient] = DeckHere, **offers: Any) -> DeckClient:
    """A deck with a type `hand`, which works in `folder` and may be raised to acceptEdits."""
    kind = {"runner": "acp", "command": command(**offers), "cwd": str(folder), "models": {"small": "a", "large": "b"}}
    agents = {"types": {"hand": kind}, "widest_mode": {"hand": "acceptEdits"}}
    return deck(folder / "deck", environment={"QUARTERDECK_AGENTS": json.dumps(agents)}, cwd=folder)


async def begin(deck: DeckClient, *steps: Json) -> str:
    """Spawn an agent and start a query of these steps."""
    [spawned] = (await deck.call("agents_spawn_parallel", agents=[{"type": "hand", "name": "Ada"}]))["results"]
    assert spawned["status"] == "spawned", spawned
    return (await deck.call("query_start", agentId=spawned["agentId"], prompt=json.dumps(steps)))["queryId"]


async def entry(deck: DeckClient, query_id: str) -> Json:
    listed = (await deck.call("query_list", includeHistory=True))["queries"]
    [found] = [query for query in listed if query["queryId"] == query_id]
    return found


async def test_a_client_steers_a_running_query(tmp_path: Path) -> None:
    async with deck_with(tmp_path, models=["a", "b"], modes=["default", "autoEdit"], echo=True) as deck:
        edit = {"ask": "t1", "kind": "edit", "paths": ["file"]}
        query = await begin(deck, {"touch": "began"}, {"await": "go"}, edit, {"stop": "end_turn", "tokens": 5})

        async def control(action: str, **options: Any) -> Json:
            return await deck.call("query_control", action=action, queryId=query, **options)

        await until(lambda: (tmp_path / "began").exists())
        frozen = await control("pause")
        assert (frozen["status"], frozen["level"]) == ("applied", "freeze")
        [agent] = (await deck.call("agents_list"))["agents"]
        assert psutil.Process(agent["pid"]).status() == psutil.STATUS_STOPPED
        await control("resume")
        with pytest.raises(ToolRefusedError, match=r"unknown model 'gpt' \(valid: small, large"):
            await control("change_model", model="gpt")
        assert (await control("change_model", model="large"))["status"] == "pending"
        held = await control("pause", level="hold")
        assert (held["status"], held["effectiveAt"]) == ("pending", "next_boundary")  # it does not ask yet
        (tmp_path / "go").touch()

        async def is_paused() -> bool:
            return (await entry(deck, query))["status"] == "paused"

        await until(is_paused)
        raised = await control("change_permissions", permissionMode="acceptEdits")
        assert (raised["status"], raised["observed"]["agentMode"]) == ("applied", "autoEdit")
        with pytest.raises(ToolRefusedError, match="widest_mode"):
            await control("change_permissions", permissionMode="bypassPermissions")
        await control("resume")
        [result] = (await deck.call("query_wait", queryIds=[query], timeout=60))["results"]
        assert (result["status"], result["result"]) == ("completed", "allow_once.")
        assert result["usage"]["tokens"] == 5
        assert (await entry(deck, query))["permissionMode"] == "acceptEdits"


async def test_a_deaf_agent_is_terminated_all_the_same(tmp_path: Path) -> None:
    async with deck_with(tmp_path, deaf=True) as deck:
        query = await begin(deck, {"touch": "began"}, {"await": "never"})
        await until(lambda: (tmp_path / "began").exists())
        [agent] = (await deck.call("agents_list"))["agents"]
        ended = await deck.call("query_control", action="terminate", queryId=query)
        assert ended["observed"] == {"status": "terminated", "agent": "stopped"}
        assert not psutil.pid_exists(agent["pid"])


async def test_a_query_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    async with deck_with(tmp_path, DeckClient, load=True) as deck:
        query = await begin(deck, {"touch": "began"}, {"await": "never"})
        await until(lambda: (tmp_path / "began").exists())
        await deck.kill()
    async with deck_with(tmp_path, load=True) as deck:

        async def is_interrupted() -> bool:
            return (await entry(deck, query))["status"] == "interrupted"

        await until(is_interrupted)
        await deck.call("query_control", action="resume", queryId=query)
        [result] = (await deck.call("query_wait", queryIds=[query], timeout=60))["results"]
        assert (result["status"], result["result"]) == ("completed", "heard: Continue where you left off.")
