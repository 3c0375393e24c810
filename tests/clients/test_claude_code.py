"""The real Claude Code, added to by the README's command, in a home of its own; its model is a stand-in on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import claude_agent_sdk
import pytest

from tests.server.test_tools import CONTRACT
from tests.servers.anthropic import MessagesApi, Reply, Request
from tests.servers.http import http_server
from tests.tools.agents.claude_agents import environment

from .npm import QUARTERDECK, run
from .script import READ, Script

CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
PREFIX = "mcp__quarterdeck__"
PATIENT = {  # a busy machine starts a server slowly
    "MCP_TIMEOUT": "60000",
    "CLAUDE_CODE_MCP_STARTUP_WAIT_MS": "60000",
    "CLAUDE_CODE_MAX_RETRIES": "0",
}


@pytest.fixture
async def api() -> AsyncGenerator[MessagesApi]:
    api = MessagesApi()
    await api.open()
    yield api
    await api.close()


def reply(script: Script, request: Request) -> Reply:
    results: list[Any] = [
        block["content"]
        for message in request.body["messages"]
        for block in message["content"]
        if not isinstance(block, str) and block["type"] == "tool_result"
    ]
    last: Any = results[-1] if results else ""
    call = script.next(last if isinstance(last, str) else last[0]["text"])
    if call is None:
        return Reply("all done")
    name, arguments = call
    return Reply("", [("ReadMcpResourceTool" if name == READ else PREFIX + name, arguments)])


async def play(api: MessagesApi, folder: Path, *server: str) -> None:
    """Add the server as the options say, and have the model use it."""
    env = {**environment(api, folder / "home"), **PATIENT}
    added = await run(CLAUDE, "mcp", "add", *server, env=env, cwd=folder)
    assert added.code == 0, added.err
    script = Script()
    api.will_say(*[partial(reply, script)] * 20)
    ended = await run(
        CLAUDE, "-p", "go", "--output-format", "json", "--allowedTools", PREFIX + "*", "ReadMcpResourceTool",
        env=env, cwd=folder,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["result"] == "all done"
    script.check()
    offered = {tool["name"].removeprefix(PREFIX) for tool in api.requests[0].body["tools"]}
    assert offered >= CONTRACT


@pytest.mark.slow
async def test_claude_code_lists_and_calls_the_tools(api: MessagesApi, tmp_path: Path) -> None:
    data = f"QUARTERDECK_DATA_DIR={tmp_path / 'deck'}"
    await play(api, tmp_path, "quarterdeck", "-e", data, "--", QUARTERDECK, "serve")
    env = {**environment(api, tmp_path / "home"), **PATIENT}
    listed = await run(CLAUDE, "mcp", "list", env=env, cwd=tmp_path)
    assert "Connected" in listed.out, listed.out + listed.err


@pytest.mark.slow
async def test_claude_code_over_http_with_a_token(api: MessagesApi, tmp_path: Path) -> None:
    token = "a token of sixteen characters and more"
    with http_server(tmp_path, QUARTERDECK_HTTP_TOKEN=token) as server:
        url = f"{await server.url()}/mcp"
        header = f"Authorization: Bearer {token}"
        await play(api, tmp_path, "--transport", "http", "quarterdeck", url, "--header", header)
