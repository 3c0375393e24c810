"""Controls of agents on the real Claude Code, each seen at the API that it asks, in its files or in its processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.base import AgentDiedError, Outcome, WorkCancelledError
from quarterdeck.tools.agents.runners.claude.agent import CONTINUE
from quarterdeck.tools.agents.runners.claude.launch import is_root
from quarterdeck.tools.agents.runners.claude.session import Session
from tests.servers.anthropic import Reply
from tests.tools.agents.claude_agents import Place, Seen, bash, place
from tests.until import until


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Place]:
    async with place(tmp_path, monkeypatch) as here:
        yield here


class Fifo:
    """Something that a tool waits for."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._end: int | None = None

    def is_read(self) -> bool:
        if self._end is None:
            with contextlib.suppress(OSError):  # nobody has opened it to read
                self._end = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        return self._end is not None

    def write(self, text: str) -> None:
        assert self._end is not None
        os.write(self._end, text.encode())
        os.close(self._end)


def applied(outcome: Outcome) -> bool:
    return outcome.get("status") == "applied"


async def test_a_hold_stops_before_a_tool_and_loses_nothing(here: Place) -> None:
    agent, other = await here.start(), await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("", [bash("touch ran")], until=ready))
    here.api.will_say(Reply("", [bash("touch other")]), "the other is done", "done")
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: here.api.requests)
    pausing = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    ready.set()
    outcome = await pausing
    assert applied(outcome)
    assert outcome.get("lossless") is True
    assert await other.run(Seen().work()) == "the other is done"  # there was time enough to do the same work
    assert not (here.work / "ran").exists()
    assert len(here.api.requests) == 3
    assert applied(await agent.resume())
    assert await working == "done"
    assert (here.work / "ran").exists()


async def test_a_hold_waits_for_the_tools_that_run_beside_each_other(here: Place) -> None:
    agent = await here.start({"allowed_tools": ["Bash", "Read"]})
    (here.work / "text").write_text("the text")
    slow = Fifo(here.work / "slow")
    read = "Read", {"file_path": str(here.work / "text")}
    here.api.will_say(Reply("", [bash("cat slow"), read]), "done")
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(slow.is_read)
    pausing = asyncio.create_task(agent.pause("hold"))
    assert applied(await agent.set_permissions("acceptEdits"))
    assert not pausing.done()
    slow.write("at last")
    assert applied(await pausing)
    assert len(here.api.requests) == 1
    await agent.resume()
    assert await working == "done"
    assert "at last" in here.api.requests[1].text
    assert "the text" in here.api.requests[1].text


async def test_a_hold_waits_for_a_subagent_to_come_to_a_boundary(here: Place) -> None:
    agent = await here.start()
    slow = Fifo(here.work / "slow")
    fetch = "Agent", {"description": "d", "prompt": "find it", "subagent_type": "general-purpose"}
    here.api.will_say(Reply("", [fetch]), Reply("", [bash("cat slow")]), "found", "done")
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(slow.is_read)
    pausing = asyncio.create_task(agent.pause("hold"))
    assert applied(await agent.set_permissions("acceptEdits"))
    assert not pausing.done()
    slow.write("at last")
    assert applied(await pausing)
    assert len(here.api.requests) == 2
    await agent.resume()
    assert await working == "done"
    assert len(here.api.requests) == 4
    assert "at last" in here.api.requests[2].text


async def test_a_resume_overtakes_a_hold(here: Place) -> None:
    agent = await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("done", until=ready))
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: here.api.requests)
    pausing = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    await agent.resume()
    assert (await pausing).get("status") == "failed"
    ready.set()
    assert await working == "done"


async def test_work_that_ends_while_a_hold_waits_is_held(here: Place) -> None:
    agent = await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("done", until=ready))
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: here.api.requests)
    pausing = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    ready.set()
    assert applied(await pausing)
    assert await working == "done"
    await agent.resume()
    assert await agent.run(Seen().work()) == "done"


async def test_a_freeze_stops_every_process_and_says_what_it_risks(here: Place) -> None:
    agent = await here.start()
    os.mkfifo(here.work / "never")
    ticking = "exec 3<> never; while :; do echo . >> ticks; read -t 0.01 -u 3; done"
    here.api.will_say(Reply("", [bash(f"setsid bash -c '{ticking}'")]), "done")
    working = asyncio.create_task(agent.run(Seen().work()))
    await until((here.work / "ticks").exists)
    outcome = await agent.pause("freeze")
    assert applied(outcome)
    assert outcome.get("lossless") is True  # no request is under way
    members = processes.tree(psutil.Process(agent.process.pid))
    assert len(members) > 2
    assert {member.status() for member in members} <= {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
    ticks = (here.work / "ticks").stat().st_size
    assert (await agent.set_model("opus")).get("alternatives") == ["resume"]
    assert (await agent.set_permissions("plan")).get("alternatives") == ["resume"]
    assert (here.work / "ticks").stat().st_size == ticks
    assert applied(await agent.resume())
    await until(lambda: (here.work / "ticks").stat().st_size > ticks)
    await agent.end(grace=0.5)
    with pytest.raises(AgentDiedError):
        await working
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)


async def test_a_freeze_within_a_request_is_told_to_be_a_risk(here: Place) -> None:
    agent = await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("done", until=ready))
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: here.api.requests)
    outcome = await agent.pause("freeze")
    assert applied(outcome)
    assert outcome.get("lossless") is False
    assert "the API may drop it" in (outcome.get("reason") or "")
    ready.set()
    await agent.resume()
    assert await working == "done"


@pytest.mark.parametrize("moment", ["answer", "tool"])
async def test_an_interrupt_aborts_the_turn_and_a_resume_continues_the_session(here: Place, moment: str) -> None:
    agent = await here.start()
    slow = Fifo(here.work / "slow")
    begun = Reply("half of it", until=asyncio.Event()) if moment == "answer" else Reply("", [bash("cat slow")])
    here.api.will_say(begun, "all of it")
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work("the task")))
    await until(lambda: seen.progress if moment == "answer" else slow.is_read())
    outcome = await agent.pause("interrupt")
    assert applied(outcome)
    assert outcome.get("lossless") is False
    assert len(here.api.requests) == 1
    if moment == "answer":
        await until(lambda: here.api.hung_up)
    assert not working.done()
    await agent.resume()
    assert await working == "all of it"
    assert "the task" in here.api.requests[1].text
    assert CONTINUE in here.api.requests[1].last


async def test_an_interrupt_that_is_taken_back_before_the_turn_has_ended_holds_nothing(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await here.start()
    here.api.will_say(Reply("half of it", until=asyncio.Event()), "all of it")
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work("the task")))
    await until(lambda: seen.progress)
    turn_ended = Session.turn_ended

    async def resumed_meanwhile(session: Session) -> None:
        await agent.resume()
        await turn_ended(session)

    monkeypatch.setattr(Session, "turn_ended", resumed_meanwhile)
    assert (await agent.pause("interrupt")).get("status") == "failed"
    assert await asyncio.wait_for(working, 20) == "all of it"


async def test_an_interrupt_before_the_prompt_loses_nothing(here: Place) -> None:
    agent = await here.start()
    seen = Seen()
    work = seen.work()
    seen.within_budget.clear()
    working = asyncio.create_task(agent.run(work))
    await until(lambda: seen.asked)
    outcome = await agent.pause("interrupt")
    assert applied(outcome)
    assert outcome.get("lossless") is True  # nothing had been begun
    seen.within_budget.set()
    assert applied(await agent.set_permissions("acceptEdits"))
    assert not here.api.requests
    await agent.resume()
    assert await working == "done"
    assert "go" in here.api.requests[0].last


async def test_a_model_change_is_in_the_next_request(here: Place) -> None:
    agent = await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("", [bash("echo")], until=ready), "done")
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work()))
    await until(lambda: seen.models)
    outcome = await agent.set_model("opus")
    assert (outcome.get("status"), outcome.get("effectiveAt")) == ("queued", "next_request")
    assert not any("opus" in model for model in seen.models)
    ready.set()
    await working
    first, second = here.api.requests
    assert "sonnet" in first.model
    assert "opus" in second.model
    assert seen.models[-1] == here.api.requests[1].model


async def test_permissions_change_what_the_next_tool_may_do(here: Place) -> None:
    agent = await here.start({"allowed_tools": []})
    ready = asyncio.Event()

    def write(name: str) -> tuple[str, dict[str, str]]:
        return "Write", {"file_path": str(here.work / name), "content": "x"}

    here.api.will_say(
        Reply("", [write("one")]), Reply("", [write("two")], until=ready), Reply("", [write("three")]), "done"
    )
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: len(here.api.requests) == 2)
    pausing = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    ready.set()
    await pausing
    outcome = await agent.set_permissions("acceptEdits")
    assert applied(outcome)
    assert outcome.get("observed") == {"permissionMode": "acceptEdits"}
    await agent.resume()
    assert await working == "done"
    assert not (here.work / "one").exists()
    assert (here.work / "two").exists()
    assert (here.work / "three").exists()


@pytest.mark.skipif(not is_root(), reason="Claude Code refuses to bypass permissions only as root")
async def test_root_does_not_bypass_permissions(here: Place) -> None:
    agent = await here.start({"sandbox": False})
    outcome = await agent.set_permissions("bypassPermissions")
    assert outcome.get("status") == "denied"
    assert "root" in (outcome.get("reason") or "")
    with pytest.raises(AgentDiedError, match="as root"):
        await here.start(permission_mode="bypassPermissions")


async def test_work_that_is_cancelled_while_held_never_runs_its_tool(here: Place) -> None:
    agent = await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("", [bash("touch ran")], until=ready))
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: here.api.requests)
    pausing = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    ready.set()
    await pausing
    await agent.cancel("q")
    await agent.resume()
    with pytest.raises(WorkCancelledError):
        await working
    here.api.will_say("next")
    assert await agent.run(Seen().work(work_id="next")) == "next"
    assert not (here.work / "ran").exists()
    assert len(here.api.requests) == 2


async def test_work_that_is_cancelled_while_frozen_leaves_when_it_goes_on(here: Place) -> None:
    agent = await here.start()
    slow = Fifo(here.work / "slow")
    here.api.will_say(Reply("", [bash("cat slow")]))
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(slow.is_read)
    await agent.pause("freeze")
    await agent.cancel("q")
    assert not working.done()
    await agent.resume()
    with pytest.raises(WorkCancelledError):
        await working
    assert len(here.api.requests) == 1


async def test_work_that_is_cancelled_before_it_begins_asks_nobody(here: Place) -> None:
    agent = await here.start()
    await agent.cancel("q")
    with pytest.raises(WorkCancelledError):
        await agent.run(Seen().work())
    seen = Seen()
    work = seen.work(work_id="late")
    seen.within_budget.clear()
    working = asyncio.create_task(agent.run(work))
    await until(lambda: seen.asked)
    await agent.cancel("late")
    with pytest.raises(WorkCancelledError):
        await working
    assert not here.api.requests


async def test_commands_of_the_session_run_after_the_turn(here: Place) -> None:
    commands = here.folder / "home/config/commands"
    commands.mkdir(parents=True)
    (commands / "greet.md").write_text("Say hello to $ARGUMENTS, please.")
    agent = await here.start()
    ready = asyncio.Event()
    here.api.will_say(Reply("the result", until=ready), "hello, Bob")
    working = asyncio.create_task(agent.run(Seen().work()))
    await until(lambda: here.api.requests)
    with pytest.raises(InvalidArgumentError, match=r"unknown command 'nonsense' \(valid: .*compact.*greet"):
        await agent.execute_command("/nonsense")
    for command in ("/greet Bob", "context"):
        outcome = await agent.execute_command(command)
        assert (outcome.get("status"), outcome.get("effectiveAt")) == ("queued", "next_turn")
    ready.set()
    result = await working
    assert result.startswith("the result\n\n> /greet Bob\n\nhello, Bob\n\n> /context\n\n## Context Usage")
    assert "Say hello to Bob, please." in here.api.requests[1].last
    assert len(here.api.requests) == 2


async def test_an_agent_that_ends_takes_everything_along(here: Place) -> None:
    agent = await here.start()
    here.api.will_say(Reply("", [bash("setsid sh -c 'trap \"\" TERM; touch up; while :; do sleep 1; done'")]))
    working = asyncio.create_task(agent.run(Seen().work()))
    await until((here.work / "up").exists)
    members = processes.tree(psutil.Process(agent.process.pid))
    assert agent.usage() is not None
    await agent.end(grace=0.2)
    with pytest.raises(AgentDiedError):
        await working
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)
    assert agent.usage() is None
    with pytest.raises(AgentDiedError):
        await agent.run(Seen().work())
