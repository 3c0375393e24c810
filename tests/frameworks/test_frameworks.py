"""The examples of agent frameworks, each in the environment that its file asks for, on the framework's own test model
and the real server; what they did is read from the deck afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quarterdeck.server.client import DeckClient

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "frameworks"
BIN = Path(sys.executable).parent  # uv, and the `quarterdeck` that the examples start
QUESTION = "What holds a ship?"


FRAMEWORKS = ("langgraph", "openai", "pydantic_ai", "smolagents")


def test_every_example_is_run() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*_agent.py")) == sorted(f"{name}_agent" for name in FRAMEWORKS)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_an_agent_remembers_spawns_waits_and_searches(framework: str, tmp_path: Path) -> None:
    (tmp_path / "ships.md").write_text("# Ships\n\nAn anchor holds a ship in its place.\n")
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),  # a deck of its own
        "OTEL_SDK_DISABLED": "true",
        "LANGSMITH_TRACING": "false",
    }
    done = subprocess.run(
        [
            interpreter(EXAMPLES / f"{framework}_agent.py"),
            Path(__file__).parent / f"{framework}_run.py",
            "ships.md",
            QUESTION,
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "remembered as version 1"
    async with DeckClient(tmp_path / "home" / ".local" / "share" / "quarterdeck") as deck:
        kept = await deck.call("memory_usage", action="retrieve", namespace="examples", key=QUESTION)
        assert "An anchor holds a ship" in kept["value"]
        ended = await deck.call("query_list", includeHistory=True)
        assert [query["status"] for query in ended["queries"]] == ["completed", "completed"]
        assert (await deck.call("agents_list"))["agents"] == []  # they ended with the example's server


def interpreter(example: Path) -> str:
    """That of the environment in which `uv run` runs the file."""
    subprocess.run([BIN / "uv", "sync", "--quiet", "--script", example], check=True, timeout=300)
    found = subprocess.run(
        [BIN / "uv", "python", "find", "--script", example], check=True, capture_output=True, text=True, timeout=60
    )
    return found.stdout.strip()
