"""The MCP Inspector: its lint of the tools' schemas, and a call, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .npm import MODULES, NODE_22, QUARTERDECK, Ended, run

INSPECTOR = MODULES / ".bin" / "mcp-inspector"
MEANT = (
    "Schema carries no validation keyword",  # a memory's value is any JSON
    "`type` is an array",  # null where something is not known
)


async def inspect(folder: Path, *options: str) -> Ended:
    server = ["-e", f"QUARTERDECK_DATA_DIR={folder / 'deck'}", QUARTERDECK, "serve"]
    command = [NODE_22, INSPECTOR, "--cli", "--connect-timeout", "60000", "--format", "json", *options, *server]
    return await run(*command, env={"HOME": str(folder)})


@pytest.mark.slow
async def test_the_schemas_pass_the_strict_lint(tmp_path: Path) -> None:
    ended = await inspect(tmp_path, "--method", "tools/list", "--strict")
    assert ended.code == 0, ended.err
    assert len(json.loads(ended.out)["result"]["tools"]) == 16
    issues = re.findall(r"^  Issue: (.*)", ended.err, re.MULTILINE)
    assert issues, "the lint did not run"
    assert [issue for issue in issues if not issue.startswith(MEANT)] == []


@pytest.mark.slow
async def test_a_call_in_the_newest_protocol(tmp_path: Path) -> None:
    call = ["--method", "tools/call", "--tool-name", "memory_usage"]
    arguments = json.dumps({"action": "store", "key": "plan", "value": {"ship": 1}})
    ended = await inspect(tmp_path, "--protocol-era", "modern", *call, "--tool-args-json", arguments)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["result"]["structuredContent"]["stored"] is True
