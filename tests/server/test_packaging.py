"""What is given away serves: the wheel in a clean environment and by `uvx`, and the bundle. Registries can read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client, StdioServerParameters

from quarterdeck.server.client import DeckClient

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent  # uv and uvx
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, which lies beside it."""
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
        [sys.executable, "-m", "build", "--outdir", out, source],
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
def test_the_source_distribution_has_what_the_wheel_has(wheel: Path) -> None:
    [packed] = wheel.parent.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        sources = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    names = {name.removeprefix("quarterdeck/") for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.startswith("quarterdeck-")} <= sources
    assert {"README.md", "LICENSE", "pyproject.toml"} <= sources


@pytest.mark.slow
async def test_uvx_runs_the_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "QUARTERDECK_DATA_DIR": str(tmp_path)}
    command = ["--from", str(wheel), "quarterdeck"]
    told = subprocess.run([UV / "uvx", *command, "--version"], capture_output=True, text=True, check=True, timeout=300)
    assert told.stdout == f"quarterdeck {PROJECT['version']}\n"
    await serves_a_call(StdioServerParameters(command=str(UV / "uvx"), args=[*command, "serve"], env=environment))


@pytest.mark.slow
async def test_the_bundle_is_valid_and_starts(tmp_path: Path) -> None:
    """`make mcpb` lets the bundle's own program validate and pack it; it starts as a client would start it."""
    subprocess.run(["make", "mcpb"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    home = tmp_path / "extension"
    with zipfile.ZipFile(ROOT / "dist" / "quarterdeck.mcpb") as bundle:
        bundle.extractall(home)  # noqa: S202  our own
    assert not (home / "tests").exists()
    values = {"__dirname": str(home), "user_config.folder": str(tmp_path)}
    config = json.loads((home / "manifest.json").read_text())["server"]["mcp_config"]

    def filled(text: str) -> str:
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        assert "${" not in text
        return text

    environment = {
        **os.environ,
        "PATH": f"{UV}{os.pathsep}{os.environ['PATH']}",
        "QUARTERDECK_DATA_DIR": str(tmp_path / "deck"),
        **{name: filled(value) for name, value in config["env"].items()},
    }
    (tmp_path / "a.md").write_text("# A")
    server = StdioServerParameters(command=config["command"], args=list(map(filled, config["args"])), env=environment)
    await serves_a_call(server, {"files": [{"path": str(tmp_path / "a.md")}]})


async def serves_a_call(server: StdioServerParameters, files: dict[str, Any] | None = None) -> None:
    async with Client(server, read_timeout_seconds=300) as client:  # it installs before it answers
        stored = await client.call_tool("memory_usage", {"action": "store", "key": "k", "value": "v"})
        assert stored.structured_content is not None
        assert stored.structured_content["success"] is True
        if files is not None:
            assert not (await client.call_tool("upload", files)).is_error


def test_the_registry_can_read_server_json() -> None:
    """And what it says twice is the same: the version, and the name that must stand in the README on PyPI."""
    server = json.loads((ROOT / "server.json").read_text())
    schema = json.loads((Path(__file__).parent / "server_schema.json").read_text())
    assert server["$schema"] == schema["$id"]
    jsonschema.validate(server, schema)
    with pytest.raises(jsonschema.ValidationError, match="is too long"):
        jsonschema.validate({**server, "description": "x" * 101}, schema)
    [package] = server["packages"]
    manifest = json.loads((ROOT / "manifest.json").read_text())
    assert {server["version"], package["version"], manifest["version"]} == {PROJECT["version"]}
    assert package["identifier"] == manifest["name"] == PROJECT["name"]
    assert f"<!-- mcp-name: {server['name']} -->" in (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
    assert (ROOT / manifest["server"]["entry_point"]).is_file()


@pytest.mark.slow
async def test_it_serves_from_a_clean_environment(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([UV / "uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "env"], check=True, timeout=60)
    subprocess.run([UV / "uv", "pip", "install", "--quiet", "--python", python, wheel], check=True, timeout=600)
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
