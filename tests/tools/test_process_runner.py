"""The process runner with real workers: work, pause, death, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.storage.errors import NotFoundError
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners import process as process_runner
from quarterdeck.tools.agents.runners.base import (
    AgentDiedError,
    AgentSpec,
    CallDeck,
    WorkCancelledError,
    WorkError,
)
from quarterdeck.tools.agents.runners.children import PASSED_ENVIRONMENT, Children, Subprocesses
from quarterdeck.tools.agents.runners.commands import CommandType, Limits
from quarterdeck.tools.agents.runners.process import ProcessAgent, ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor
from quarterdeck.tools.agents.worker.launch import MARK
from tests.until import until
from tests.work import work

SPEC = AgentSpec("researcher-1", "researcher", "reader", "/nowhere", cwd="/")
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


@pytest.fixture(params=["supervisor", "subprocesses"])
async def children(request: pytest.FixtureRequest) -> AsyncGenerator[Children]:
    """Both ways to start processes."""
    owner = processes.identify(os.getpid())
    children = Supervisor(owner) if request.param == "supervisor" else Subprocesses(owner)
    yield children
    await children.close()


@pytest.fixture
async def agent(children: Children, deck: Deck) -> AsyncGenerator[ProcessAgent]:
    agent = await start(children, deck.call)
    yield agent
    await agent.end(grace=0)


async def start(children: Children, call: CallDeck, command: CommandType | None = None) -> ProcessAgent:
    """An agent of the type `researcher`, or of one whose worker `command` is."""
    agent = await ProcessRunner(children, {"researcher": command} if command else {}).start(SPEC, call)
    assert isinstance(agent, ProcessAgent)
    return agent


def worker(code: str, **options: Any) -> CommandType:
    """A worker program as a user would configure it, broken or hostile."""
    command = [sys.executable, "-I", "-S", "-E", "-u", "-c", code]
    return CommandType(protocol="jsonl", command=command, cwd=Path("/"), **options)


async def test_a_worker_works_reports_and_stores_through_the_deck(agent: ProcessAgent, deck: Deck) -> None:
    result = await agent.run(work(TEXT))
    assert result["documents"][0]["title"] == "Ships"
    assert len(deck.stored) == 1
    usage = agent.usage()
    assert usage is not None
    assert usage.cpu_seconds > 0
    assert (usage.memory_bytes or 0) > 1 << 20


async def test_an_error_of_the_work_is_plain_and_the_worker_lives_on(agent: ProcessAgent) -> None:
    with pytest.raises(WorkError, match=r"fly.*analyze_document"):
        await agent.run(work('{"do": "fly"}'))
    with pytest.raises(WorkError, match="no uploads here"):
        await agent.run(work('{"do": "analyze_document", "upload": "uploads/x"}'))
    assert (await agent.run(work(TEXT)))["documents"][0]["title"] == "Ships"


async def test_the_worker_gets_next_to_nothing_of_the_environment(
    children: Children, deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_SECRET_KEY", "hush")
    agent = await start(children, deck.call)
    environment = psutil.Process(agent.process.pid).environ()
    await agent.end(grace=0)
    assert set(environment) <= {*PASSED_ENVIRONMENT, MARK}


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
    task = asyncio.create_task(agent.run(work(compare_prompt(), on_progress=reports.append)))
    await until(lambda: len(reports) > 1)
    return task, reports


async def test_a_paused_worker_stands_still_and_goes_on(agent: ProcessAgent) -> None:
    task, reports = await start_long_work(agent)
    outcome = await agent.pause("freeze")
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
    await agent.pause("freeze")
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
    """Commands that this test process has started for agents and that still run."""
    mine = psutil.Process().children(recursive=True)
    return [
        child for child in mine if "-I" in child.cmdline() and "agents.worker.supervisor" not in str(child.cmdline())
    ]


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
async def test_a_broken_worker_is_a_plain_failure(children: Children, deck: Deck, code: str, reason: str) -> None:
    with pytest.raises(AgentDiedError, match=reason):
        await start(children, deck.call, worker(code))


async def test_a_program_that_is_not_there_is_a_plain_failure(children: Children, deck: Deck) -> None:
    with pytest.raises(AgentDiedError, match="cannot run '/no/such/program'"):
        await start(children, deck.call, CommandType(protocol="jsonl", command=["/no/such/program"], cwd=Path("/")))


async def test_a_worker_that_has_ended_before_anyone_looks_is_a_plain_failure(
    children: Children, deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    with monkeypatch.context() as patch:
        patch.setattr(process_runner.processes, "identify", nobody)
        with pytest.raises(AgentDiedError, match="exited with code 1: too early"):
            await start(children, deck.call, worker("import sys; sys.exit('too early')"))


async def test_a_defect_behind_a_call_is_answered(
    children: Children, deck: Deck, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_tool: str, _arguments: dict[str, Any]) -> Any:
        raise RuntimeError("boom")

    agent = await start(children, broken)
    with pytest.raises(WorkError, match="an internal error"):
        await asyncio.wait_for(agent.run(work(TEXT)), 20)
    assert "boom" in caplog.text
    await agent.end(grace=0)


async def test_cancelling_does_not_wait_for_a_frozen_worker_to_read(agent: ProcessAgent) -> None:
    await agent.pause("freeze")
    task = asyncio.create_task(agent.run(work("word " * 100_000)))  # more than a pipe takes
    await asyncio.sleep(0)
    await asyncio.wait_for(agent.cancel("q"), 20)
    await agent.resume()
    with pytest.raises(WorkCancelledError):
        await task


async def test_a_worker_that_never_gets_ready_is_ended(
    children: Children, deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_runner, "READY_TIMEOUT", 0.3)
    with pytest.raises(AgentDiedError, match=r"not ready within 0\.3 s"):
        await start(
            children, deck.call, worker("import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
        )
    assert workers() == []


async def test_a_worker_that_floods_its_pipe_is_ended(children: Children, deck: Deck) -> None:
    flooding = worker("while True: print('x' * 100_000, end='')", limits=Limits(output_kb=64))
    with pytest.raises(AgentDiedError, match=r"a line of more than 65536 bytes .own types: limits\.output_kb"):
        await start(children, deck.call, flooding)
    assert workers() == []


def saying(*messages: str) -> CommandType:
    """A worker that answers its task `q` with these, as they stand here."""
    lines = ['{"type": "ready", "protocol": 1}', *messages]
    return worker(f"for line in {lines!r}:\n    input(); print(line)\nfor line in open(0): pass")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('{"type": "result", "id": "q", "result": [NaN]}', "NaN, which JSON cannot say"),
        ('{"type": "result", "id": "q", "result": {"a": -Infinity}}', "-Infinity, which JSON cannot say"),
        ('{"type": "result", "id": "q", "result": 1e999}', "1e999, which no float can hold"),
        ('{"type": "result", "id": "q"}', "result without 'result'"),
        ('{"type": "result", "result": 1}', "result without 'id'"),
        ('{"type": "error", "id": "q"}', "error without 'error'"),
        ('{"type": "error", "id": "q", "error": {"no": "text"}}', "error without a valid 'error'"),
        ('{"type": "usage", "id": "q", "tokens": -1}', "usage whose 'tokens' is no number from 0 on"),
        ('{"type": "usage", "id": "q", "tokens": true}', "usage whose 'tokens' is no number from 0 on"),
        ('{"type": "usage", "id": "q", "usd": "12"}', "usage whose 'usd' is no number from 0 on"),
        ('{"type": "usage", "id": "q", "usd": 1' + "0" * 400 + "}", "usage whose 'usd' is no number from 0 on"),
        ('{"type": "progress", "id": "q", "done": "1"}', "progress whose 'done' is no number"),
        ('{"type": "progress", "id": "q", "total": [1]}', "progress whose 'total' is no number"),
        ('{"type": "progress", "id": "q", "message": 1}', "progress without a valid 'message'"),
        ('{"type": "call", "id": 1, "tool": "uploads", "arguments": []}', "call without a valid 'arguments'"),
        ('{"type": "' + "x" * 1_000 + '"}', "unknown message type 'x{478}$"),
        ('"text"', "a line that is no object"),
        ('{"id": "q"}', "without 'type'"),
    ],
)
async def test_what_is_no_message_ends_the_worker_by_name(deck: Deck, message: str, reason: str) -> None:
    children = Subprocesses(processes.identify(os.getpid()))
    agent = await start(children, deck.call, saying(message))
    with pytest.raises(AgentDiedError, match=f"the worker broke the protocol: .*{reason}"):
        await agent.run(work("go"))
    await agent.end(grace=0)


async def test_half_characters_are_replaced_wherever_a_worker_says_them(deck: Deck) -> None:
    reports: list[dict[str, Any]] = []
    half = r"a\ud800"
    whole = r"\ud83d\ude00"
    result = f'{{"type": "result", "id": "q", "result": {{"{half}": "{half}{whole}"}}}}'
    report = f'{{"type": "progress", "id": "q", "message": "{half}"}}'
    agent = await start(
        Subprocesses(processes.identify(os.getpid())),
        deck.call,
        worker(f"""
input(); print('{{"type": "ready", "protocol": 1}}')
input(); print({report!r}); print({result!r})
input(); print({f'{{"type": "error", "id": "q", "error": "{half}{"x" * 5_000}"}}'!r})
input()
"""),
    )
    assert await agent.run(work("go", on_progress=reports.append)) == {"a?": "a?😀"}
    assert reports == [{"done": None, "total": None, "message": "a?"}]
    with pytest.raises(WorkError) as failed:
        await agent.run(work("go"))
    assert str(failed.value) == "a?" + "x" * 3_998
    await agent.end(grace=0)


async def test_a_result_may_be_a_hundred_levels_deep(deck: Deck) -> None:
    deep = [f'{{"type": "result", "id": "q", "result": {"[" * levels + "]" * levels}}}' for levels in (101, 100)]
    agent = await start(Subprocesses(processes.identify(os.getpid())), deck.call, saying(*deep))
    with pytest.raises(WorkError, match="its result is nested deeper than 100 levels"):
        await agent.run(work("go"))
    assert str(await agent.run(work("go"))) == "[" * 100 + "]" * 100
    await agent.end(grace=0)


async def test_nothing_is_written_to_a_worker_that_has_ended(
    agent: ProcessAgent, caplog: pytest.LogCaptureFixture
) -> None:
    await agent.end(grace=0)
    for _ in range(20):
        await agent.cancel("q")
    assert caplog.text == ""


async def test_a_hold_without_work_is_at_once_and_none_of_the_next_work(agent: ProcessAgent) -> None:
    for work_id in ("first", "second"):
        outcome = await asyncio.wait_for(agent.pause("hold"), 5)
        assert (outcome.get("status"), outcome.get("observed")) == ("applied", {"state": "no work goes on"})
        assert (await agent.resume()).get("status") == "applied"
        assert await asyncio.wait_for(agent.run(work(compare_prompt(), work_id)), 60)
