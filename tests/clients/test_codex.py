"""The real Codex CLI, with the README's lines in its configuration; its model is a stand-in on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_tools import CONTRACT
from tests.servers.http import http_server
from tests.servers.responses import Item, ResponsesApi, message, tool_call

from .npm import MODULES, QUARTERDECK, run
from .script import READ, Script

CODEX = MODULES / ".bin" / "codex"
NAMESPACE = "mcp__quarterdeck"


TOKEN = "a token of sixteen characters and more"


def configuration(api: str, server: str) -> str:
    return f"""
model = "stand-in"
model_provider = "loopback"

[model_providers.loopback]
name = "loopback"
base_url = {json.dumps(api)}
env_key = "LOOPBACK_KEY"
request_max_retries = 0
stream_max_retries = 0

[mcp_servers.quarterdeck]
{server}
required = true
startup_timeout_sec = 60
default_tools_approval_mode = "approve"
"""


def answer(script: Script, body: dict[str, Any]) -> Item:
    outputs = [item["output"] for item in body["input"] if item["type"] == "function_call_output"]
    last = outputs[-1] if outputs else ""
    text = last if isinstance(last, str) else "\n".join(part["text"] for part in last)
    call = script.next(text.partition("Output:\n")[2] or text)  # the time that the call took goes before
    if call is None:
        return message("all done")
    name, arguments = call
    return tool_call("read_mcp_resource", arguments) if name == READ else tool_call(name, arguments, NAMESPACE)


@asynccontextmanager
async def responses(script: Script) -> AsyncGenerator[ResponsesApi]:
    api = ResponsesApi(lambda body: answer(script, body))
    await api.open()
    try:
        yield api
    finally:
        await api.close()


async def play(folder: Path, server: str) -> None:
    """Configure the server with these lines, and have the model use it."""
    home = folder / "home"
    (home / ".codex").mkdir(parents=True)
    script = Script()
    async with responses(script) as api:
        (home / ".codex" / "config.toml").write_text(configuration(api.url, server))
        env = {"HOME": str(home), "CODEX_HOME": str(home / ".codex"), "LOOPBACK_KEY": "none", "DECK_TOKEN": TOKEN}
        ended = await run(CODEX, "exec", "--skip-git-repo-check", "--json", "go", env=env, cwd=folder)
    assert ended.code == 0, ended.out + ended.err
    script.check()
    assert '"all done"' in ended.out
    [offered] = [tool["tools"] for tool in api.requests[0]["tools"] if tool.get("name") == NAMESPACE]
    assert {tool["name"] for tool in offered} == CONTRACT


@pytest.mark.slow
async def test_codex_lists_and_calls_the_tools(tmp_path: Path) -> None:
    env = f"{{ QUARTERDECK_DATA_DIR = {json.dumps(str(tmp_path / 'deck'))} }}"
    await play(tmp_path, f'command = {json.dumps(QUARTERDECK)}\nargs = ["serve"]\nenv = {env}')


@pytest.mark.slow
async def test_codex_over_http_with_a_token(tmp_path: Path) -> None:
    with http_server(tmp_path, QUARTERDECK_HTTP_TOKEN=TOKEN) as server:
        await play(tmp_path, f'url = "{await server.url()}/mcp"\nbearer_token_env_var = "DECK_TOKEN"')
