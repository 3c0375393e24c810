"""The claude runner with the real Claude Code: its work, as the API sees it that it asks."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from quarterdeck.tools.agents.runners.base import AgentDiedError, WorkError
from quarterdeck.tools.agents.runners.claude.agent import CONTINUE
from quarterdeck.tools.agents.runners.claude.launch import FORBIDDEN_TOOLS
from tests.servers.anthropic import Reply
from tests.tools.agents.claude_agents import Place, Seen, bash, place
from tests.until import until


@pytest.fixture
async def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Place]:
    async with place(tmp_path, monkeypatch) as here:
        yield here


async def test_work_is_done_with_tools_and_accounted_for(here: Place) -> None:
    agent = await here.start()
    here.api.will_say(Reply("let me see", [bash("echo ahoy > said; cat said")]), "it says ahoy")
    seen = Seen()
    assert await agent.run(seen.work("what does it say?")) == "it says ahoy"
    assert (here.work / "said").read_text() == "ahoy\n"
    first, second = here.api.requests
    assert "what does it say?" in first.text
    assert "ahoy" in second.last
    assert "You are Ada, an agent of type pilot." in json.dumps(first.body["system"])
    assert seen.usage[-1]["tokens"] == 2 * 110
    assert seen.usage[-1]["usd"] > 0
    assert set(seen.models) == {first.model}
    assert seen.sessions
    assert "let me see" in seen.progress
    assert any(line.startswith("Bash {") for line in seen.progress)

    later = Seen()
    here.api.will_say("again")
    assert await agent.run(later.work("and now?", "q2")) == "again"
    assert "it says ahoy" in here.api.requests[-1].text  # the conversation goes on ...
    assert later.usage[-1] == {"tokens": 110, "usd": pytest.approx(seen.usage[-1]["usd"] / 2)}  # ... the account not


async def test_a_prompt_is_no_command_of_claude_code(here: Place) -> None:
    (here.work / "secret.txt").write_text("the contents")
    agent = await here.start()
    await agent.run(Seen().work("/compact @secret.txt"))
    [request] = here.api.requests
    assert "/compact @secret.txt" in request.text
    assert "the contents" not in request.text


async def test_the_budget_is_asked_before_each_request_with_all_that_was_used(here: Place) -> None:
    agent = await here.start()
    fetch = "Agent", {"description": "d", "prompt": "find it", "subagent_type": "general-purpose"}
    here.api.will_say(Reply("", [bash("echo a"), bash("echo b")]), Reply("", [fetch]))
    here.api.will_say(Reply("", [bash("echo c")]), "found", "done")
    seen = Seen()
    work = seen.work()
    seen.within_budget.clear()
    working = asyncio.create_task(agent.run(work))
    for request in range(5):
        await until(lambda count=request: seen.asked == count + 1)
        assert len(here.api.requests) == request
        assert (seen.usage[-1]["tokens"] if seen.usage else 0) == request * 110
        seen.within_budget.set()
        await until(lambda count=request: len(here.api.requests) == count + 1)
        seen.within_budget.clear()
    assert await working == "done"
    assert seen.asked == 5


async def test_a_budget_that_cannot_be_asked_lets_nothing_pass(here: Place) -> None:
    agent = await here.start()
    here.api.will_say(Reply("", [bash("echo")]), "done")
    work = Seen().work()
    asks = iter([None])

    async def fails_the_second_time() -> None:
        next(asks)

    work.before_request = fails_the_second_time
    with pytest.raises(WorkError, match="Claude Code ended the turn: hook_stopped"):
        await agent.run(work)
    assert len(here.api.requests) == 1


async def test_a_query_has_its_own_model_and_permission_mode(here: Place) -> None:
    agent = await here.start({"allowed_tools": []}, permission_mode="acceptEdits")
    write = "Write", {"file_path": str(here.work / "file"), "content": "x"}
    here.api.will_say(Reply("", [write]), "planned")
    seen = Seen()
    await agent.run(seen.work(model="opus", permission_mode="plan"))
    assert not (here.work / "file").exists()
    assert "opus" in here.api.requests[0].model
    assert set(seen.models) == {here.api.requests[0].model}
    here.api.will_say(Reply("", [write]), "written")
    await agent.run(seen.work(model="sonnet", permission_mode="acceptEdits"))
    assert (here.work / "file").read_text() == "x"
    assert "sonnet" in here.api.requests[-1].model


async def test_errors_of_the_api_fail_the_work_and_not_the_agent(here: Place) -> None:
    agent = await here.start()
    here.api.will_say(Reply(status=500))
    with pytest.raises(WorkError, match="500 stand-in error 500"):
        await agent.run(Seen().work())
    here.api.will_say(Reply(status=404), Reply(status=404))  # it tries once more without a stream
    with pytest.raises(WorkError, match="model"):
        await agent.run(Seen().work(model="nonsense-4"))
    here.api.will_say(Reply(status=429, retry_after=1), "after a while")
    assert await agent.run(Seen().work(model="sonnet")) == "after a while"  # Claude Code asks again by itself
    assert len(here.api.requests) == 5


@pytest.mark.parametrize("killed", [True, False])
async def test_a_session_goes_on_in_a_new_process(here: Place, killed: bool) -> None:
    agent = await here.start()
    here.api.will_say(Reply("", [bash("echo the first step")]), Reply("half", until=asyncio.Event()))
    seen = Seen()
    working = asyncio.create_task(agent.run(seen.work("a long way")))
    await until(lambda: len(here.api.requests) == 2)
    used = seen.usage[-1]
    if killed:
        psutil.Process(agent.process.pid).kill()
    else:
        await agent.end(grace=20)  # then it keeps what it has used
    with pytest.raises(AgentDiedError):
        await working
    again = await here.start(session=seen.sessions[-1])
    later = Seen()
    here.api.will_say("the end")
    assert await again.run(later.work("a long way", resumed=True, used=used)) == "the end"
    request = here.api.requests[-1]
    assert CONTINUE in request.last
    assert request.text.count("a long way") == 1
    assert "the first step" in request.text
    assert (used["tokens"], later.usage[-1]["tokens"]) == (110, 220)
    assert later.sessions[-1] == seen.sessions[-1]


async def test_a_session_that_is_gone_is_no_agent(here: Place) -> None:
    with pytest.raises(AgentDiedError, match="No conversation found"):
        await here.start(session="11111111-1111-4111-8111-111111111111")


async def test_nothing_of_the_servers_environment_or_of_the_project_reaches_it(here: Place) -> None:
    here.monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    hook = {"hooks": [{"type": "command", "command": "touch hooked"}]}
    (here.work / ".claude").mkdir()
    (here.work / ".claude/settings.json").write_text(json.dumps({"hooks": {"PreToolUse": [hook]}}))
    (here.work / ".mcp.json").write_text(json.dumps({"mcpServers": {"evil": {"command": "touch", "args": ["evil"]}}}))
    agent = await here.start()
    here.api.will_say(Reply("", [bash("env > environment")]), "done")
    await agent.run(Seen().work())
    variables = (here.work / "environment").read_text()
    assert "DATABASE_PASSWORD" not in variables
    assert "HOME=" in variables
    assert not (here.work / "hooked").exists()
    assert not (here.work / "evil").exists()
    offered = {tool["name"] for tool in here.api.requests[0].body["tools"]}
    assert {"Bash", "Read"} <= offered
    assert not [name for name in offered if name in FORBIDDEN_TOOLS or name.startswith(("mcp__", "Cron"))]


async def test_without_the_sdk_the_extra_is_named(here: Place) -> None:
    here.monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)
    with pytest.raises(AgentDiedError, match=r"pip install 'quarterdeck\[claude\]'"):
        await here.start()


async def test_a_program_that_is_no_claude_code_is_no_agent(here: Place) -> None:
    with pytest.raises(AgentDiedError, match="Claude Code exited with code 2"):
        await here.start({"command": "/bin/ls"})
    with pytest.raises(AgentDiedError, match="cannot run '/nowhere/claude'"):
        await here.start({"command": "/nowhere/claude"})


@pytest.mark.skipif(shutil.which("bwrap") is not None, reason="there is a sandbox here")
async def test_no_sandbox_is_no_agent_that_needs_one(here: Place) -> None:
    with pytest.raises(AgentDiedError, match="Refusing to start without a working sandbox"):
        await here.start({"sandbox": True})
