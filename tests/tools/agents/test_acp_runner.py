"""The acp runner with a real agent process: its work, and what it may do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.tools.agents.runners.acp.agent import CONTINUE
from quarterdeck.tools.agents.runners.base import AgentDiedError, WorkCancelledError, WorkError
from quarterdeck.tools.agents.runners.supervisor import Supervisor
from tests.tools.agents.acp_agents import Place, Seen, place
from tests.until import until


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Place]:
    async with place(tmp_path) as here:
        yield here


async def test_work_streams_in_and_is_accounted_for(here: Place) -> None:
    agent = await here.start(models=["small-1", "large-1"])
    seen = Seen()
    work = seen.work(
        {"think": "hmm"},
        {"say": "Let me "},
        {"say": "look."},
        {"tool": "t1", "title": "Read a.txt", "kind": "read", "status": "in_progress"},
        {"tool": "t1", "status": "completed"},
        {"plan": [["read", "completed"], ["write", "in_progress"], ["rest", "pending"]]},
        {"cost": 0.25},
        {"say": "It says "},
        {"say": "ahoy."},
        {"stop": "end_turn", "tokens": 120},
    )
    assert await agent.run(work) == "It says ahoy."
    assert seen.messages == ["Let me", "Let me look.", "Read a.txt", "write", "It says", "It says ahoy."]
    assert seen.progress[3] == {"done": 1, "total": 3, "message": "write"}
    assert seen.usage == {"tokens": 120, "usd": 0.25}
    assert seen.models == ["small-1"]
    later = Seen()
    assert await agent.run(later.work({"cost": 0.75}, {"say": "b"}, {"stop": "end_turn", "tokens": 7})) == "b"
    assert later.usage == {"tokens": 7, "usd": 0.5}  # what this work has used, not the session


async def test_a_cost_in_another_currency_is_not_taken_for_dollars(here: Place) -> None:
    agent = await here.start()
    seen = Seen()
    await agent.run(seen.work({"cost": 3, "currency": "EUR"}, {"say": "x"}))
    assert seen.usage == {}
    await agent.run(seen.work({"stop": "end_turn", "tokens": 0}))  # what some tell of a turn that they know nothing of
    assert seen.usage == {}


async def test_the_agent_gets_no_environment_and_no_powers_of_the_server(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    monkeypatch.setenv("PASSED", "on")
    await here.start({"env": ["PASSED"]})
    [[capabilities, client]] = here.journal("initialize")
    assert client == "quarterdeck"
    assert not capabilities.get("terminal")
    assert not capabilities.get("fs")
    [[cwd, servers, environment]] = here.journal("new")
    assert (cwd, servers) == (str(here.folder), [])
    assert "PASSED" in environment
    assert "DATABASE_PASSWORD" not in environment


EDIT = {"title": "Write", "kind": "edit", "paths": ["in.txt"]}
RUN = {"title": "Run", "kind": "execute"}


ASKED: list[tuple[str, dict[str, Any], str]] = [
    ("default", {"title": "Look", "kind": "read", "paths": ["in.txt"]}, "allow_once"),
    ("plan", {"title": "Find", "kind": "search"}, "allow_once"),
    ("default", {"title": "Look", "kind": "read", "paths": ["../out.txt"]}, "reject_once"),
    ("default", EDIT, "reject_once"),
    ("default", RUN, "reject_once"),
    ("default", {"title": "What"}, "reject_once"),
    ("default", {"title": "Get", "kind": "fetch"}, "allow_once"),  # as the type's configuration allows it
    ("plan", {"title": "Get", "kind": "fetch"}, "reject_once"),
    ("plan", EDIT, "reject_once"),
    ("acceptEdits", EDIT, "allow_once"),
    ("acceptEdits", {**EDIT, "kind": "delete"}, "allow_once"),
    ("acceptEdits", {**EDIT, "paths": ["in.txt", "/etc/passwd"]}, "reject_once"),
    ("acceptEdits", {**EDIT, "paths": ["link/out.txt"]}, "reject_once"),
    ("acceptEdits", {**EDIT, "paths": []}, "reject_once"),
    ("acceptEdits", RUN, "reject_once"),
    ("bypassPermissions", RUN, "allow_once"),
    ("acceptEdits", {**EDIT, "options": ["allow_always", "reject_once"]}, "reject_once"),  # nothing lasting
    ("acceptEdits", {**EDIT, "options": ["allow_always", "reject_always"]}, "cancelled"),
]


async def test_requests_are_answered_by_the_permission_mode(here: Place) -> None:
    (here.folder / "link").symlink_to("/tmp")  # noqa: S108
    agent = await here.start({"allow": ["fetch"]})
    for mode, call, answer in ASKED:
        seen = Seen()
        result = await agent.run(seen.work({"ask": "t1", **call}, permission_mode=mode))
        assert result == f"{answer}.", (mode, call)
        verdict = "allowed" if answer == "allow_once" else "refused"
        assert any(message.startswith(f"{verdict}: {call['title']}") for message in seen.messages), (mode, call)


async def test_a_request_is_judged_by_all_that_was_told_of_its_tool(here: Place) -> None:
    agent = await here.start()
    told = {"tool": "t1", "title": "Sneak", "kind": "edit", "paths": ["/etc/passwd"]}
    result = await agent.run(Seen().work(told, {"ask": "t1", "kind": "read"}, permission_mode="acceptEdits"))
    assert result == "reject_once."


async def test_the_agent_goes_into_its_own_mode_of_the_same_meaning(here: Place) -> None:
    agent = await here.start(
        {"modes": {"default": "ask"}}, {"permission_mode": "plan"}, modes=["build", "plan", "ask"], echo=True
    )
    await agent.run(Seen().work("a", permission_mode="plan"))
    await agent.run(Seen().work("b", permission_mode="default"))
    await agent.run(Seen().work("c", permission_mode="acceptEdits"))  # it has none: back to its first one
    assert here.journal("mode") == [["plan"], ["ask"], ["build"]]


async def test_a_mode_that_the_agent_does_not_have_is_no_start(here: Place) -> None:
    with pytest.raises(AgentDiedError, match=r"no mode 'nope' \(modes: build, plan\)"):
        await here.start({"modes": {"default": "nope"}}, modes=["build", "plan"])


async def test_a_query_has_its_own_model(here: Place) -> None:
    agent = await here.start(None, {"model": "b"}, models=["a", "b", "c"])
    seen = Seen()
    await agent.run(seen.work("one", model="c"))
    await agent.run(seen.work("two", model="b"))
    assert seen.models == ["c", "b"]
    assert here.journal("option") == [["llm", "b"], ["llm", "c"], ["llm", "b"]]
    with pytest.raises(WorkError, match=r"no model 'z' \(models: a, b, c\)"):
        await agent.run(seen.work("three", model="z"))
    assert await agent.run(seen.work("four", model="b")) == "heard: four"


async def test_a_model_that_was_acknowledged_and_not_taken_is_not_believed(here: Place) -> None:
    with pytest.raises(AgentDiedError, match="acknowledged it, and says that it has a"):
        await here.start(None, {"model": "b"}, models=["a", "b"], stubborn=True)
    with pytest.raises(AgentDiedError, match="offers no choice of a model"):
        await here.start(None, {"model": "b"})


FAILING: list[tuple[list[Any], str]] = [
    ([{"stop": "max_tokens"}], "stopped before the end: max_tokens"),
    ([{"stop": "refusal"}], "refusal"),
    ([{"stop": "cancelled"}], "cancelled"),
    (
        [{"ask": "t1", "title": "rm", "kind": "execute"}, {"tool": "t2", "title": "x"}, {"stop": "end_turn"}],
        r"said nothing more, after refusals: rm: permission mode default does not allow it \(execute\)",
    ),
    ([{"ask": "t1", "title": "rm", "kind": "execute"}, {"stop": "cancelled"}], "cancelled, after refusals: rm: "),
    ([{"fail": "overloaded", "data": {"details": "429"}}], 'overloaded: {"details": "429"}'),
    ([{"fail": "Authentication required", "code": -32000}], r"auth_method of its type: key"),
]


async def test_work_that_fails_leaves_the_agent_alive(here: Place) -> None:
    agent = await here.start()
    for steps, error in FAILING:
        with pytest.raises(WorkError, match=error):
            await agent.run(Seen().work(*steps))
        assert await agent.run(Seen().work("again")) == "heard: again"


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([{"exit": 3}], "exited with code 3: out of cheese"),
        ([{"raw": '{"jsonrpc": "2.0", '}, {"await": "never"}], "broke the protocol"),
        ([{"raw": '{"id": [1]}'}, {"await": "never"}], "broke the protocol: an 'id' that is neither"),
        ([{"raw": '{"id": 2, "error": "x"}'}, {"await": "never"}], "broke the protocol: an 'error' that is no object"),
        ([{"hang up": True}, {"await": "never"}], "closed its end of the conversation"),
    ],
)
async def test_an_agent_that_dies_or_talks_nonsense_is_gone(here: Place, steps: list[Any], reason: str) -> None:
    agent = await here.start()
    with pytest.raises(AgentDiedError, match=reason):
        await agent.run(Seen().work(*steps))
    assert agent.usage() is None
    with pytest.raises(AgentDiedError):
        await agent.run(Seen().work("again"))


async def test_what_means_nothing_is_passed_over(here: Place) -> None:
    agent = await here.start()
    noise = [
        {"raw": "a line for humans"},
        {"raw": '{"jsonrpc": "2.0", "id": 999, "result": 1}'},
        {"raw": '{"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": "another", "update": {}}}'},
    ]
    assert await agent.run(Seen().work(*noise, {"say": "fine \ud83d"})) == "fine ?"


async def test_a_login_is_asked_for_by_name(here: Place) -> None:
    with pytest.raises(AgentDiedError, match=r"Authentication required.*auth_method of its type: key"):
        await here.start(login=True)
    agent = await here.start({"auth_method": "key"}, login=True)
    assert await agent.run(Seen().work("hi")) == "heard: hi"


async def test_what_is_no_acp_agent_does_not_start(here: Place) -> None:
    with pytest.raises(AgentDiedError, match="cannot run 'no-such-program'"):
        await here.start({"command": ["no-such-program"]})
    with pytest.raises(AgentDiedError, match="exited with code 0"):
        await here.start({"command": ["true"]})
    with pytest.raises(AgentDiedError, match="version 99"):
        await here.start(version=99)


async def test_a_start_that_is_given_up_leaves_no_process(here: Place) -> None:
    starting = asyncio.create_task(here.start(slow_start="never"))
    await until(lambda: here.journal("initialize"))
    assert isinstance(here.children, Supervisor)
    [pid] = [process.pid for process in psutil.Process(here.children.pid).children()]  # of nobody else
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize("way", ["load", "resume"])
async def test_a_session_goes_on_in_a_new_process(here: Place, way: str) -> None:
    offers = {way: True}
    agent = await here.start(**offers)
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work({"touch": "began"}, {"await": "never"})))
    await here.there("began")
    psutil.Process(agent.process.pid).kill()
    with pytest.raises(AgentDiedError, match="signal 9"):
        await working
    [session] = seen.sessions
    again = await here.start(None, {"session": session}, **offers)
    assert here.journal(way) == [[str(here.folder), session]]
    later = Seen()
    assert await again.run(later.work("a long way", resumed=True)) == f"heard: {CONTINUE}"
    assert later.sessions == [session]
    assert "an earlier answer" not in later.messages


async def test_an_agent_that_keeps_no_session_cannot_be_brought_back(here: Place) -> None:
    agent = await here.start()
    seen = Seen()
    await agent.run(seen.work("hi"))
    assert seen.sessions == []
    with pytest.raises(AgentDiedError, match="does not go on with sessions"):
        await here.start(None, {"session": "session-1"})
    with pytest.raises(AgentDiedError, match="Resource not found"):
        await here.start(None, {"session": "gone"}, load=True)


async def test_cancelled_work_ends_and_the_agent_lives(here: Place) -> None:
    agent = await here.start()
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "never"})))
    await here.there("began")
    await agent.cancel("q")
    with pytest.raises(WorkCancelledError):
        await working
    assert here.journal("cancel") == [[]]
    assert await agent.run(Seen().work("again", work_id="q2")) == "heard: again"


async def test_an_agent_that_ignores_the_cancel_is_ended_with_its_tree(here: Place) -> None:
    agent = await here.start(deaf=True)
    working = asyncio.create_task(agent.run(Seen().work({"touch": "began"}, {"await": "never"})))
    await here.there("began")
    await agent.cancel("q")
    await until(lambda: here.journal("cancel"))
    await agent.end(grace=0.2)
    with pytest.raises((AgentDiedError, WorkCancelledError)):
        await working
    assert not psutil.pid_exists(agent.process.pid)


async def test_the_library_is_an_extra(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "acp", None)
    for name in [name for name in sys.modules if name.startswith("quarterdeck.tools.agents.runners.acp.")]:
        if name.rpartition(".")[2] not in ("config", "runner"):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(AgentDiedError, match=r"pip install 'quarterdeck\[acp\]'"):
        await here.start()
