"""macOS and Windows, by injection: nothing that they lack is needed, and the deck does its work without it.

Neither system was at hand. What only they have (their signals, file locks, consoles) is a stand-in here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from quarterdeck.server.client import DeckClient
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.children import Subprocesses
from quarterdeck.tools.agents.worker.launch import CANNOT_RUN
from tests.server.command import run
from tests.servers.disguise import System, disguised
from tests.until import until

SYSTEMS: tuple[System, ...] = get_args(System)
TYPES = {
    "sleeps": {"command": [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]},
    "leaves": {  # something that loses its parent
        "command": [sys.executable, "-c", "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(600)"]
    },
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_every_module_can_be_imported() -> None:
    done = python("from tests.servers.disguise import import_everything; print(import_everything())")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
async def test_the_whole_path_without_what_the_system_lacks(system: System, tmp_path: Path) -> None:
    text = tmp_path / "ships.md"
    text.write_text("# Ships\n\nA deck is a floor of a ship.\n", encoding="utf-8")
    environment = disguised(system, tmp_path / "site") | {"QUARTERDECK_AGENTS": json.dumps({"types": TYPES})}
    async with DeckClient(tmp_path / "deck", environment=environment, cwd=tmp_path) as deck:
        await deck.call("memory_usage", action="store", key="schlüssel", value="Größe 🚢")
        assert (await deck.call("memory_usage", action="retrieve", key="schlüssel"))["value"] == "Größe 🚢"
        [file] = (await deck.call("upload", files=[{"path": "ships.md"}], index="library"))["files"]
        [[hit]] = (await deck.call("vector_search", collection="library", query="deck"))["results"]
        assert hit["payload"]["key"] == file["path"]

        agents = [{"type": kind, "name": kind} for kind in ("researcher", "sleeps", "leaves")]
        spawned = (await deck.call("agents_spawn_parallel", agents=agents))["results"]
        reader, sleeper, leaver = (agent["agentId"] for agent in spawned)
        prompt = json.dumps({"do": "analyze_document", "upload": file["path"]})
        await deck.call("query_start", agentId=reader, prompt=prompt, queryId="read")
        await deck.call("query_start", agentId=leaver, prompt="go", queryId="leave")
        done = await deck.call("query_wait", queryIds=["read", "leave"])
        assert [result["status"] for result in done["results"]] == ["completed"] * 2

        await deck.call("query_start", agentId=sleeper, prompt="go", queryId="sleep")
        server = psutil.Process((await deck.call("server_status"))["pid"])
        await until(lambda: [child for child in server.children() if "time.sleep" in str(child.cmdline())])
        paused = await deck.call("query_control", action="pause", queryId="sleep")
        assert (paused["status"], paused["level"]) == ("applied", "freeze")
        stopped = [psutil.Process(pid) for pid in paused["observed"]["pids"]]
        assert {process.status() for process in stopped} == {psutil.STATUS_STOPPED}
        assert set(stopped) < set(server.children(recursive=True)), "there is no supervisor"
        assert (await deck.call("query_control", action="resume", queryId="sleep"))["status"] == "applied"
        ended = await deck.call("query_control", action="terminate", queryId="sleep")
        assert ended["observed"]["status"] == "terminated"
        assert not any(map(psutil.Process.is_running, stopped))

        owner = processes.identify(server.pid)
        left = [process for process in processes.marked(owner) if "os.setsid" in str(process.cmdline())]
        assert left, "what lost its parent still runs"
        server.send_signal(signal.SIGINT)
        await until(lambda: not server.is_running())
        assert processes.marked(owner) == []
        assert '"SIGINT: ending"' in deck.stderr
        assert '"level": "ERROR"' not in deck.stderr


@pytest.mark.parametrize(
    ("order", "code", "told"),
    [
        ({"command": [sys.executable, "-c", "import os; print(os.getcwd(), sorted(os.environ)); exit(7)"]}, 7, ""),
        ({"command": ["no-such-program"]}, CANNOT_RUN, "cannot run 'no-such-program'"),
        ({"command": ["true"], "limits": {"RLIMIT_AS": 1 << 30}}, CANNOT_RUN, "has no limits of memory"),
    ],
)
def test_a_command_where_no_process_becomes_another(
    order: dict[str, object], code: int, told: str, tmp_path: Path
) -> None:
    order = {"cwd": str(tmp_path), "env": {"LANG": "C"}, "limits": {}} | order
    done = python(
        "import sys; sys.platform = 'win32'; sys.modules['resource'] = None\n"
        f"from quarterdeck.tools.agents.worker.launch import main; sys.exit(main({json.dumps(order)!r}))"
    )
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    if code == 7:
        assert done.stdout.split(" ", 1)[0] == str(tmp_path)
        assert "HOME" not in done.stdout


async def test_what_subprocesses_leave_behind_ends_with_them(tmp_path: Path) -> None:
    owner = processes.identify(os.getpid())
    children = Subprocesses(owner)
    order: dict[str, Any] = {"command": TYPES["leaves"]["command"], "cwd": str(tmp_path), "env": {}, "limits": {}}
    child = await children.start(order, limit=1000)
    await asyncio.wait_for(child.exited, 20)
    child.close()
    assert [process.status() for process in processes.marked(owner)] == [psutil.STATUS_SLEEPING]
    await children.close()
    assert processes.marked(owner) == []


def test_the_lock_of_a_folder_where_there_is_no_flock(tmp_path: Path) -> None:
    """By a stand-in for msvcrt, which refuses as the real one does."""
    done = python(
        "import sys, types; sys.platform = 'win32'; sys.modules['fcntl'] = None\n"
        "from pathlib import Path\n"
        "held = set()\n"
        "def locking(descriptor, mode, length):\n"
        "    if held: raise PermissionError(13, 'Permission denied')\n"
        "    held.add((mode, length))\n"
        "sys.modules['msvcrt'] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)\n"
        "from quarterdeck.tools.agents.builtin.exports import lock, sync_folder\n"
        f"folder = Path({str(tmp_path)!r}); sync_folder(folder / 'no such folder')\n"
        "with lock(folder):\n"
        "    assert held == {(2, 1)}\n"
        "    try:\n"
        "        with lock(folder): print('twice')\n"
        "    except Exception as exc: print(exc)\n"
    )
    assert done.stdout == "another agent is at work in this type's folder; try again when it is done\n", done.stderr


def test_output_is_utf_8_whatever_the_console_speaks(tmp_path: Path) -> None:
    name = "Größe 🚢 \udcff"  # the last is what Python makes of a byte that is no UTF-8
    done = run("config", tmp_path / "deck", PYTHONIOENCODING="cp437", QUARTERDECK_UPLOAD_ROOTS=name)
    assert done.returncode == 0, done.stderr
    assert "QUARTERDECK_UPLOAD_ROOTS=Größe 🚢 \\udcff  # environment\n" in done.stdout
