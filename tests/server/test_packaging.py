"""The wheel, installed in a clean environment, serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", out, source],
        check=True,
        capture_output=True,
        timeout=300,
    )
    [built] = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_three_rooms_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {"/".join(name.split("/")[:2]) for name in names if not name.startswith("quarterdeck-")}
    assert tops == {"quarterdeck/server", "quarterdeck/tools", "quarterdeck/storage"}
    assert "quarterdeck/tools/agents/worker/main.py" in names
    assert "quarterdeck/server/py.typed" in names


@pytest.mark.slow
async def test_it_serves_from_a_clean_environment(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True, timeout=600)
    environment = {**os.environ, "QUARTERDECK_DATA_DIR": str(tmp_path / "deck")}
    doctor = subprocess.run(
        [tmp_path / "env" / "bin" / "quarterdeck", "doctor"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert doctor.returncode == 0, doctor.stdout
    monkeypatch.setattr(sys, "executable", str(python))
    async with DeckClient(tmp_path / "deck", cwd=tmp_path) as deck:
        assert len((await deck.client.list_tools()).tools) == 16
        [agent] = (await deck.call("agents_spawn_parallel", agents=[{"type": "researcher", "name": "r"}]))["results"]
        assert agent["status"] == "spawned"
        points = [{"id": str(number), "text": f"from the wheel {number}"} for number in range(5)]
        assert (await deck.call("vector_upsert", collection="c", points=points))["count"] == 5
        clusters = await work(deck, "pattern_discovery", {"do": "clustering_analysis", "collection": "c"})
        assert clusters["result"]["points"] == 5
        files = [{"name": "a.pdf", "content": "%PDF-1.4"}]
        [upload] = (await deck.call("upload", files=files))["files"]
        refusal = await work(deck, "researcher", {"upload": upload["path"]})
        assert "pip install 'quarterdeck[documents]'" in refusal["error"]


async def work(deck: DeckClient, agent_type: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """The result of a query by a new agent."""
    [agent] = (await deck.call("agents_spawn_parallel", agents=[{"type": agent_type, "name": "n"}]))["results"]
    query = await deck.call("query_start", agentId=agent["agentId"], prompt=json.dumps(prompt))
    [done] = (await deck.call("query_wait", queryIds=[query["queryId"]], timeout=60))["results"]
    result: dict[str, Any] = done
    return result
