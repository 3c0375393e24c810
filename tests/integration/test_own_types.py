"""Agent types of the user's own through a deck: good ones, bad ones, and none that outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.server.agent_types import own_types
from quarterdeck.server.client import DeckClient, ServerDiedError, ToolRefusedError
from quarterdeck.server.config import SettingsError, load_settings
from quarterdeck.tools.agents.runners.supervisor import is_supported
from tests.here import DeckHere
from tests.until import until

Json = dict[str, Any]
PYTHON = [sys.executable, "-I", "-S", "-u"]

# Each is a worker program, and what the spawn says of it.
BAD = {
    "garbage": ("print('hello')", "broke the protocol"),
    "flood": ("while True: print('x' * 100_000, end='')", "a line of more than 1048576 bytes"),
    "exits": ("raise SystemExit('out of luck')", "exited with code 1: out of luck"),
    "deaf": ("import signal\nsignal.signal(15, signal.SIG_IGN)\nprint('[]')\nwhile True: pass", "broke the protocol"),
    "forks": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\nprint('?')\nwhile True: pass",
        "protocol",
    ),
}
# Answers a task by itself: `die` ends it, `fork` leaves a process in a session of its own.
WORKER = """
import json, os, sys, time
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "start":
        print(json.dumps({"type": "ready", "protocol": 1, "capabilities": []}))
    elif message["type"] == "task":
        if message["prompt"] == "die":
            os._exit(3)
        if message["prompt"] == "calls":
            for number in range(200):
                print(json.dumps({"type": "call", "id": number, "tool": "memory_usage",
                    "arguments": {"action": "store", "namespace": "echo", "key": str(number), "value": number}}))
            for number in range(200):
                assert "result" in json.loads(sys.stdin.readline())
        if message["prompt"] == "fork" and os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            time.sleep(600)
        if message["prompt"] == "forever":
            while True: time.sleep(1)
        result = {"pid": os.getpid(), "prompt": message["prompt"]}
        print(json.dumps({"type": "result", "id": message["id"], "result": result}))
"""


def deck_with(folder: Path, types: Json, deck: type[DeckClient] = DeckHere) -> DeckClient:
    """A deck whose configuration has these types; its working folder is the allowed root."""
    environment = {"QUARTERDECK_AGENTS": json.dumps({"types": types}), "CRUNCH_KEY": "k", "OTHER_KEY": "o"}
    return deck(folder / "deck", environment=environment, cwd=folder)


def plain(code: str, **more: Any) -> Json:
    return {"command": [*PYTHON, "-c", code], **more}


def jsonl(code: str, **more: Any) -> Json:
    return {"command": [*PYTHON, "-c", code], "protocol": "jsonl", **more}


async def spawn(deck: DeckClient, *types: str) -> list[Json]:
    wanted = [{"type": kind, "name": kind} for kind in types]
    return (await deck.call("agents_spawn_parallel", agents=wanted, batchSize=50))["results"]


async def ask(deck: DeckClient, agent: str, prompt: str) -> Json:
    query = (await deck.call("query_start", agentId=agent, prompt=prompt))["queryId"]
    [result] = (await deck.call("query_wait", queryIds=[query], timeout=60))["results"]
    return result


async def pid_of(deck: DeckClient, agent: str) -> int | None:
    return (await deck.call("agents_list", agentId=agent))["agents"][0]["pid"]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_plain_command_gets_the_prompt_and_gives_the_answer(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    show = "import os, sys\nprint(os.getcwd(), sorted(os.environ), sys.stdin.read(), end='')"
    types = {
        "show": plain(show, cwd="work", env=["CRUNCH_KEY"]),
        "here": plain(show),
        "fails": plain("import sys; sys.exit('no luck')"),
        "absent": {"command": ["/no/such/program"]},
        "binary": plain("import sys; sys.stdout.buffer.write(b'\\xff')"),
    }
    async with deck_with(tmp_path, types) as deck:
        agents = {one["type"]: one["agentId"] for one in await spawn(deck, *types)}
        shown = await ask(deck, agents["show"], "naïve 漢字")
        assert shown["status"] == "completed"
        where, _, rest = shown["result"].partition(" ")
        assert where == str(tmp_path / "work")
        assert rest.endswith("naïve 漢字")
        assert "CRUNCH_KEY" in rest
        assert "OTHER_KEY" not in rest
        assert shown["usage"]["cpuSeconds"] > 0 or not is_supported()
        here = await ask(deck, agents["here"], "x")
        assert here["result"].startswith(str(tmp_path / "deck" / "agents" / "here"))
        for kind, error in {
            "fails": "the command exited with code 1: no luck",
            "absent": "cannot run '/no/such/program'",
            "binary": "its answer is not UTF-8",
        }.items():
            result = await ask(deck, agents[kind], "x")
            assert (result["status"], error in result["error"]) == ("failed", True), result
        assert (await ask(deck, agents["show"], "again"))["status"] == "completed"
        listed = (await deck.call("agents_list"))["agents"]
        assert {(agent["type"], agent["status"]) for agent in listed} == {(kind, "idle") for kind in types}


async def test_limits_end_a_command_and_leave_its_agent(tmp_path: Path) -> None:
    types = {
        "slow": plain("while True: pass", limits={"wall": 0.3}),
        "long": plain("while True: print('x' * 10_000)", limits={"output_kb": 16}),
        "big": plain("x = bytearray(1 << 30)", limits={"memory_mb": 256}),
        "greedy": plain("files = [open('/dev/null') for _ in range(100)]", limits={"open_files": 32}),
    }
    expected = {
        "slow": "after 0.3 s, its limit",
        "long": "longer than 16 KB",
        "big": "MemoryError",
        "greedy": "Too many open files",
    }
    async with deck_with(tmp_path, types) as deck:
        for agent in await spawn(deck, *types):
            result = await ask(deck, agent["agentId"], "go")
            assert (result["status"], expected[agent["type"]] in result["error"]) == ("failed", True), result
        assert {agent["status"] for agent in (await deck.call("agents_list"))["agents"]} == {"idle"}


async def test_a_plain_command_pauses_resumes_and_terminates(tmp_path: Path) -> None:
    types = {"spin": plain("while True: pass", limits={"wall": 1.0})}
    async with deck_with(tmp_path, types) as deck:
        [agent] = await spawn(deck, "spin")
        query = (await deck.call("query_start", agentId=agent["agentId"], prompt="x"))["queryId"]
        await until(lambda: pid_of(deck, agent["agentId"]))
        assert (await deck.call("query_control", action="pause", queryId=query))["status"] == "applied"
        await asyncio.sleep(1.2)  # longer than its wall time, which stands still
        assert await is_running(deck, query, "paused")
        assert (await deck.call("query_control", action="resume", queryId=query))["status"] == "applied"
        assert (await deck.call("query_control", action="pause", queryId=query))["status"] == "applied"
        ended = await deck.call("query_control", action="terminate", queryId=query)
        assert ended["observed"] == {"status": "terminated", "agent": "idle"}


async def is_running(deck: DeckClient, query: str, status: str = "running") -> bool:
    return any(one["queryId"] == query for one in (await deck.call("query_list", status=status))["queries"])


async def test_bad_workers_are_plain_results_and_the_rest_is_unharmed(tmp_path: Path) -> None:
    types = {kind: jsonl(code) for kind, (code, _) in BAD.items()}
    async with deck_with(tmp_path, types, DeckClient) as deck:
        server = psutil.Process((await deck.call("server_status"))["pid"])
        before = server.memory_info().rss
        results = await spawn(deck, "researcher", *types, "coder", "wizard")
        assert [one["status"] for one in results] == ["spawned", *["failed"] * len(BAD), "spawned", "failed"]
        for one in results[1:-2]:
            assert BAD[one["type"]][1] in one["error"], one
        assert all(kind in results[-1]["error"] for kind in ("unknown type 'wizard'", "researcher", *types))
        assert server.memory_info().rss - before < 100 << 20
        assert (await ask(deck, results[0]["agentId"], "# Ships\n\nA deck is a floor."))["status"] == "completed"
        await until(lambda: len(server.children(recursive=True)) <= 3)  # the supervisor and two workers


async def test_a_worker_may_call_without_waiting(tmp_path: Path) -> None:
    async with deck_with(tmp_path, {"echo": jsonl(WORKER)}) as deck:
        [agent] = await spawn(deck, "echo")
        assert (await ask(deck, agent["agentId"], "calls"))["status"] == "completed"
        listed = await deck.call("memory_usage", action="list", namespace="echo", limit=500)
        assert listed["count"] == 200


async def test_a_worker_that_dies_is_restarted_three_times_within_a_minute(tmp_path: Path) -> None:
    async with deck_with(tmp_path, {"echo": jsonl(WORKER, restart="on-failure"), "once": jsonl(WORKER)}) as deck:
        kept, once = [one["agentId"] for one in await spawn(deck, "echo", "once")]
        assert (await ask(deck, once, "die"))["error"].endswith("the worker exited with code 3")
        with pytest.raises(ToolRefusedError, match="is failed"):
            await ask(deck, once, "hello")
        pids = set[int]()
        for _ in range(3):
            pids.add((await ask(deck, kept, "hello"))["result"]["pid"])
            assert (await ask(deck, kept, "die"))["status"] == "failed"
        pids.add((await ask(deck, kept, "hello"))["result"]["pid"])
        assert await pid_of(deck, kept) in pids
        assert len(pids) == 4
        assert (await ask(deck, kept, "die"))["status"] == "failed"
        await until(lambda: has_failed(deck, kept))
        history = (await deck.call("agents_list", agentId=kept, includeHistory=True))["agents"][0]["history"]
        assert [event["event"] for event in history].count("restarted") == 3


async def has_failed(deck: DeckClient, agent: str) -> bool:
    return (await deck.call("agents_list", agentId=agent))["agents"][0]["status"] == "failed"


async def test_work_over_its_wall_time_ends_a_worker_that_does_not_leave_it(tmp_path: Path) -> None:
    async with deck_with(tmp_path, {"echo": jsonl(WORKER, limits={"wall": 0.3})}) as deck:
        [agent] = await spawn(deck, "echo")
        result = await ask(deck, agent["agentId"], "forever")
        assert (result["status"], "after 0.3 s" in result["error"]) == ("failed", True)


@pytest.mark.skipif(not is_supported(), reason="no child subreaper here")
@pytest.mark.parametrize("victims", ["server", "both"])
async def test_nothing_of_an_agent_survives_a_kill(tmp_path: Path, victims: str) -> None:
    types = {"echo": jsonl(WORKER), "spin": plain("import time; time.sleep(600)")}
    async with deck_with(tmp_path, types, DeckClient) as deck:
        agents = [one["agentId"] for one in await spawn(deck, "echo", "echo", "spin", "researcher")]
        await asyncio.gather(*(ask(deck, agent, "fork") for agent in agents[:2]))
        frozen = (await deck.call("query_start", agentId=agents[0], prompt="forever"))["queryId"]
        await deck.call("query_start", agentId=agents[2], prompt="x")
        await until(lambda: is_running(deck, frozen))
        assert (await deck.call("query_control", action="pause", queryId=frozen))["status"] == "applied"
        server = psutil.Process((await deck.call("server_status"))["pid"])
        members = list(filter(is_alive, server.children(recursive=True)))
        assert len(members) == 7  # the supervisor, four workers, two that they have left in sessions of their own
        [supervisor] = server.children()
        os.kill(server.pid, signal.SIGKILL)
        if victims == "both":
            os.kill(supervisor.pid, signal.SIGKILL)
            await deck.stop()
            await deck.start()  # what the supervisor could not end is ended by the next server
            assert not any(map(is_alive, members))
        else:
            await until(lambda: not any(map(is_alive, members)), seconds=10)
            await deck.stop()
            await deck.start()
        listed = (await deck.call("agents_list", includeHistory=True))["agents"]
        assert {agent["status"] for agent in listed} == {"interrupted"}


async def test_closing_the_connection_ends_every_tree(tmp_path: Path) -> None:
    async with deck_with(tmp_path, {"echo": jsonl(WORKER)}, DeckClient) as deck:
        [agent] = await spawn(deck, "echo")
        await ask(deck, agent["agentId"], "fork")
        members = psutil.Process((await deck.call("server_status"))["pid"]).children(recursive=True)
        assert len(members) >= 2
        await deck.stop()
        assert not any(map(is_alive, members))


@pytest.mark.parametrize(
    ("types", "complaint"),
    [
        ({"crunch": {}}, "agents.types.crunch.command: Field required"),
        ({"crunch": {"command": "rm -r x"}}, "agents.types.crunch.command: Input should be a valid list"),
        ({"crunch": {"command": []}}, "agents.types.crunch.command: List should have at least 1 item"),
        ({"crunch": {"command": ["x"], "limit": {}}}, "agents.types.crunch.limit: there is no such key"),
        ({"crunch": {"command": ["x"], "limits": {"wall": 0}}}, "agents.types.crunch.limits.wall: Input should be"),
        ({"Crunch": {"command": ["x"]}}, "agents.types.Crunch"),
        ({"coder": {"command": ["x"]}}, "agents.types.coder: there is a built-in type of that name"),
        ({"crunch": {"command": ["x"], "cwd": "/etc"}}, "agents.types.crunch.cwd: /etc is no folder below"),
        ({"crunch": {"command": ["x"], "cwd": "link"}}, "agents.types.crunch.cwd: link is no folder below"),
        ({"crunch": {"command": ["x"], "cwd": "missing"}}, "agents.types.crunch.cwd: missing is no folder below"),
        ({"crunch": {"command": ["x"], "restart": "on-failure"}}, "restart is for protocol jsonl"),
    ],
)
def test_a_bad_type_is_told_by_its_key(
    tmp_path: Path, types: Json, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/etc")
    monkeypatch.chdir(tmp_path)  # the allowed root
    monkeypatch.setenv("QUARTERDECK_AGENTS", json.dumps({"types": types}))
    with pytest.raises(SettingsError) as refused:
        own_types(load_settings())
    text = refused.value.message.replace("QUARTERDECK_AGENTS.", "agents.")
    assert complaint in text
    assert text.count("\n") == 0


@pytest.mark.parametrize("bad", [{"command": []}, {"command": ["x"], "cwd": "/etc"}])  # of the settings; of own_types
async def test_a_server_with_a_bad_type_ends_with_a_plain_line(tmp_path: Path, bad: Json) -> None:
    with pytest.raises(ServerDiedError) as died:
        async with deck_with(tmp_path, {"crunch": bad}, DeckClient):
            pass
    assert re.fullmatch(r"quarterdeck: .*agents\.types\.crunch\.(command|cwd): .*", str(died.value), re.IGNORECASE)


async def test_the_toml_file_names_types_and_the_tool_lists_them(tmp_path: Path) -> None:
    (tmp_path / "deck.toml").write_text(
        f"[agents.types.crunch]\ncommand = {json.dumps([*PYTHON, '-c', 'print(40 + 2)'])}\n"
        'commands.status = ["python3", "status.py"]\nlimits = { wall = 600, memory_mb = 512, output_kb = 1024 }\n'
    )
    environment = {"QUARTERDECK_CONFIG": str(tmp_path / "deck.toml")}
    async with DeckHere(tmp_path / "deck", environment=environment) as deck:
        tools = {tool.name: tool.description or "" for tool in (await deck.client.list_tools()).tools}
        assert "crunch" in tools["agents_spawn_parallel"]
        [agent] = await spawn(deck, "crunch")
        assert (await ask(deck, agent["agentId"], "go"))["result"] == "42\n"
