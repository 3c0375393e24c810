"""The process runner with real workers: work, pause, death, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.storage.errors import NotFoundError
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners import process as process_runner
from quarterdeck.tools.agents.runners.base import AgentDiedError, AgentSpec, Work, WorkCancelledError, WorkError
from quarterdeck.tools.agents.runners.process import ProcessAgent, ProcessRunner
from tests.until import until

SPEC = AgentSpec("researcher-1", "researcher", "reader", "/nowhere")
TEXT = "# Ships\n\n" + "A deck is a floor of a ship. The crew works on the deck.\n\n" * 50


class Deck:
    """Answers the calls of a worker from a dict."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        if tool == "uploads" and arguments["key"].startswith("uploads/text-"):
            content = b64encode(long_text(int(arguments["key"].rpartition("-")[2])).encode()).decode()
            return {"success": True, "content": content, "type": "text/plain", "size": len(content)}
        if tool == "memory_usage" and arguments["action"] == "store":
            self.stored[arguments["key"]] = arguments["value"]
            return {"success": True}
        raise NotFoundError(f"no {tool} here")


@pytest.fixture
async def deck() -> Deck:
    return Deck()


@pytest.fixture
async def agent(deck: Deck) -> AsyncGenerator[ProcessAgent]:
    agent = await ProcessRunner().start(SPEC, deck.call)
    yield agent
    await agent.end(grace=0)


def work(prompt: str, on_progress: Callable[[dict[str, Any]], None] = lambda _: None) -> Work:
    return Work("q", prompt, on_progress)


async def test_a_worker_works_reports_and_stores_through_the_deck(agent: ProcessAgent, deck: Deck) -> None:
    result = await agent.run(work(TEXT))
    assert result["documents"][0]["title"] == "Ships"
    assert len(deck.stored) == 1
    usage = agent.usage()
    assert usage is not None
    assert usage.cpu_seconds > 0
    assert usage.memory_bytes > 1 << 20


async def test_an_error_of_the_work_is_plain_and_the_worker_lives_on(agent: ProcessAgent) -> None:
    with pytest.raises(WorkError, match=r"fly.*analyze_document"):
        await agent.run(work('{"do": "fly"}'))
    with pytest.raises(WorkError, match="no uploads here"):
        await agent.run(work('{"do": "analyze_document", "upload": "uploads/x"}'))
    assert (await agent.run(work(TEXT)))["documents"][0]["title"] == "Ships"


async def test_the_worker_gets_next_to_nothing_of_the_environment(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_SECRET_KEY", "hush")
    agent = await ProcessRunner().start(SPEC, deck.call)
    environment = psutil.Process(agent.process.pid).environ()
    await agent.end(grace=0)
    assert set(environment) <= set(process_runner.PASSED_ENVIRONMENT)


async def test_a_killed_worker_is_told_to_whoever_waits(agent: ProcessAgent) -> None:
    slow = asyncio.create_task(agent.run(work(compare_prompt())))
    await asyncio.sleep(0)
    os.kill(agent.process.pid, signal.SIGKILL)
    with pytest.raises(AgentDiedError, match="ended by signal 9"):
        await slow
    assert await agent.wait() == "the worker was ended by signal 9"
    assert agent.usage() is None
    with pytest.raises(AgentDiedError):
        await agent.run(work(TEXT))


def long_text(number: int) -> str:
    """One of many different texts of some 20 KB."""
    return "\n\n".join(f"Paragraph {number * p % 977} of text {number} says {number + p}." for p in range(400))


def compare_prompt() -> str:
    """Work for a long time: every pair of many texts."""
    return json.dumps({"do": "compare_documents", "uploads": [f"uploads/text-{n}" for n in range(40)]})


async def start_long_work(agent: ProcessAgent) -> tuple[asyncio.Task[Any], list[dict[str, Any]]]:
    reports: list[dict[str, Any]] = []
    task = asyncio.create_task(agent.run(work(compare_prompt(), reports.append)))
    await until(lambda: len(reports) > 1)
    return task, reports


async def test_a_paused_worker_stands_still_and_goes_on(agent: ProcessAgent) -> None:
    task, reports = await start_long_work(agent)
    outcome = await agent.pause()
    assert outcome.get("status") == "applied"
    process = psutil.Process(agent.process.pid)
    assert process.status() == psutil.STATUS_STOPPED
    await asyncio.sleep(0.05)  # what it had written before may still arrive
    before, count = process.cpu_times(), len(reports)
    await asyncio.sleep(0.3)
    assert process.cpu_times() == before
    assert len(reports) == count
    assert (await agent.resume()).get("status") == "applied"
    await until(lambda: len(reports) > count)
    await agent.cancel("q")
    with pytest.raises(WorkCancelledError):
        await task


async def test_ending_a_paused_worker_leaves_nothing(agent: ProcessAgent) -> None:
    task, _ = await start_long_work(agent)
    await agent.pause()
    await agent.end(grace=0.2)
    with pytest.raises(AgentDiedError):
        await task
    assert processes.find(agent.process) is None


FORKING = (
    "import os, time, signal\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "for _ in range(3):\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        break\n"
    "print('up', flush=True)\n"
    "while True: pass\n"
)


async def tree_of_four() -> tuple[asyncio.subprocess.Process, psutil.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, stdout=asyncio.subprocess.PIPE)
    root = psutil.Process(process.pid)
    assert process.stdout is not None
    for _ in range(4):
        await process.stdout.readline()
    return process, root


async def test_a_whole_tree_stops_goes_on_and_ends_whatever_its_sessions_and_signals() -> None:
    process, root = await tree_of_four()
    members = processes.tree(root)
    assert len(members) == 4
    frozen = await processes.freeze(root)
    assert frozen is not None
    assert frozen.pids == sorted(member.pid for member in members)
    before = processes.cpu_seconds(members)
    await asyncio.sleep(0.2)
    assert processes.cpu_seconds(members) == before
    assert await processes.thaw(root)
    await until(lambda: processes.cpu_seconds(members) > before)
    await processes.end(root, grace=0.05)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)
    await process.wait()


async def test_a_number_that_was_given_to_another_process_is_not_taken_for_the_first() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    identity = processes.identify(process.pid)
    assert processes.find(identity) is not None
    later = replace(identity, started=identity.started + 10)
    assert processes.find(later) is None
    assert processes.has_ended(later)
    elsewhere = replace(identity, host="another host")
    assert processes.find(elsewhere) is None
    assert not processes.has_ended(elsewhere)  # nothing is known of it
    process.kill()
    await process.wait()
    assert processes.find(identity) is None


def workers() -> list[psutil.Process]:
    """Workers that this test process has started and that still run."""
    return [child for child in psutil.Process().children() if "-I" in child.cmdline()]


@pytest.fixture
def worker_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace the worker's program, as a broken or hostile worker would behave."""

    def replace(code: str) -> None:
        (tmp_path / "w.py").write_text(code)
        monkeypatch.setattr(process_runner, "_BOOTSTRAP", f"exec(open({str(tmp_path / 'w.py')!r}).read())")

    return replace


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('hello')", "broke the protocol"),
        ("import sys; sys.exit('out of luck')", "exited with code 1: out of luck"),
        ("raise SystemExit(0)", "exited with code 0"),
        ('print(\'{"type": "ready", "protocol": 99}\'); input()', "protocol 99 instead of 1"),
        ("print('[1]')", "broke the protocol"),
        ("print('[' * 100_000)", "broke the protocol"),
    ],
)
async def test_a_broken_worker_is_a_plain_failure(
    worker_script: Callable[[str], None], deck: Deck, code: str, reason: str
) -> None:
    worker_script(code)
    with pytest.raises(AgentDiedError, match=reason):
        await ProcessRunner().start(SPEC, deck.call)


async def test_a_worker_that_has_ended_before_anyone_looks_is_a_plain_failure(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(processes, "identify", nobody)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(AgentDiedError, match="exited with code 1"):
        await ProcessRunner().start(SPEC, deck.call)


async def test_the_end_of_a_worker_is_seen_while_a_child_of_it_holds_its_pipes(
    worker_script: Callable[[str], None], deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_runner, "DRAIN_TIMEOUT", 0.05)
    worker_script(
        "import os, subprocess, sys\n"
        "sys.stdin.readline()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        'print(\'{"type": "ready", "protocol": 1}\')\n'
        "print(child.pid, file=sys.stderr)\n"
        "sys.stdin.readline()\n"
        "os._exit(3)\n"
    )
    agent = await ProcessRunner().start(SPEC, deck.call)
    with pytest.raises(AgentDiedError, match=r"exited with code 3: \d+") as caught:
        await asyncio.wait_for(agent.run(work("x")), 20)
    os.kill(int(str(caught.value).rpartition(" ")[2]), signal.SIGKILL)


async def test_a_defect_behind_a_call_is_answered(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_tool: str, _arguments: dict[str, Any]) -> Any:
        raise RuntimeError("boom")

    agent = await ProcessRunner().start(SPEC, broken)
    with pytest.raises(WorkError, match="an internal error"):
        await asyncio.wait_for(agent.run(work(TEXT)), 20)
    assert "boom" in caplog.text
    await agent.end(grace=0)


async def test_cancelling_does_not_wait_for_a_frozen_worker_to_read(agent: ProcessAgent) -> None:
    await agent.pause()
    task = asyncio.create_task(agent.run(work("word " * 100_000)))  # more than a pipe takes
    await asyncio.sleep(0)
    await asyncio.wait_for(agent.cancel("q"), 20)
    await agent.resume()
    with pytest.raises(WorkCancelledError):
        await task


async def test_a_worker_that_never_gets_ready_is_ended(
    worker_script: Callable[[str], None], deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_script("import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    monkeypatch.setattr(process_runner, "READY_TIMEOUT", 0.3)
    with pytest.raises(AgentDiedError, match=r"not ready within 0\.3 s"):
        await ProcessRunner().start(SPEC, deck.call)
    assert workers() == []


async def test_a_worker_that_floods_its_pipe_is_ended(
    worker_script: Callable[[str], None], deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_runner, "MAX_LINE", 1 << 16)
    worker_script("while True: print('x' * 100_000, end='')")
    with pytest.raises(AgentDiedError, match="broke the protocol"):
        await ProcessRunner().start(SPEC, deck.call)
    assert workers() == []
