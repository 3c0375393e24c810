"""The supervisor with real trees: whatever sessions, forks and signals they play with, nothing survives."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners import supervisor as supervisor_module
from quarterdeck.tools.agents.runners.base import AgentDiedError, AgentSpec
from quarterdeck.tools.agents.runners.children import Child
from quarterdeck.tools.agents.runners.process import ProcessAgent, ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor, is_supported
from tests.until import until
from tests.work import work

pytestmark = pytest.mark.skipif(not is_supported(), reason="no child subreaper here")

SPEC = AgentSpec("researcher-1", "researcher", "reader", "/nowhere")
SLEEP = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
TREES = {
    "child": "import os\nos.fork()\n",
    "own session": "import os\nif os.fork() == 0: os.setsid()\n",
    "double fork": "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n",
    "scrubbed": "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
    "    os.execve('/bin/sleep', ['sleep', '600'], {})\n",
}
CHAIN = "import os, time\nprint('up', flush=True)\nwhile True:\n    if os.fork(): os._exit(0)\n    time.sleep(0.0005)\n"


@pytest.fixture
async def supervisor() -> AsyncGenerator[Supervisor]:
    supervisor = Supervisor(processes.identify(os.getpid()))
    yield supervisor
    await supervisor.close()


async def start(supervisor: Supervisor, code: str) -> Child:
    order: dict[str, Any] = {"command": [sys.executable, "-I", "-S", "-c", code], "cwd": "/", "env": {}, "limits": {}}
    return await supervisor.start(order, limit=1000)


def family(supervisor: Supervisor) -> list[psutil.Process]:
    """Everything that the supervisor has started and that is not dead."""
    assert supervisor.pid is not None
    members = psutil.Process(supervisor.pid).children(recursive=True)
    return [member for member in members if is_alive(member)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("tree", TREES)
async def test_what_a_worker_leaves_behind_is_ended(supervisor: Supervisor, tree: str) -> None:
    child = await start(supervisor, TREES[tree] + SLEEP)
    await child.stdout.readline()
    await until(lambda: len(family(supervisor)) == 2)
    members = family(supervisor)
    os.kill(child.pid, signal.SIGKILL)
    assert (await child.exited).code == -signal.SIGKILL
    await asyncio.wait_for(child.cleared, 20)
    assert not any(map(is_alive, members))
    child.close()


async def test_what_loses_its_parent_stays_in_its_agents_tree(supervisor: Supervisor) -> None:
    child = await start(supervisor, TREES["double fork"] + SLEEP)
    await until(lambda: len(processes.tree(psutil.Process(child.pid))) >= 2)  # with one between them, ended or not
    frozen = await processes.freeze(psutil.Process(child.pid))
    assert frozen is not None
    assert len(frozen.pids) >= 2
    await processes.end(psutil.Process(child.pid), grace=0)
    await asyncio.wait_for(child.cleared, 20)
    child.close()


async def test_the_exit_code_and_the_cpu_time_are_told(supervisor: Supervisor) -> None:
    busy = "import sys, time\nwhile time.process_time() < 0.2: pass\nsys.exit(7)"
    child = await start(supervisor, busy)
    ended = await child.exited
    assert ended.code == 7
    assert ended.cpu_seconds is not None
    assert 0.2 <= ended.cpu_seconds < 2
    child.close()


async def test_a_fork_gets_ready_beside_others_and_holds_no_pipe_of_theirs(supervisor: Supervisor) -> None:
    children = await asyncio.gather(*(start(supervisor, "import sys; print(sys.stdin.read())") for _ in range(20)))
    for child in children:
        child.stdin.write_eof()
        await asyncio.wait_for(child.stdout.read(), 20)
        assert (await child.exited).code == 0
        child.close()


async def test_a_cancelled_start_leaves_no_process(supervisor: Supervisor) -> None:
    await supervisor.warm_up()
    for turns in range(12):
        starting = asyncio.create_task(start(supervisor, SLEEP))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(outcome, Child):
            os.kill(outcome.pid, signal.SIGKILL)
            outcome.close()
    await until(lambda: family(supervisor) == [])


async def test_signals_of_a_terminal_do_not_end_the_supervisor_but_do_end_workers(supervisor: Supervisor) -> None:
    child = await start(supervisor, "print('up', flush=True); import time; time.sleep(600)")
    await child.stdout.readline()
    assert supervisor.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(supervisor.pid, number)
    os.kill(child.pid, signal.SIGTERM)
    assert (await child.exited).code == -signal.SIGTERM
    child.close()


async def test_a_killed_supervisor_takes_everything_along_and_the_next_start_works(supervisor: Supervisor) -> None:
    agent = await ProcessRunner(supervisor).start(SPEC, no_calls)
    child = await start(supervisor, TREES["double fork"] + SLEEP)
    await child.stdout.readline()
    await until(lambda: len(family(supervisor)) == 3)
    members = family(supervisor)
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    assert (await child.exited).code is None
    assert await agent.wait() == "the worker was ended with its supervisor"
    with pytest.raises(AgentDiedError):
        await agent.run(work("x"))
    again = await ProcessRunner(supervisor).start(SPEC, no_calls)
    assert not any(map(is_alive, members))
    await again.end(grace=1)
    await agent.end(grace=1)
    child.close()


async def no_calls(tool: str, arguments: dict[str, Any]) -> Any:
    raise AssertionError(tool)


async def test_starts_in_the_moment_of_its_death_are_plain_failures(supervisor: Supervisor) -> None:
    await supervisor.warm_up()
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGSTOP)
    starting = [asyncio.create_task(start(supervisor, SLEEP)) for _ in range(30)]
    await asyncio.sleep(0.05)
    os.kill(supervisor.pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*starting, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {OSError, BrokenPipeError, Child}
    assert any(isinstance(outcome, OSError) for outcome in outcomes)
    for outcome in outcomes:
        if isinstance(outcome, Child):  # those that came late were served by the next supervisor
            os.kill(outcome.pid, signal.SIGKILL)
            await outcome.exited
            outcome.close()


async def test_files_and_processes_stay_flat_over_many_starts(supervisor: Supervisor) -> None:
    async def round_trip() -> None:
        agent = await ProcessRunner(supervisor).start(SPEC, no_calls)
        assert isinstance(agent, ProcessAgent)
        await agent.end(grace=1)

    await round_trip()
    assert supervisor.pid is not None
    its, mine = psutil.Process(supervisor.pid), psutil.Process()
    before = its.num_fds(), mine.num_fds()
    for _ in range(20):
        await asyncio.gather(*(round_trip() for _ in range(5)))
    assert family(supervisor) == []
    await until(lambda: (its.num_fds(), mine.num_fds()) == before)


# What stands for a server: it starts trees, says which, and waits to be killed.
SERVER = """
import asyncio, os, sys
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.supervisor import Supervisor
import psutil

async def main():
    supervisor = Supervisor(processes.identify(os.getpid()))
    for code in sys.argv[1:]:
        order = {"command": [sys.executable, "-I", "-S", "-c", code], "cwd": "/", "env": {}, "limits": {}}
        child = await supervisor.start(order, limit=1000)
        await child.stdout.readline()
        await asyncio.sleep(0.05)
        if code is sys.argv[-1]:
            await processes.freeze(psutil.Process(child.pid))
    print(*(process.pid for process in psutil.Process().children(recursive=True)), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_nothing_survives_a_server_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    trees = [*(tree + SLEEP for tree in TREES.values()), CHAIN, TREES["double fork"] + SLEEP]
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "server.py"), *trees, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    members = [
        psutil.Process(int(pid)) for pid in (await server.stdout.readline()).split() if psutil.pid_exists(int(pid))
    ]
    owner = processes.identify(server.pid)
    assert len(members) >= 9
    assert any(member.status() == psutil.STATUS_STOPPED for member in members if is_alive(member))
    server.kill()
    await until(lambda: not any(map(is_alive, members)), seconds=10)
    assert processes.marked(owner) == []
    await server.wait()


async def test_an_order_that_cannot_be_sent_is_a_plain_failure(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="Message too long"):
        await supervisor.start({"type": "x" * (1 << 20)}, limit=1000)
    monkeypatch.setattr(supervisor_module, "END_TIMEOUT", 20.0)
    agent = await ProcessRunner(supervisor).start(SPEC, no_calls)
    await agent.end(grace=1)
