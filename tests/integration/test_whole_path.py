"""The whole path through the real server over stdio: uploads, agents, work, search, control, crash, recovery."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.server.client import DeckClient, Era, ToolRefusedError
from quarterdeck.server.demo.documents import package_documents
from tests.here import DeckHere
from tests.until import until

Json = dict[str, Any]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def upload(deck: DeckClient, paths: list[Path]) -> list[str]:
    answer = await deck.call("upload", files=[{"path": str(path)} for path in paths])
    return [file["path"] for file in answer["files"]]


async def start(deck: DeckClient, agent_id: str, **prompt: Any) -> str:
    return (await deck.call("query_start", agentId=agent_id, prompt=json.dumps(prompt)))["queryId"]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_twenty_uploads_three_agents_processing_search_and_control(tmp_path: Path, era: Era) -> None:
    texts = tmp_path / "texts"
    paths = [document.path for document in package_documents(texts)]
    async with DeckClient(tmp_path / "deck", era=era, cwd=texts) as deck:
        bytes_reported: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            bytes_reported.append(progress)

        answer = await deck.call("upload", files=[{"path": path.name} for path in paths], on_progress=on_progress)
        assert answer["count"] == 20
        assert [file["originalName"] for file in answer["files"]] == [path.name for path in paths]
        assert [file["sha256"] for file in answer["files"]] == [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
        ]
        assert bytes_reported[-1] == sum(path.stat().st_size for path in paths)
        keys = [file["path"] for file in answer["files"]]

        types = ["researcher", "coder", "tester"]
        spawned = await deck.call("agents_spawn_parallel", agents=[{"type": t, "name": t.title()} for t in types])
        agents = [result["agentId"] for result in spawned["results"]]
        assert spawned["agentsSpawned"] == 3

        work = {"researcher": "analyze_document", "coder": "extract_code", "tester": "validate_document"}
        queries = [
            await start(deck, agents[number % 3], do=work[types[number % 3]], upload=key)
            for number, key in enumerate(keys)
        ]
        results = (await deck.call("query_wait", queryIds=queries, timeout=60))["results"]
        assert [result["status"] for result in results] == ["completed"] * 20
        for result, key in zip(results, keys, strict=True):
            [stored] = result["result"]["stored"]["keys"]
            memory = await deck.call("memory_usage", action="retrieve", namespace="documents", key=stored)
            assert memory["found"], stored
            assert key in json.dumps(memory["value"])

        indexing = await start(deck, agents[0], do="index_document", uploads=keys)
        [indexed] = (await deck.call("query_wait", queryIds=[indexing], timeout=60))["results"]
        chunks = sum(document["chunks"] for document in indexed["result"]["documents"])
        described = await deck.call("vector_collections", action="describe", collection="documents")
        assert described["collections"][0]["count"] == chunks > 20

        for wanted in (3, 9, 15):
            lines = [line for line in paths[wanted].read_text().splitlines() if len(line.split()) > 8]
            query = max(lines, key=len)[:400]
            [hits] = (await deck.call("vector_search", collection="documents", query=query, limit=3))["results"]
            assert keys[wanted] in [hit["payload"]["upload"] for hit in hits]

        comparing = await start(deck, agents[0], do="compare_documents", uploads=keys)
        await until(lambda: progress(deck, comparing))
        pid = await agent_pid(deck, agents[0])
        outcome = await deck.call("query_control", action="pause", queryId=comparing)
        assert (outcome["status"], outcome["level"], outcome["lossless"]) == ("applied", "freeze", True)
        assert pid in outcome["observed"]["pids"]
        process = psutil.Process(pid)
        before = process.cpu_times()
        await asyncio.sleep(0.3)
        assert process.cpu_times() == before
        assert process.status() == psutil.STATUS_STOPPED
        assert (await deck.call("query_list", status="paused"))["queries"][0]["queryId"] == comparing
        assert (await deck.call("query_control", action="resume", queryId=comparing))["status"] == "applied"
        await until(lambda: process.cpu_times() != before)
        ended = await deck.call("query_control", action="terminate", queryId=comparing)
        assert ended["observed"]["status"] == "terminated"

        stats = (await deck.call("query_list", includeHistory=True))["stats"]
        assert (stats["completed"], stats["terminated"], stats["running"]) == (21, 1, 0)
        history = (await deck.call("agents_list", agentId=agents[0], includeHistory=True))["agents"][0]["history"]
        assert [event["event"] for event in history][:2] == ["spawned", "query_started"]
        assert history[-1]["event"] == "query_terminated"
        record = await deck.call(
            "memory_usage", action="retrieve", namespace="agent-activities", key=f"agent-{agents[0]}-complete"
        )
        assert (record["value"]["outcome"], record["value"]["status"]) == ("terminated", "failure")


async def progress(deck: DeckClient, query_id: str) -> Any:
    for query in (await deck.call("query_list"))["queries"]:
        if query["queryId"] == query_id and query["progress"]:
            return query["progress"]["done"]
    return None


async def agent_pid(deck: DeckClient, agent_id: str) -> int:
    return (await deck.call("agents_list", agentId=agent_id))["agents"][0]["pid"]


async def test_some_uploads_and_spawns_fail_and_the_rest_do_not_notice(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Good\n")
    files = [{"path": str(tmp_path / "good.md")}, {"path": str(tmp_path / "missing.md")}, {"path": "/etc/hostname"}]
    async with DeckHere(tmp_path / "deck", environment={"QUARTERDECK_UPLOAD_ROOTS": str(tmp_path)}) as deck:
        answer = await deck.call("upload", files=files)
        assert (answer["status"], answer["message"]) == (207, "1 uploaded, 2 failed")
        assert [file["originalName"] for file in answer["files"]] == ["good.md"]
        assert [warning.split(" - ")[0] for warning in answer["warnings"]] == [
            "Upload failed: missing.md",
            "Upload failed: hostname",
        ]
        assert "QUARTERDECK_UPLOAD_ROOTS" in answer["warnings"][1]

        reports: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            reports.append(message)

        wanted = [
            {"type": "researcher", "name": "one", "task": "# Title\n\nA text."},
            {"type": "wizard", "name": "two"},
            {"type": "reviewer", "name": "three", "priority": "critical"},
        ]
        spawned = await deck.call("agents_spawn_parallel", agents=wanted, on_progress=on_progress)
        assert [(r["name"], r["status"]) for r in spawned["results"]] == [
            ("one", "spawned"),
            ("two", "failed"),
            ("three", "spawned"),
        ]
        assert "unknown type 'wizard' (valid: researcher" in spawned["results"][1]["error"]
        assert spawned["agentsSpawned"] == len(spawned["sessions"]) - 1 == 2
        assert len(reports) == 3
        [result] = (await deck.call("query_wait", queryIds=[spawned["results"][0]["queryId"]]))["results"]
        assert result["status"] == "completed"


async def spawn_busy_crew(deck: DeckClient, folder: Path) -> tuple[list[Json], str]:
    """The documents crew, one of it in the middle of a long query."""
    keys = await upload(deck, [document.path for document in package_documents(folder)])
    crew = (await deck.call("agents_spawn_parallel", crew="documents"))["results"]
    query = await start(deck, crew[0]["agentId"], do="compare_documents", uploads=keys)
    await until(lambda: progress(deck, query))
    return (await deck.call("agents_list"))["agents"], query


@pytest.mark.parametrize("paused", [False, True])
async def test_after_a_sigkill_nothing_runs_on_and_everything_is_found(tmp_path: Path, paused: bool) -> None:
    deck = DeckClient(tmp_path / "deck", environment={"QUARTERDECK_UPLOAD_ROOTS": str(tmp_path)})
    async with deck:
        await deck.call("memory_usage", action="store", key="plan", value={"step": [1, "zwei", None]}, ttl=0)
        points = [{"id": str(n), "text": f"ship number {n}"} for n in range(30)]
        await deck.call("vector_upsert", collection="ships", points=points)
        search: Json = {"collection": "ships", "query": "ship number 7", "limit": 3}
        hits = (await deck.call("vector_search", **search))["results"]
        agents, query = await spawn_busy_crew(deck, tmp_path / "texts")
        listed = (await deck.call("uploads", action="list"))["uploads"]
        assert len(agents) == 5
        if paused:
            await deck.call("query_control", action="pause", queryId=query)
        await deck.kill()
        await deck.start()
        await until(lambda: all(gone(agent["pid"]) for agent in agents))

        memory = await deck.call("memory_usage", action="retrieve", key="plan")
        assert memory["value"] == {"step": [1, "zwei", None]}
        assert (await deck.call("vector_search", **search))["results"] == hits
        assert (await deck.call("uploads", action="list"))["uploads"] == listed
        [result] = (await deck.call("query_wait", queryIds=[query]))["results"]
        assert result["status"] == "interrupted"
        for agent in agents:
            [entry] = (await deck.call("agents_list", agentId=agent["agentId"]))["agents"]
            assert entry["status"] == "interrupted"
        record = await deck.call(
            "memory_usage", action="retrieve", namespace="agent-activities", key=f"agent-{agents[0]['agentId']}-spawn"
        )
        assert record["found"]
        with pytest.raises(ToolRefusedError, match="is interrupted; start a new one"):
            await start(deck, agents[0]["agentId"], do="analyze_document", text="x")
        with pytest.raises(ToolRefusedError, match="is interrupted; possible now: resume"):
            await deck.call("query_control", action="pause", queryId=query)


async def test_closing_the_connection_ends_the_agents(tmp_path: Path) -> None:
    deck = DeckClient(tmp_path / "deck", environment={"QUARTERDECK_UPLOAD_ROOTS": str(tmp_path)})
    async with deck:
        agents, query = await spawn_busy_crew(deck, tmp_path / "texts")
        await deck.stop()
        assert all(gone(agent["pid"]) for agent in agents)
        await deck.start()
        listed = (await deck.call("agents_list", includeHistory=True))["agents"]
        assert [agent["status"] for agent in listed] == ["stopped"] * 5
        [result] = (await deck.call("query_wait", queryIds=[query]))["results"]
        assert result["status"] == "terminated"


async def test_a_sigterm_during_the_end_does_not_cut_it_short(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        spawned = await deck.call("agents_spawn_parallel", agents=[{"type": "coder", "name": "c"}])
        server = (await deck.call("server_status"))["pid"]
        worker = await agent_pid(deck, spawned["results"][0]["agentId"])
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")  # the last row cannot be written before the signal has come

            async def interrupt() -> None:
                await until(lambda: gone(worker))
                os.kill(server, signal.SIGTERM)
                await until(lambda: "SIGTERM: ending" in deck.stderr)
                holder.execute("COMMIT")

            interrupting = asyncio.create_task(interrupt())
            await deck.stop()
            await interrupting
        await deck.start()
        [entry] = (await deck.call("agents_list", includeHistory=True))["agents"]
        assert entry["status"] == "stopped"


async def test_a_result_waits_for_whoever_asks_later(tmp_path: Path) -> None:
    deck = DeckHere(tmp_path)
    async with deck:
        [agent] = (await deck.call("agents_spawn_parallel", agents=[{"type": "researcher", "name": "r"}]))["results"]
        query = await start(deck, agent["agentId"], do="analyze_document", text="# One\n\nA sentence about decks.")
        [first] = (await deck.call("query_wait", queryIds=[query]))["results"]
        await deck.stop()
        await deck.start()
        [later] = (await deck.call("query_wait", queryIds=[query]))["results"]
        assert later == first


async def test_two_servers_share_one_data_directory(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as one, DeckClient(tmp_path) as two:
        await one.call("memory_usage", action="store", key="shared", value=1)
        assert (await two.call("memory_usage", action="retrieve", key="shared"))["value"] == 1
        await one.call("vector_upsert", collection="c", points=[{"id": "a", "text": "anchor chain"}])
        await two.call("vector_upsert", collection="c", points=[{"id": "b", "text": "anchor light"}])
        for deck in (one, two):
            [hits] = (await deck.call("vector_search", collection="c", query="anchor"))["results"]
            assert {hit["id"] for hit in hits} == {"a", "b"}
        [agent] = (await one.call("agents_spawn_parallel", agents=[{"type": "coder", "name": "c"}]))["results"]
        [seen] = (await two.call("agents_list"))["agents"]
        assert (seen["agentId"], seen["status"]) == (agent["agentId"], "idle")
        pid = (await one.call("server_status"))["pid"]
        with pytest.raises(ToolRefusedError, match=f"belongs to the server with pid {pid}"):
            await start(two, agent["agentId"], do="extract_code", text="x")


EXAMPLES = Path(__file__).parents[2] / "examples"


async def run_example(name: str, *arguments: str, home: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / name,
        *arguments,
        env={"QUARTERDECK_DATA_DIR": str(home / "deck"), "PATH": "/usr/bin:/bin", "HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.slow
async def test_the_client_of_forty_lines_runs(tmp_path: Path) -> None:
    output = await run_example("stdio_client.py", str(EXAMPLES.parent / "README.md"), home=tmp_path)
    assert json.loads(output)["documents"][0]["title"] == "Quarterdeck"


@pytest.mark.slow
async def test_the_example_of_a_crash_runs(tmp_path: Path) -> None:
    output = await run_example("crash_and_recover.py", home=tmp_path)
    assert "found {'heading': 270, 'knots': 12} version 1" in output
