"""bypassPermissions through the real server: a human is asked, in both eras, and only where the answer matters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.context import ClientRequestContext
from mcp.client.stdio import stdio_client
from mcp_types import ElicitRequestParams, ElicitResult

from quarterdeck.server.client import Era

TYPES: dict[str, Any] = {
    "types": {
        "coder2": {"runner": "claude", "command": "/no/such/claude", "sandbox": True},
        "open": {"runner": "claude"},
    },
    "widest_mode": {"coder2": "bypassPermissions", "open": "bypassPermissions"},
}


class Human:
    """Answers what is asked and remembers it."""

    def __init__(self, answer: ElicitResult) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        self.asked.append(params.message)
        return self.answer


YES = ElicitResult(action="accept", content={"confirm": True})
NO = ElicitResult(action="accept", content={"confirm": False})
DECLINED = ElicitResult(action="decline")


async def spawn(folder: Path, era: Era, human: Human | None, *types: str) -> list[str]:
    """What became of a spawn of agents in that mode: each one's error."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "quarterdeck.server", "serve"],
        env={"QUARTERDECK_DATA_DIR": str(folder / "deck"), "QUARTERDECK_AGENTS": json.dumps(TYPES)},
    )
    agents = [{"type": kind, "name": kind, "permissionMode": "bypassPermissions"} for kind in types]
    async with Client(stdio_client(server), mode=era, elicitation_callback=human) as client:
        answer = await client.call_tool("agents_spawn_parallel", {"agents": agents})
    structured: dict[str, Any] = answer.structured_content or {}
    return [one["error"] for one in structured["results"]]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_human_is_asked_once_and_the_answer_counts(tmp_path: Path, era: Era) -> None:
    human = Human(YES)
    [error, other] = await spawn(tmp_path, era, human, "coder2", "coder2")
    assert len(human.asked) == 1
    assert "agent coder2, agent coder2" in human.asked[0]
    assert "a human's yes" not in error + other  # refused later: there is no such program, or no extra
    for answer in (NO, DECLINED):
        [error] = await spawn(tmp_path, era, Human(answer), "coder2")
        assert "needs a human's yes" in error


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_client_that_cannot_ask_gets_no(tmp_path: Path, era: Era) -> None:
    [error] = await spawn(tmp_path, era, None, "coder2")
    assert "needs a human's yes" in error


async def test_nobody_is_asked_for_what_is_denied_anyway(tmp_path: Path) -> None:
    human = Human(YES)
    [sandbox, mode] = await spawn(tmp_path, "auto", human, "open", "researcher")
    assert "needs a sandbox" in sandbox
    assert "wider than agents of type researcher may have" in mode
    assert not human.asked
