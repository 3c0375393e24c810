"""The protocol's official conformance suites against the real HTTP server (`make conformance`)."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from . import conformance_fixtures as fixtures
from .npm import HERE, MODULES, NODE_22, run

OLD = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
NEW = MODULES / "conformance-2026" / "dist" / "index.js"
EXPECTED: dict[str, dict[str, str]] = tomllib.loads((HERE / "conformance.toml").read_text(encoding="utf-8"))
SCENARIOS = {"0.1.16": 32, "2025-11-25": 33, "2026-07-28": 50}  # that the pinned suites have
CALLED = {  # the others are only listed
    "0.1.16": fixtures.HANDSHAKE,
    "2025-11-25": fixtures.HANDSHAKE,
    "2026-07-28": fixtures.SINCE_2026,
}

pytestmark = pytest.mark.slow


@asynccontextmanager
async def server(data_dir: Path) -> AsyncGenerator[str]:
    """The address of a server with fixtures."""
    command = [sys.executable, "-m", "tests.clients.conformance_server", str(data_dir)]
    with (data_dir.parent / "stderr").open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        try:
            port = await asyncio.wait_for(process.stdout.readline(), 60)
            yield f"http://127.0.0.1:{int(port)}"
        finally:
            process.terminate()
            await process.wait()


async def tools_called(address: str) -> set[str]:
    async with httpx.AsyncClient(base_url=address) as client:
        answer = await client.post("/api/tools/server_status", json={})
    return set(answer.json()["performance"]["calls"])


def statuses(results: Path) -> dict[str, list[str]]:
    """How the checks of each scenario ended."""
    found: dict[str, list[str]] = {}
    for file in results.glob("*/checks.json"):
        name = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", file.parent.name)
        assert name, file
        checks: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        found[name[1]] = [check["status"] for check in checks]
    return found


@pytest.mark.parametrize(
    ("wire", "suite"),
    [
        ("0.1.16", [OLD, "server", "--suite", "all"]),
        ("2025-11-25", [NEW, "server", "--requirements", "2025-11-25"]),
        ("2026-07-28", [NEW, "server", "--requirements", "2026-07-28"]),
    ],
)
async def test_what_the_suite_requires(wire: str, suite: list[str | Path], tmp_path: Path) -> None:
    async with server(tmp_path / "deck") as address:
        ended = await run(NODE_22, *suite, "--url", f"{address}/mcp", "-o", tmp_path / "results", wait=300)
        found = statuses(tmp_path / "results")
        assert len(found) == SCENARIOS[wire], ended.out + ended.err
        passed = {name for name, checks in found.items() if "SUCCESS" in checks and "FAILURE" not in checks}
        assert found.keys() - passed == EXPECTED[wire].keys(), ended.out
        assert await tools_called(address) >= CALLED[wire]  # none passed since a tool was not there
