"""Controls of a running ACP agent: each says what was seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.agents.runners.acp import agent as agent_module
from quarterdeck.tools.agents.runners.acp.agent import CONTINUE
from quarterdeck.tools.agents.runners.base import AgentDiedError, WorkCancelledError
from tests.tools.agents.acp_agents import Place, Seen, place
from tests.until import until


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Place]:
    async with place(tmp_path) as here:
        yield here


# --- hold


async def test_a_hold_parks_the_agent_at_its_next_request_for_permission(here: Place) -> None:
    agent = await here.start()
    steps = [{"touch": "began"}, {"await": "go"}, {"ask": "t1", "kind": "read"}, {"touch": "after"}]
    working = asyncio.create_task(agent.run(Seen().work(*steps)))
    await here.there("began")
    holding = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    assert not holding.done()  # the agent is in the middle of its turn
    here.touch("go")
    outcome = await holding
    assert outcome == {
        "status": "applied",
        "effectiveAt": "now",
        "level": "hold",
        "lossless": True,
        "observed": {"state": "parked"},
    }
    assert here.journal("answer") == []
    assert not (here.folder / "after").exists()
    assert (await agent.resume()).get("status") == "applied"
    assert await working == "allow_once."
    assert (here.folder / "after").exists()


async def test_a_hold_waits_for_tools_that_run_beside_those_that_ask(here: Place) -> None:
    agent = await here.start()
    seen = Seen()
    steps = [
        {"tool": "slow", "title": "slow", "status": "in_progress"},
        {"await": "held"},
        {"beside": {"ask": "t1", "title": "one", "kind": "read"}},
        {"beside": {"ask": "t2", "title": "two", "kind": "read"}},
        {"say": "I have asked, "},  # the others get their turn while this is written
        {"say": "twice"},
        {"await": "go"},
        {"tool": "slow", "status": "completed"},
        {"join": True},
    ]
    holding = asyncio.create_task(agent.pause("hold"))  # before the work begins
    assert (await holding).get("status") == "applied"
    working = asyncio.create_task(agent.run(seen.work(*steps)))
    assert here.journal("prompt") == []
    await agent.resume()
    await until(lambda: "slow" in seen.messages)
    holding = asyncio.create_task(agent.pause("hold"))
    here.touch("held")
    await until(lambda: "I have asked, twice" in seen.messages)
    assert not holding.done()
    here.touch("go")
    assert (await holding).get("status") == "applied"
    await agent.resume()
    await working
    assert {"allowed: one", "allowed: two"} <= set(seen.messages)


async def test_a_hold_without_a_boundary_stands_at_the_end_of_the_turn(here: Place) -> None:
    agent = await here.start()
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"}, {"say": "done"})))
    await here.there("began")
    holding = asyncio.create_task(agent.pause("hold"))
    here.touch("go")
    assert (await holding).get("status") == "applied"
    assert await working == "done"


async def test_a_resume_ends_a_hold_that_still_waits(here: Place) -> None:
    agent = await here.start()
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"})))
    await here.there("began")
    holding = asyncio.create_task(agent.pause("hold"))
    await asyncio.sleep(0)
    await agent.resume()
    assert (await holding).get("status") == "failed"
    here.touch("go")
    await working


async def test_what_was_lowered_while_it_was_held_holds_for_the_request(here: Place) -> None:
    agent = await here.start(modes=["acceptEdits", "plan"], echo=True)
    ask = {"ask": "t1", "kind": "edit", "paths": ["a"]}
    working = asyncio.create_task(
        agent.run(Seen().work({"touch": "began"}, {"await": "go"}, ask, permission_mode="acceptEdits"))
    )
    await here.there("began")
    holding = asyncio.create_task(agent.pause("hold"))
    here.touch("go")
    await holding
    outcome = await agent.set_permissions("plan")
    assert outcome.get("status") == "applied"
    assert outcome.get("observed") == {"permissionMode": "plan", "agentMode": "plan"}
    await agent.resume()
    assert await working == "reject_once."


async def test_work_that_is_cancelled_while_it_is_held_leaves_its_request(here: Place) -> None:
    agent = await here.start()
    ask = {"ask": "t1", "kind": "read"}
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"}, ask)))
    await here.there("began")
    holding = asyncio.create_task(agent.pause("hold"))
    here.touch("go")
    await holding
    await agent.cancel("q")
    await agent.resume()
    with pytest.raises(WorkCancelledError):
        await working
    assert await agent.run(Seen().work("next", work_id="q2")) == "heard: next"


async def test_the_budget_is_asked_before_each_turn_and_each_request(here: Place) -> None:
    agent = await here.start()
    seen = Seen()
    work = seen.work({"touch": "began"}, {"await": "go"}, {"ask": "t1", "kind": "read"}, {"touch": "after"})
    seen.within_budget.clear()
    working = asyncio.create_task(agent.run(work))
    await until(lambda: seen.asked == 1)
    assert here.journal("prompt") == []
    seen.within_budget.set()
    await here.there("began")
    seen.within_budget.clear()
    here.touch("go")
    await until(lambda: seen.asked == 2)
    assert not (here.folder / "after").exists()
    seen.within_budget.set()
    await working
    assert seen.asked == 2


# --- freeze


async def test_a_freeze_stops_the_whole_tree_and_loses_nothing_of_it(here: Place) -> None:
    agent = await here.start()
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"}, {"touch": "after"})))
    await here.there("began")
    outcome = await agent.pause("freeze")
    assert outcome.get("status") == "applied"
    assert outcome.get("lossless") is False  # its model may be answering
    assert psutil.Process(agent.process.pid).status() == psutil.STATUS_STOPPED
    for change in (agent.set_model("x"), agent.set_permissions("plan")):
        refused = await change
        assert refused.get("status") == "failed"
        assert refused.get("alternatives") == ["resume"]
    here.touch("go")
    assert (await agent.resume()).get("status") == "applied"
    assert await working == ""
    assert (here.folder / "after").exists()


async def test_frozen_work_is_cancelled_when_it_goes_on(here: Place) -> None:
    agent = await here.start()
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "never"})))
    await here.there("began")
    await agent.pause("freeze")
    await agent.cancel("q")
    assert not working.done()
    await agent.resume()
    with pytest.raises(WorkCancelledError):
        await working


# --- interrupt


@pytest.mark.parametrize("held", [False, True])
async def test_an_interrupt_aborts_the_turn_and_a_resume_continues_the_session(here: Place, held: bool) -> None:
    agent = await here.start()
    last = {"ask": "t1", "kind": "read"} if held else {"await": "never"}
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work({"touch": "began"}, {"await": "go"}, last)))
    await here.there("began")
    seen.within_budget.clear()
    if held:  # at the request, by the budget
        here.touch("go")
        await until(lambda: seen.asked == 2)
    outcome = await agent.pause("interrupt")
    assert outcome.get("status") == "applied"
    assert outcome.get("lossless") is False
    assert outcome.get("observed") == {"state": "interrupted"}
    assert here.journal("cancel") == [[]]
    assert len(here.journal("prompt")) == 1
    seen.within_budget.set()
    resumed = await agent.resume()
    assert (resumed.get("status"), resumed.get("level"), resumed.get("lossless")) == ("applied", "interrupt", False)
    assert await working == f"heard: {CONTINUE}"


async def test_an_interrupt_that_the_agent_ignores_is_not_applied(here: Place) -> None:
    agent = await here.start(deaf=True)
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"}, {"say": "whole"})))
    await here.there("began")
    pausing = asyncio.create_task(agent.pause("interrupt"))
    await until(lambda: here.journal("cancel"))
    assert not pausing.done()
    here.touch("go")
    outcome = await pausing
    assert (outcome.get("status"), outcome.get("lossless")) == ("applied", True)  # it came to its end after all
    assert await working == "whole"


# --- changes


async def test_a_model_is_believed_from_the_next_turn_on(here: Place) -> None:
    agent = await here.start(models=["a", "b"])
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work({"think": "x"}, {"touch": "began"}, {"await": "never"})))
    await here.there("began")
    outcome = await agent.set_model("b")
    assert (outcome.get("status"), outcome.get("effectiveAt")) == ("pending", "next_turn")
    await until(lambda: seen.models == ["a"])
    await agent.pause("interrupt")
    await agent.resume()
    await working
    assert seen.models == ["a", "b"]
    assert here.journal("option") == [["llm", "b"]]


async def test_a_model_for_work_that_has_no_turn_yet_is_queued(here: Place) -> None:
    agent = await here.start(models=["a", "b"])
    await agent.pause("hold")
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work("hi")))
    outcome = await agent.set_model("b")
    assert (outcome.get("status"), outcome.get("effectiveAt")) == ("queued", "next_request")
    await agent.resume()
    await working
    assert seen.models == ["b"]


async def test_models_that_cannot_be(here: Place) -> None:
    plain = await here.start()
    assert (await plain.set_model("b")).get("status") == "unsupported"
    agent = await here.start(models=["a", "b"], stubborn=True)
    unknown = await agent.set_model("z")
    assert (unknown.get("status"), unknown.get("reason")) == ("failed", "the agent has no model 'z' (models: a, b)")
    ignored = await agent.set_model("b")
    assert ignored.get("status") == "failed"
    assert "says that it has a" in str(ignored.get("reason"))


async def test_a_mode_that_is_acknowledged_and_not_shown_is_pending(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "SEEN_TIMEOUT", 0.01)
    agent = await here.start(modes=["default", "plan"])
    outcome = await agent.set_permissions("plan")
    assert outcome.get("status") == "pending"
    assert outcome.get("observed") == {"permissionMode": "plan", "agentMode": "default"}
    assert await agent.run(Seen().work({"ask": "t1", "kind": "edit", "paths": ["a"]}, permission_mode="plan")) == (
        "reject_once."
    )
    back = await agent.set_permissions("default")
    assert back.get("status") == "applied"  # what it says is what was wanted
    assert here.journal("mode") == [["plan"], ["default"]]


async def test_a_permission_mode_that_the_agent_does_not_know_says_what_it_binds(here: Place) -> None:
    agent = await here.start(modes=["build"])
    outcome = await agent.set_permissions("plan")
    assert outcome.get("status") == "applied"
    assert "without asking" in str(outcome.get("reason"))


async def test_an_agent_that_does_not_answer_holds_up_no_control(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "ANSWER_TIMEOUT", 0.05)
    agent = await here.start(models=["a", "b"])
    psutil.Process(agent.process.pid).suspend()
    outcome = await agent.set_model("b")
    assert (outcome.get("status"), outcome.get("reason")) == ("failed", "the agent has not answered within 0.05 s")


async def test_changes_of_an_agent_that_has_died_fail(here: Place) -> None:
    agent = await here.start(models=["a", "b"], modes=["default", "plan"])
    psutil.Process(agent.process.pid).kill()
    await agent.wait()
    for change in (agent.set_model("b"), agent.set_permissions("plan")):
        assert (await change).get("status") == "failed"
    assert (await agent.pause("freeze")).get("status") == "failed"


async def test_commands_of_the_session_run_after_the_turn(here: Place) -> None:
    agent = await here.start()
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"}, {"say": "done"})))
    await here.there("began")
    with pytest.raises(InvalidArgumentError, match=r"unknown command 'rm' \(valid: compact\)"):
        await agent.execute_command("rm -rf /")
    assert (await agent.execute_command("/compact now")).get("status") == "queued"
    here.touch("go")
    assert await working == "done\n\n> /compact now\n\nheard: /compact now"


async def test_an_agent_that_dies_while_it_is_held_ends_the_hold(here: Place) -> None:
    agent = await here.start()
    ask = {"ask": "t1", "kind": "read"}
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "go"}, ask)))
    await here.there("began")
    holding = asyncio.create_task(agent.pause("hold"))
    here.touch("go")
    await holding
    psutil.Process(agent.process.pid).kill()
    with pytest.raises(AgentDiedError):
        await working
    assert "signal 9" in await agent.wait()
