"""Controls through the real server, on processes that can be looked at, from the owner and from another server."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from tests.here import DeckHere
from tests.until import until

Json = dict[str, Any]
PYTHON = [sys.executable, "-I", "-S", "-u"]

# Works in steps, one a line of the file `steps`; can be held between two of them and told another model.
STEPPER = """
import json, os, sys, threading, time
def say(**message): print(json.dumps(message), flush=True)
go, held, model, task = threading.Event(), threading.Event(), ["tiny-1"], []
go.set()
def work():
    said = None
    for step in range(1_000_000):
        if os.path.exists("end"):
            return say(type="result", id=task[0], result=step)
        if not go.is_set():
            say(type="held", id=task[0])
            go.wait()
            say(type="released", id=task[0])
        if model[0] != said:
            said = model[0]
            say(type="model", id=task[0], model=said)
        with open("steps", "a") as file:
            file.write(f"{step}\\n")
        time.sleep(0.005)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "start":
        say(type="ready", protocol=1, capabilities=[], controls=["hold", "set_model"])
    elif message["type"] == "task":
        task[:] = [message["id"]]
        threading.Thread(target=work, daemon=True).start()
    elif message["type"] == "hold":
        go.clear()
    elif message["type"] == "release":
        go.set()
    elif message["type"] == "set_model":
        model[0] = message["model"]
    elif message["type"] == "cancel":
        say(type="cancelled", id=message["id"])
"""
SLOW = "import time; time.sleep(600)"
COMMANDS = {
    "where": [*PYTHON, "-c", "import os; print(os.getcwd(), os.environ.get('SHOWN'), os.environ.get('HIDDEN'))"],
    "flood": [*PYTHON, "-c", "print('x' * 3_000_000)"],
    "fail": [*PYTHON, "-c", "import sys; print('out', file=sys.stderr); sys.exit(4)"],
    "slow": [*PYTHON, "-c", SLOW],
    "none": ["/no/such/program"],
}


def environment(folder: Path, wall: int = 2) -> dict[str, str]:
    types: Json = {
        "stepper": {
            "protocol": "jsonl",
            "command": [*PYTHON, "-c", STEPPER],
            "cwd": "work",
            "env": ["SHOWN"],
            "commands": COMMANDS,
            "limits": {"wall": wall, "output_kb": 64},
        }
    }
    (folder / "work").mkdir(exist_ok=True)
    return {
        "QUARTERDECK_AGENTS": json.dumps({"types": types, "widest_mode": {"stepper": "acceptEdits"}}),
        "QUARTERDECK_UPLOAD_ROOTS": str(folder),
        "SHOWN": "yes",
        "HIDDEN": "no",
    }


async def begin(deck: DeckClient, **options: Any) -> psutil.Process:
    """A stepper at work as query `q`; its process."""
    answer = await deck.call("agents_spawn_parallel", agents=[{"type": "stepper", "name": "s"}])
    [agent] = answer["results"]
    await deck.call("query_start", agentId=agent["agentId"], prompt="go", queryId="q", **options)
    listed = await deck.call("agents_list", agentId=agent["agentId"])
    return psutil.Process(listed["agents"][0]["pid"])


async def control(deck: DeckClient, action: str, **options: Any) -> Json:
    return await deck.call("query_control", action=action, queryId="q", **options)


async def the_query(deck: DeckClient) -> Json:
    [query] = (await deck.call("query_list", includeHistory=True))["queries"]
    return query


def steps(folder: Path) -> list[int]:
    path = folder / "work" / "steps"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("elsewhere", [False, True], ids=["owner", "other server"])
async def test_a_working_process_is_held_frozen_and_let_go_without_loss(tmp_path: Path, elsewhere: bool) -> None:
    async with (
        DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as owner,
        DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as other,
    ):
        process = await begin(owner)
        deck = other if elsewhere else owner
        await until(lambda: len(steps(tmp_path)) > 3)
        for level, state in (("freeze", psutil.STATUS_STOPPED), ("hold", psutil.STATUS_SLEEPING)):
            outcome = await control(deck, "pause", level=level)
            assert (outcome["status"], outcome["level"], outcome["lossless"]) == ("applied", level, True)
            assert process.status() == state
            before, spent = steps(tmp_path), process.cpu_times()
            assert (await the_query(deck))["status"] == "paused"
            assert (steps(tmp_path), process.cpu_times()) == (before, spent)
            assert (await control(deck, "resume"))["status"] == "applied"
            await until(lambda before=before: len(steps(tmp_path)) > len(before))
        (tmp_path / "work" / "end").touch()
        answer = await deck.call("query_wait", queryIds=["q"])
        done = steps(tmp_path)
        assert done == list(range(len(done)))  # each step once, none left out
        assert answer["results"][0]["result"] == len(done)


async def test_a_worker_that_declares_it_changes_its_model_when_it_says_so(tmp_path: Path) -> None:
    async with DeckHere(tmp_path / "deck", environment=environment(tmp_path)) as deck:
        await begin(deck)
        assert (await control(deck, "change_model", model="huge-1"))["status"] == "queued"

        async def changed() -> bool:
            return (await the_query(deck))["model"] == "huge-1"

        await until(changed)
        assert (await control(deck, "change_model", model="huge-1"))["status"] == "applied"


async def test_commands_run_by_name_in_the_agents_folder_and_environment(tmp_path: Path) -> None:
    async with DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as deck:
        process = await begin(deck)
        await control(deck, "pause")
        ran = (await control(deck, "execute_command", command="where"))["observed"]
        assert (ran["exitCode"], ran["stdout"]) == (0, f"{tmp_path / 'work'} yes None\n")
        assert process.status() == psutil.STATUS_STOPPED
        flood = (await control(deck, "execute_command", command="flood"))["observed"]
        assert (len(flood["stdout"]), flood["truncated"]) == (32 << 10, True)
        for command, complaint in (
            ("fail", "exited with code 4"),
            ("slow", "was ended after 2 s"),
            ("none", "exited with code 127"),
            ("rm -rf /", r"unknown command 'rm -rf /' \(valid: where, flood, fail, slow, none\)"),
        ):
            with pytest.raises(ToolRefusedError, match=complaint) as refused:
                await control(deck, "execute_command", command=command)
            if command == "fail":
                assert refused.value.answer["observed"]["stderr"] == "out\n"
        assert not slow_ones(psutil.Process())


async def test_permissions_of_a_running_query_change_from_any_server(tmp_path: Path) -> None:
    async with (
        DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as owner,
        DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as other,
    ):
        await begin(owner)
        for mode in ("plan", "acceptEdits"):
            assert (await control(other, "change_permissions", permissionMode=mode))["status"] == "applied"
            assert (await the_query(other))["permissionMode"] == mode
        with pytest.raises(ToolRefusedError, match="wider than the agent's default") as refused:
            await control(other, "change_permissions", permissionMode="bypassPermissions")
        assert refused.value.answer["code"] == "denied"


async def test_a_query_of_a_server_that_was_killed_says_what_can_be_done(tmp_path: Path) -> None:
    async with DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as other:
        async with DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as owner:
            await begin(owner)
            await owner.kill()
        with pytest.raises(ToolRefusedError, match=r"lost its server|is interrupted") as refused:
            await control(other, "pause")
        assert refused.value.answer["code"] == "conflict"

        async def interrupted() -> bool:
            return (await the_query(other))["status"] == "interrupted"

        await until(interrupted)
        with pytest.raises(ToolRefusedError, match="kept no session; spawn a new one"):
            await control(other, "resume")


async def test_whoever_asked_a_server_that_is_killed_before_it_answers_hears_it_soon(tmp_path: Path) -> None:
    long = environment(tmp_path, wall=600)
    async with DeckClient(tmp_path / "deck", environment=long) as other:
        async with DeckClient(tmp_path / "deck", environment=long) as owner:
            await begin(owner)
            server = psutil.Process((await owner.call("server_status"))["pid"])
            asking = asyncio.create_task(control(other, "execute_command", command="slow"))
            await until(lambda: slow_ones(server))
            assert not asking.done()  # it was taken, and is at work
            await owner.kill()
        with pytest.raises(ToolRefusedError, match="lost its server") as refused:
            await asyncio.wait_for(asking, 20)  # not the minute that an answer may take
        assert refused.value.answer["code"] == "conflict"


def slow_ones(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if SLOW in arguments(child)]


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


async def test_two_servers_that_control_at_once_leave_one_state(tmp_path: Path) -> None:
    async with (
        DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as owner,
        DeckClient(tmp_path / "deck", environment=environment(tmp_path)) as other,
    ):
        process = await begin(owner)
        for _ in range(5):
            pauses = await asyncio.gather(*(control(deck, "pause") for deck in (owner, other)))
            assert [pause["status"] for pause in pauses] == ["applied", "applied"]
            assert process.status() == psutil.STATUS_STOPPED
            resumes = await asyncio.gather(*(control(deck, "resume") for deck in (other, owner)))
            assert [resume["status"] for resume in resumes] == ["applied", "applied"]
            assert process.status() != psutil.STATUS_STOPPED
        ends = await asyncio.gather(*(control(deck, "terminate") for deck in (owner, other)))
        assert [end["status"] for end in ends] == ["applied", "applied"]
        assert (await the_query(other))["status"] == "terminated"
