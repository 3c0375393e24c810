"""Rules of the user's own, from the README's example to a query that stands still."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient
from tests.here import DeckHere

README = Path(__file__).parents[2] / "README.md"
WAITS = "import os, sys, time\npath = sys.stdin.read()\nwhile not os.path.exists(path): time.sleep(0.01)\nprint('done')"


def example() -> str:
    [rules] = re.findall(r"```toml\n(\[\[optimizer\.rules\]\].*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(rules)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    command = json.dumps([sys.executable, "-I", "-S", "-c", WAITS])
    config = tmp_path / "deck.toml"
    config.write_text(f"{example()}\n[agents.types.waiter]\ncommand = {command}\n")
    return {"QUARTERDECK_CONFIG": str(config)}


async def begin(deck: DeckClient, until_exists: Path, **options: Any) -> str:
    spawned = await deck.call("agents_spawn_parallel", agents=[{"type": "waiter", "name": "w"}])
    agent_id = spawned["results"][0]["agentId"]
    answer = await deck.call("query_start", agentId=agent_id, prompt=str(until_exists), **options)
    return str(answer["queryId"])


async def last_actions(deck: DeckClient, status: str) -> list[dict[str, Any]]:
    """Once there is one of that status."""
    async with asyncio.timeout(20):
        while True:
            actions: list[dict[str, Any]] = (await deck.call("optimizer"))["lastActions"]
            if any(action["status"] == status for action in actions):
                return actions
            await asyncio.sleep(0.02)


async def entry(deck: DeckClient, query_id: str) -> dict[str, Any]:
    entries = (await deck.call("query_list", includeHistory=True))["queries"]
    return {entry["queryId"]: entry for entry in entries}[query_id]


async def test_the_example_of_the_readme_is_tried_and_then_acts_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    gate = tmp_path / "gate"
    async with DeckHere(tmp_path / "data", environment=environment) as deck:
        status = await deck.call("optimizer", action="start", intervalMs=100, dryRun=True)
        assert [rule["name"] for rule in status["rules"]] == [
            "runaway-query-termination",
            "token-budget-pause",
            "hold-drafts",
            "upgrade-to-opus",
            "long-running-simple-query",
        ]
        query_id = await begin(deck, gate, metadata={"kind": "draft", "patience": 0.2})
        [action] = await last_actions(deck, "dryRun")
        assert (action["queryId"], action["rule"], action["action"]) == (query_id, "hold-drafts", "pause")
        assert action["evidence"].keys() == {"metadata.kind", "activeSeconds"}
        assert (await entry(deck, query_id))["status"] == "running"

        await deck.call("optimizer", action="start", intervalMs=100)
        actions = await last_actions(deck, "applied")
        assert [action["rule"] for action in actions] == ["hold-drafts"] * 2
        paused = await entry(deck, query_id)
        assert paused["status"] == "paused"
        assert "by the optimizer: rule hold-drafts" in paused["error"]

        await deck.call("query_control", action="resume", queryId=query_id)
        gate.touch()
        [result] = (await deck.call("query_wait", queryIds=[query_id]))["results"]
        assert result["status"] == "completed"
        stopped = await deck.call("optimizer", action="stop")
        assert (stopped["isMonitoring"], len(stopped["lastActions"])) == (False, 2)


async def test_rules_act_without_the_tool_that_clients_have(tmp_path: Path, environment: dict[str, str]) -> None:
    environment |= {"FEATURE_QUERY_CONTROL": "false"}
    async with DeckHere(tmp_path / "data", environment=environment) as deck:
        await deck.call("optimizer", action="start", intervalMs=100)
        query_id = await begin(deck, tmp_path / "never", metadata={"kind": "draft", "patience": 0})
        await last_actions(deck, "applied")
        held = await entry(deck, query_id)
        assert held["status"] == "paused"
        await deck.call("agents_stop", agentIds=[held["agentId"]])
        [result] = (await deck.call("query_wait", queryIds=[query_id]))["results"]
        assert result["status"] == "terminated"
