"""The faces of the agent and query families, over agents without processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.config import Settings
from quarterdeck.server.deck import open_deck
from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.tools.agents.builtin.base import CrewMember
from quarterdeck.tools.agents.builtin.catalogue import CREWS, TYPES
from quarterdeck.tools.agents.tool import AgentTools, agent_tools
from quarterdeck.tools.contract import DeckTool, NoClient
from quarterdeck.tools.queries.tool import QueryTools, query_tools
from tests.tools.fakes import Bridge


class Caller(NoClient):
    """Calls the tools by name, as a client that takes no progress."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__("client")
        crews = {"pair": [CrewMember("worker", name, "medium") for name in ("left", "right")]}
        agents = AgentTools(bridge.orchestrator, bridge.queries.start, bridge.runs, bridge.clock, crews, parallel=True)
        families = [
            agent_tools(agents),
            query_tools(QueryTools(bridge.queries, bridge.desk, bridge.clock), control=True),
        ]
        self.tools: dict[str, DeckTool] = {tool.name: tool for family in families for tool in family}
        self.bridge = bridge

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        return await self.tools[tool].answer(arguments, self)


@pytest.fixture
async def call(tmp_path: Path) -> AsyncGenerator[Caller]:
    bridge = Bridge(tmp_path)
    yield Caller(bridge)
    await bridge.close()


async def test_a_spawn_that_started_nobody_is_a_refusal_with_all_results(call: Caller) -> None:
    call.bridge.runner.failures = 4  # both in parallel, both once more
    with pytest.raises(DeckError, match="no agent was started: left - did not get ready; right - did not") as caught:
        await call("agents_spawn_parallel", crew="pair")
    details = caught.value.details
    assert (details["success"], details["agentsSpawned"], details["agentsFailed"]) == (False, 0, 2)
    assert [result["status"] for result in details["results"]] == ["failed", "failed"]
    assert details["performance"]["averageTimePerAgent"] is None


async def test_a_control_without_effect_is_a_refusal_with_its_outcome(call: Caller) -> None:
    agent, fake = await call.bridge.spawn()
    await call("query_start", agentId=agent.id, prompt="work", queryId="q")
    await fake.started.wait()
    fake.can_pause = False
    with pytest.raises(DeckError, match="pause: failed: would not stand still; possible instead: ") as caught:
        await call("query_control", action="pause", queryId="q")
    details = caught.value.details
    assert (details["success"], details["status"], details["result"]) == (False, "failed", "failed")
    fake.can_pause = True
    assert (await call("query_control", action="pause", queryId="q"))["success"] is True
    await call("query_control", action="terminate", queryId="q")


@pytest.mark.parametrize("arguments", [{"status": "failed"}, {"cursor": "5"}])
async def test_one_agent_is_not_filtered(call: Caller, arguments: dict[str, Any]) -> None:
    agent, _ = await call.bridge.spawn()
    with pytest.raises(InvalidArgumentError, match="status and cursor are for lists"):
        await call("agents_list", agentId=agent.id, **arguments)
    assert (await call("agents_list", agentId=agent.id))["count"] == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"metadata": {"a": [float("nan")]}}, "metadata: holds NaN or Infinity"),
        ({"metadata": '{"a": Infinity}'}, "metadata: holds NaN or Infinity"),
        ({"budget": {"wallSeconds": float("inf")}}, "wallSeconds: input should be a finite number"),
    ],
)
async def test_what_json_cannot_say_is_refused(call: Caller, arguments: dict[str, Any], text: str) -> None:
    agent, _ = await call.bridge.spawn()
    with pytest.raises(InvalidArgumentError, match=text):
        await call("query_start", agentId=agent.id, prompt="work", **arguments)
    assert (await call("query_list", includeHistory=True))["queries"] == []


async def test_the_schema_names_every_type_and_crew(tmp_path: Path) -> None:
    async with open_deck(Settings(data_dir=tmp_path)) as deck:
        properties = deck.tools["agents_spawn_parallel"].parameters["properties"]
    assert [
        name for name in TYPES if name not in properties["agents"]["items"]["properties"]["type"]["description"]
    ] == []
    assert [name for name in CREWS if name not in properties["crew"]["description"]] == []
