"""Agents and queries as resources, through a real server in both eras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp_types import TextResourceContents

from quarterdeck.server.client import DeckClient, Era
from tests.here import DeckHere
from tests.until import until

ERAS: tuple[Era, ...] = ("auto", "legacy")


async def read(deck: DeckClient, uri: str) -> dict[str, Any]:
    [contents] = (await deck.client.read_resource(uri)).contents
    assert isinstance(contents, TextResourceContents)
    assert contents.mime_type == "application/json"
    found: dict[str, Any] = json.loads(contents.text)
    return found


@pytest.mark.parametrize("era", ERAS)
async def test_one_agent_and_one_query_can_be_looked_at_closely(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        templates = (await deck.client.list_resource_templates()).resource_templates
        assert {"agent://{agentId}", "query://{queryId}"} <= {template.uri_template for template in templates}
        spawned = await deck.call("agents_spawn_parallel", agents=[{"type": "researcher", "name": "r"}])
        agent = spawned["results"][0]["agentId"]
        await deck.call("query_start", agentId=agent, prompt="ships and crews", queryId="q")
        await deck.call("query_wait", queryIds=["q"])
        query = await read(deck, "query://q")
        assert (query["status"], query["prompt"], query["agentId"]) == ("completed", "ships and crews", agent)
        assert query["result"]
        assert query["audit"] == []
        found = await read(deck, f"agent://{agent}")
        assert [event["event"] for event in found["history"]] == ["spawned", "query_started", "query_completed"]
        for uri, complaint in (
            ("query://none", "no query 'none'"),
            ("agent://none", "no agent 'none'"),
            ("query://a/b", "uri: must be agent://"),
        ):
            with pytest.raises(MCPError, match=complaint):
                await deck.client.read_resource(uri)


async def test_the_audit_of_a_query_says_who_did_what_and_what_was_observed(tmp_path: Path) -> None:
    types = {"sleep": {"command": ["sleep", "600"]}}
    async with DeckHere(tmp_path, environment={"QUARTERDECK_AGENTS": json.dumps({"types": types})}) as deck:
        spawned = await deck.call("agents_spawn_parallel", agents=[{"type": "sleep", "name": "s", "task": "-"}])
        agent, query = (spawned["results"][0][name] for name in ("agentId", "queryId"))

        async def command_runs() -> bool:
            return bool((await deck.call("agents_list", agentId=agent))["agents"][0]["pid"])

        await until(command_runs)
        for action in ("pause", "terminate"):
            await deck.call("query_control", action=action, queryId=query)
        audit = (await read(deck, f"query://{query}"))["audit"]
    assert [(one["actor"], one["action"], one["before"], one["after"]) for one in audit] == [
        ("client", "pause", "running", "paused"),
        ("client", "terminate", "paused", "terminated"),
    ]
    assert audit[0]["observed"]["state"] == "stopped"
