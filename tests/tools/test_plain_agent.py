"""Agents of the plain protocol, on both ways to start processes: odd programs and odd moments."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.base import AgentDiedError, AgentSpec, WorkCancelledError, WorkError
from quarterdeck.tools.agents.runners.children import Child, Children, Order, Subprocesses
from quarterdeck.tools.agents.runners.commands import CommandType, Limits
from quarterdeck.tools.agents.runners.plain import PlainAgent
from quarterdeck.tools.agents.runners.process import ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor
from tests.until import until
from tests.work import work


@pytest.fixture(params=["supervisor", "subprocesses"])
async def children(request: pytest.FixtureRequest) -> AsyncGenerator[Children]:
    owner = processes.identify(os.getpid())
    children = Supervisor(owner) if request.param == "supervisor" else Subprocesses(owner)
    yield children
    await children.close()


async def plain(
    children: Children, folder: Path, code: str, commands: Mapping[str, list[str]] | None = None, **limits: Any
) -> PlainAgent:
    run = [sys.executable, "-I", "-S", "-u", "-c", code]
    command = CommandType(command=run, limits=Limits(**limits), commands=dict(commands or {}))
    spec = AgentSpec("crunch-1", "crunch", "c", str(folder))

    async def no_calls(tool: str, arguments: dict[str, Any]) -> Any:
        raise AssertionError(tool)

    agent = await ProcessRunner(children, {"crunch": command}).start(spec, no_calls)
    assert isinstance(agent, PlainAgent)
    return agent


async def test_a_long_prompt_comes_back_whole_and_may_be_ignored(children: Children, tmp_path: Path) -> None:
    prompt = "Ümläut 漢字 🚢 " * 40_000
    copies = await plain(children, tmp_path, "import sys; sys.stdout.write(sys.stdin.read())", output_kb=2048)
    assert await copies.run(work(prompt)) == prompt
    ignores = await plain(children, tmp_path, "print('done')")
    assert await ignores.run(work(prompt)) == "done\n"


async def test_a_child_that_holds_stdout_does_not_hold_the_answer(children: Children, tmp_path: Path) -> None:
    code = "import os, time\nprint('answer', flush=True)\nif os.fork() == 0: time.sleep(3)\n"
    agent = await plain(children, tmp_path, code, wall=60)
    assert await asyncio.wait_for(agent.run(work()), 2.5) == "answer\n"


async def test_work_that_is_cancelled_before_its_command_runs_does_not_run(children: Children, tmp_path: Path) -> None:
    agent = await plain(children, tmp_path, "open('ran', 'w').close(); print('ran')")
    await agent.cancel("q")
    with pytest.raises(WorkCancelledError):
        await agent.run(work())
    assert not (tmp_path / "ran").exists()
    assert await agent.run(work(work_id="another")) == "ran\n"


async def test_a_command_that_ignores_sigterm_is_ended_with_its_agent(children: Children, tmp_path: Path) -> None:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nopen('up', 'w').close()\ntime.sleep(600)"
    agent = await plain(children, tmp_path, code)
    working = asyncio.create_task(agent.run(work()))
    await until((tmp_path / "up").exists)
    assert agent.process is not None
    usage = agent.usage()
    assert usage is not None
    assert usage.memory_bytes
    process = psutil.Process(agent.process.pid)
    await agent.end(grace=0.05)
    with pytest.raises(AgentDiedError, match="it was ended"):
        await working
    assert not process.is_running()
    assert await agent.wait() == "it was ended"
    with pytest.raises(AgentDiedError):
        await agent.run(work())


async def test_a_flood_is_stopped_and_held_nowhere(children: Children, tmp_path: Path) -> None:
    agent = await plain(children, tmp_path, "while True: print('x' * 65536, end='')", output_kb=100)
    before = psutil.Process().memory_info().rss
    with pytest.raises(WorkError, match="longer than 100 KB"):
        await agent.run(work())
    assert psutil.Process().memory_info().rss - before < 8 << 20


async def test_stderr_without_end_is_not_held(children: Children, tmp_path: Path) -> None:
    code = "import sys\nfor _ in range(2000): sys.stderr.write('x' * 10_000)\nsys.exit('\\nthe end')"
    agent = await plain(children, tmp_path, code)
    before = psutil.Process().memory_info().rss
    with pytest.raises(WorkError, match="exited with code 1: the end"):
        await agent.run(work())
    assert psutil.Process().memory_info().rss - before < 8 << 20


async def test_the_memory_of_a_command_that_has_ended_is_unknown(children: Children, tmp_path: Path) -> None:
    agent = await plain(children, tmp_path, "print('done')")
    await agent.run(work())
    usage = agent.usage()
    assert usage is None or usage.memory_bytes is None


async def test_a_pause_where_no_command_runs_is_at_once_and_none_of_the_next_one(
    children: Children, tmp_path: Path
) -> None:
    agent = await plain(children, tmp_path, "print('done')")
    for work_id in ("first", "second"):
        outcome = await asyncio.wait_for(agent.pause("freeze"), 5)
        assert (outcome.get("status"), outcome.get("observed")) == ("applied", {"state": "no command runs"})
        assert (await agent.resume()).get("status") == "applied"
        assert await asyncio.wait_for(agent.run(work(work_id=work_id)), 20) == "done\n"


class Held:
    """Starts processes when `gate` is open."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self.gate = asyncio.Event()

    async def start(self, order: Order, *, limit: int) -> Child:
        await self.gate.wait()
        return await self._children.start(order, limit=limit)

    async def warm_up(self) -> None:
        return None

    async def close(self) -> None:
        return None


async def test_a_pause_while_the_command_starts_waits_for_it_and_stops_it(children: Children, tmp_path: Path) -> None:
    held = Held(children)
    agent = await plain(held, tmp_path, "import time; time.sleep(600)")
    working = asyncio.create_task(agent.run(work()))
    await asyncio.sleep(0)
    given_up = asyncio.create_task(agent.pause("freeze"))
    await asyncio.sleep(0)
    assert (await agent.resume()).get("status") == "applied"
    pausing = asyncio.create_task(agent.pause("freeze"))
    await asyncio.sleep(0)
    assert not pausing.done()
    held.gate.set()
    assert (await given_up).get("status") == "failed"
    assert (await pausing).get("observed", {})["state"] == "stopped"
    await agent.resume()
    await agent.cancel("q")
    with pytest.raises(WorkCancelledError):
        await working


async def test_a_command_beside_the_work_ends_with_its_agent(children: Children, tmp_path: Path) -> None:
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); os.rename('pid', 'up'); time.sleep(600)"
    command = CommandType(command=["true"], commands={"long": [sys.executable, "-I", "-S", "-c", code]})

    async def no_calls(tool: str, arguments: dict[str, Any]) -> Any:
        raise AssertionError(tool)

    spec = AgentSpec("crunch-1", "crunch", "c", str(tmp_path))
    agent = await ProcessRunner(children, {"crunch": command}).start(spec, no_calls)
    running = asyncio.create_task(agent.execute_command("long"))
    await until((tmp_path / "up").exists)
    process = psutil.Process(int((tmp_path / "up").read_text()))
    await agent.end(grace=0)
    assert (await asyncio.wait_for(running, 20)).get("status") == "failed"
    assert not process.is_running()


async def test_what_is_ended_has_used_what_it_used(children: Children, tmp_path: Path) -> None:
    burn = "while time.process_time() < 0.3: pass"
    code = f"import os, time\nif os.fork(): time.sleep(600)\n{burn}\nopen('burnt', 'w')\ntime.sleep(600)"
    agent = await plain(children, tmp_path, code)
    working = asyncio.create_task(agent.run(work()))
    await until((tmp_path / "burnt").exists)
    await agent.cancel("q")
    with pytest.raises(WorkCancelledError):
        await working
    usage = agent.usage()
    assert usage is None or usage.cpu_seconds >= 0.25  # counted in ticks
