"""Agents on models, against a stand-in that speaks the wire protocol, and with the library's own test models."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from quarterdeck.storage.errors import DeniedError
from quarterdeck.tools.agents.rights import CALLABLE, Rights
from quarterdeck.tools.agents.runners.base import (
    AgentDiedError,
    AgentHandle,
    AgentSpec,
    Work,
    WorkCancelledError,
    WorkError,
)
from quarterdeck.tools.agents.runners.llm.config import LlmType
from quarterdeck.tools.agents.runners.llm.runner import LlmRunner
from quarterdeck.tools.arguments import Arguments
from quarterdeck.tools.contract import Call, DeckTool, deck_tool
from tests.servers.chat import INPUT, OUTPUT, ChatServer, Reply, call, say
from tests.until import until

Json = Any
TOKENS = INPUT + OUTPUT


class NoteArguments(Arguments):
    action: str = "store"
    key: str = ""
    namespace: str = "default"


async def unused(_arguments: Arguments, _call: Call) -> Json:
    raise AssertionError("agents call through their rights")


def tool(name: str) -> DeckTool:
    return deck_tool(name, f"Does {name}.", NoteArguments, dict[str, Json], unused, title=name)


TOOLS = [tool(name) for name in ("memory_usage", "agents_spawn_parallel", "vector_search", "upload")]


class Watcher:
    """What a query manager would see of an agent's work."""

    def __init__(self, agent: AgentHandle) -> None:
        self.agent = agent
        self.progress: list[dict[str, Json]] = []
        self.usage: list[dict[str, float]] = []
        self.models: list[str] = []
        self.sessions: list[str] = []
        self.asked = 0
        self.budget = asyncio.Event()
        self.budget.set()

    async def _before_request(self) -> None:
        self.asked += 1
        await self.budget.wait()

    def work(self, prompt: str = "go", query: str = "q1", **more: Any) -> Work:
        return Work(
            query,
            prompt,
            on_progress=self.progress.append,
            on_usage=self.usage.append,
            on_model=self.models.append,
            on_session=self.sessions.append,
            before_request=self._before_request,
            **more,
        )

    def start(self, prompt: str = "go", query: str = "q1", **more: Any) -> asyncio.Task[Json]:
        return asyncio.create_task(self.agent.run(self.work(prompt, query, **more)))


class Deck:
    """Where an agent's calls arrive."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Json]]] = []
        self.rights = Rights("default", ["writer"])
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def call(self, tool: str, arguments: dict[str, Json]) -> Json:
        self.entered.set()
        await self.open.wait()
        self.rights.check(tool, arguments)
        self.calls.append((tool, arguments))
        return {"success": True, "key": arguments.get("key")}


Start = Callable[..., Awaitable[Watcher]]


@pytest.fixture
def deck() -> Deck:
    return Deck()


@pytest.fixture
async def server() -> AsyncGenerator[ChatServer]:
    async with ChatServer() as server:
        yield server


@pytest.fixture
async def start(deck: Deck, server: ChatServer, tmp_path: Path) -> AsyncGenerator[Start]:
    """Starts agents on the stand-in."""
    started: list[AgentHandle] = []

    async def start(session: str | None = None, name: str = "writer-1", **settings: Any) -> Watcher:
        given = {"model": "small", "models": {"small": "m-small", "large": "m-large"}, "base_url": server.url}
        kind = LlmType.model_validate({"runner": "llm", **given, **settings})
        spec = AgentSpec(name, "writer", "Wanda", str(tmp_path), session=session)
        agent = await LlmRunner({"writer": kind}, lambda: TOOLS).start(spec, deck.call)
        started.append(agent)
        return Watcher(agent)

    yield start
    for agent in started:
        await agent.end(grace=0)


async def on(model: Model, deck: Deck, folder: Path) -> Watcher:
    """An agent on a test model of the library's."""
    kind = LlmType(runner="llm", model="one", base_url="http://127.0.0.1:9/v1", max_requests=5)
    runner = LlmRunner({"writer": kind}, lambda: TOOLS, connect=lambda _kind, _name: model)
    return Watcher(await runner.start(AgentSpec("writer-1", "writer", "Wanda", str(folder)), deck.call))


# --- work


async def test_it_works_with_the_tools_of_the_deck_and_tells_what_it_uses(
    start: Start, server: ChatServer, deck: Deck, tmp_path: Path
) -> None:
    server.script.extend([call("memory_usage", action="store", key="a", namespace="writer"), say("It is ", "kept.")])
    seen = await start(system_prompt="Be brief.")
    assert await seen.start("Keep it.") == "It is kept."
    assert deck.calls == [("memory_usage", {"action": "store", "key": "a", "namespace": "writer"})]
    assert json.loads(server.tool_results()[0]) == {"success": True, "key": "a"}
    assert seen.usage == [{"tokens": TOKENS}, {"tokens": 2 * TOKENS}]  # no usd: nobody knows the price of a local model
    assert seen.models == ["m-small", "m-small"]
    assert seen.asked == 2
    assert seen.progress[-1] == {"done": 2, "total": None, "message": "request 2: 11 characters"}
    assert any(report["message"] == "request 2: It is " for report in seen.progress)
    assert [report["done"] for report in seen.progress] == sorted(report["done"] for report in seen.progress)
    first = server.requests[0]
    offered = {one["function"]["name"]: one["function"] for one in first["tools"]}
    assert set(offered) == {"memory_usage", "vector_search"} == {one.name for one in TOOLS} & CALLABLE
    assert offered["memory_usage"]["parameters"]["properties"].keys() == {"action", "key", "namespace"}
    system = first["messages"][0]["content"]
    assert all(part in system for part in ("Wanda", "writer", "Be brief."))
    assert seen.agent.process is None
    assert seen.agent.usage() is None
    kept = tmp_path / "conversations" / "writer-1.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    await seen.agent.end(grace=0)
    assert list(kept.parent.iterdir()) == []
    assert await seen.agent.wait() == "it was ended"
    with pytest.raises(AgentDiedError):
        await seen.start()


async def test_the_conversation_goes_on_over_queries(start: Start, server: ChatServer) -> None:
    server.script.extend([say("one"), say("two")])
    seen = await start()
    assert await seen.start("first", "q1") == "one"
    assert await seen.start("second", "q2") == "two"
    assert server.prompts() == ["first", "second"]
    assert seen.usage == [{"tokens": TOKENS}, {"tokens": TOKENS}]  # of each query


async def test_a_refusal_is_for_the_model_to_read(start: Start, server: ChatServer, deck: Deck) -> None:
    server.script.extend([call("memory_usage", action="store", key="a", namespace="other"), say("I may not.")])
    seen = await start()
    assert await seen.start() == "I may not."
    [refusal] = server.tool_results()
    with pytest.raises(DeniedError) as denied:
        deck.rights.check("memory_usage", {"action": "store", "namespace": "other"})
    assert denied.value.message in refusal


@pytest.mark.parametrize("calls", [{"no_such_tool": "{}"}, {"memory_usage": '{"action": '}, {"memory_usage": "[1]"}])
async def test_nonsense_calls_are_told_to_the_model(
    start: Start, server: ChatServer, deck: Deck, calls: dict[str, str]
) -> None:
    server.script.extend([Reply(calls=calls), Reply(calls=calls), Reply(calls=calls), say("I gave up.")])
    seen = await start()
    assert await seen.start() == "I gave up."
    assert deck.calls == []


async def test_requests_without_an_end_are_bounded(start: Start, server: ChatServer) -> None:
    server.script.extend(call("memory_usage", action="list") for _ in range(5))
    seen = await start(max_requests=3)
    with pytest.raises(WorkError, match="3 requests \\(max_requests\\)"):
        await seen.start()
    assert len(server.requests) == 3


async def test_a_server_that_tells_no_usage_leaves_it_unknown(start: Start, server: ChatServer) -> None:
    server.script.append(say("hm", usage=False))
    seen = await start()
    assert await seen.start() == "hm"
    assert seen.usage == [{}]


@pytest.mark.parametrize(("says", "seen_as"), [("m-small-2026-01-05", "m-small"), ("m-small-mini", "m-small-mini")])
async def test_the_model_is_the_one_that_was_seen(start: Start, server: ChatServer, says: str, seen_as: str) -> None:
    server.script.append(say("hm", model=says))
    seen = await start()
    await seen.start()
    assert seen.models == [seen_as]


# --- hold, change, leave


async def test_nothing_is_sent_while_it_is_held_and_a_new_model_is_that_of_the_next_request(
    start: Start, server: ChatServer, deck: Deck
) -> None:
    go_on = asyncio.Event()
    server.script.append(replace(call("memory_usage", action="list"), chunks=["I look", "."], go_on=go_on))
    seen = await start()
    running = seen.start()
    await until(lambda: seen.progress)
    pausing = asyncio.create_task(seen.agent.pause("hold"))
    await asyncio.sleep(0.05)
    assert not pausing.done()  # a request is under way
    go_on.set()
    outcome = await pausing
    assert (outcome.get("status"), outcome.get("lossless")) == ("applied", True)
    changed = await seen.agent.set_model("m-large")
    assert (changed.get("status"), changed.get("effectiveAt")) == ("queued", "next_request")
    await asyncio.sleep(0.1)
    assert (server.models, deck.calls) == (["m-small"], [])  # neither a request nor a tool
    assert (await seen.agent.resume()).get("status") == "applied"
    assert await running == "done"
    assert server.models == ["m-small", "m-large"]
    assert seen.models == ["m-small", "m-large"]
    assert len(deck.calls) == 1


async def test_a_hold_among_tools_stands_after_them(start: Start, server: ChatServer, deck: Deck) -> None:
    server.script.append(call("memory_usage", action="list"))
    deck.open.clear()
    seen = await start()
    running = seen.start()
    await deck.entered.wait()
    pausing = asyncio.create_task(seen.agent.pause("hold"))
    deck.open.set()
    assert (await pausing).get("status") == "applied"
    assert (len(server.requests), len(deck.calls)) == (1, 1)
    assert (await seen.agent.pause("hold")).get("status") == "applied"
    await seen.agent.resume()
    assert await running == "done"


async def test_a_hold_before_the_work_holds_its_first_request(start: Start, server: ChatServer) -> None:
    seen = await start()
    assert (await seen.agent.pause("hold")).get("status") == "applied"
    running = seen.start()
    await until(lambda: seen.asked)
    await asyncio.sleep(0.05)
    assert server.requests == []
    await seen.agent.resume()
    assert await running == "done"


async def test_no_request_is_sent_before_the_budget_allows_it(start: Start, server: ChatServer) -> None:
    server.script.append(call("memory_usage", action="list"))
    seen = await start()
    running = seen.start()
    await until(lambda: seen.usage)
    seen.budget.clear()
    await until(lambda: seen.asked == 2)
    await asyncio.sleep(0.05)
    assert len(server.requests) == 1
    assert (await seen.agent.pause("hold")).get("status") == "applied"  # it stands there
    seen.budget.set()
    await asyncio.sleep(0.05)
    assert len(server.requests) == 1
    await seen.agent.resume()
    assert await running == "done"


@pytest.mark.parametrize("where", ["request", "tool", "hold", "before"])
async def test_cancelled_work_leaves_at_once_and_leaves_no_trace(
    start: Start, server: ChatServer, deck: Deck, where: str
) -> None:
    server.script.append(say("one"))
    seen = await start()
    await seen.start("first", "q0")
    if where == "request":
        server.script.append(say("a", "b", go_on=asyncio.Event()))
    else:
        server.script.append(call("memory_usage", action="list"))
    if where == "tool":
        deck.open.clear()
    if where == "before":
        await seen.agent.cancel("q1")
    running = seen.start("second")
    if where == "request":
        await until(lambda: seen.progress[-1]["message"] == "request 1: a")
    elif where == "tool":
        await deck.entered.wait()
    elif where == "hold":
        assert (await seen.agent.pause("hold")).get("status") == "applied"
    await seen.agent.cancel("q1")
    async with asyncio.timeout(5):
        with pytest.raises(WorkCancelledError):
            await running
        if where == "request":
            await server.given_up.wait()
    await seen.agent.resume()
    deck.open.set()
    server.script.clear()
    assert await seen.start("third", "q2") == "done"
    assert server.prompts() == ["first", "third"]


async def test_an_agent_that_is_ended_gives_up_its_work(start: Start, server: ChatServer) -> None:
    server.script.append(say("a", "b", go_on=asyncio.Event()))
    seen = await start()
    running = seen.start()
    await until(lambda: seen.progress)
    await seen.agent.end(grace=5)
    with pytest.raises(AgentDiedError, match="it was ended"):
        await running


async def test_what_it_cannot_do_it_says(start: Start) -> None:
    seen = await start()
    assert seen.agent.levels == ("hold",)
    outcome = await seen.agent.execute_command("ls")
    assert outcome.get("status") == "unsupported"
    assert outcome.get("alternatives")
    assert (await seen.agent.set_permissions("plan")).get("status") == "applied"


# --- after a server's end


@pytest.mark.parametrize("at", ["first request", "second request", "tool"])
async def test_another_server_goes_on_where_the_work_was(start: Start, server: ChatServer, deck: Deck, at: str) -> None:
    slow = say("a", "b", go_on=asyncio.Event())
    looks = call("memory_usage", action="list")
    server.script.extend([say("one"), *([slow] if at == "first request" else [looks, slow])])
    first = await start()
    await first.start("first", "q0")
    deck.open.clear()
    running = first.start("second")
    if at != "tool":
        deck.open.set()
        await until(lambda: len(server.requests) == (2 if at == "first request" else 3))
    else:
        await deck.entered.wait()
    running.cancel()  # as at the end of the server: nobody tidies up
    with pytest.raises(asyncio.CancelledError):
        await running
    deck.open.set()
    server.script.clear()
    server.script.append(say("It goes on."))
    second = await start(session=first.sessions[-1])
    assert await second.start("second", resumed=True) == "It goes on."
    assert server.prompts() == ["first", "second"]
    results = server.tool_results()
    assert len(results) == (0 if at == "first request" else 1)
    assert len(deck.calls) == len(results)
    answers = 1 if at == "first request" else 2
    assert second.usage[-1] == {"tokens": answers * TOKENS}  # what it used before counts
    assert await second.start("second", resumed=True) == "It goes on."  # its answer was not taken
    assert second.usage[-2:] == [{"tokens": answers * TOKENS}] * 2


async def test_without_a_resume_the_work_that_was_cut_off_is_forgotten(start: Start, server: ChatServer) -> None:
    server.script.append(say("a", "b", go_on=asyncio.Event()))
    first = await start()
    running = first.start("first")
    await until(lambda: first.progress)
    running.cancel()
    await asyncio.wait([running])
    second = await start(session=first.sessions[-1])
    assert await second.start("second", "q2") == "done"
    assert server.prompts() == ["second"]


@pytest.mark.parametrize("content", [None, b"", b'{"messages": 3}'])
async def test_a_conversation_that_cannot_be_read_is_a_plain_error(
    start: Start, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "conversations").mkdir()
        (tmp_path / "conversations" / "writer-1.json").write_bytes(content)
    with pytest.raises(AgentDiedError, match=r"writer-1\.json"):
        await start(session="writer-1")


async def test_a_conversation_that_cannot_be_kept_ends_the_work_before_its_request(
    start: Start, server: ChatServer, tmp_path: Path
) -> None:
    (tmp_path / "conversations").write_text("in the way")
    seen = await start()
    with pytest.raises(WorkError, match="its conversation could not be kept"):
        await seen.start("first")
    assert server.requests == []
    (tmp_path / "conversations").unlink()
    server.script.append(say("no \ud800 text"))
    with pytest.raises(WorkError, match="its conversation could not be kept"):
        await seen.start("second", "q2")
    assert await seen.start("third", "q3") == "done"
    assert server.prompts() == ["third"]


# --- servers and settings that fail


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (Reply(status=400, error="context too long"), "context too long"),
        (Reply(status=401, error="wrong key: sk-secret"), "401"),
        (Reply(status=404, error="there is no m-small"), "there is no m-small"),
        (say("a", cut=True), "m-small: "),
        (Reply(raw="<html>It works!</html>"), "m-small: "),
        (Reply(raw="data: {nonsense\n\n"), "m-small: "),
        (Reply(raw='data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
    ],
)
async def test_what_a_server_refuses_is_the_error_of_the_work(
    start: Start,
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    reply: Reply,
    complaint: str,
) -> None:
    monkeypatch.setenv("WRITER_KEY", "sk-secret\r\n")
    server.script.append(reply)
    seen = await start(api_key_env="WRITER_KEY")
    with pytest.raises(WorkError) as failed:
        await seen.start("first")
    assert complaint in str(failed.value)
    assert "sk-secret" not in str(failed.value)
    assert server.keys == ["sk-secret"]
    assert await seen.start("second", "q2") == "done"
    assert server.prompts() == ["second"]


async def test_a_busy_server_is_asked_again(start: Start, server: ChatServer) -> None:
    server.script.append(Reply(status=429, headers={"retry-after-ms": "1"}))
    seen = await start()
    assert await seen.start() == "done"
    assert len(server.requests) == 2
    server.script.extend(Reply(status=429, headers={"retry-after-ms": "1"}) for _ in range(9))
    with pytest.raises(WorkError, match="429"):
        await seen.start("again", "q2")


async def test_an_error_names_the_model_that_was_asked(start: Start, server: ChatServer) -> None:
    go_on = asyncio.Event()
    server.script.append(say("a", "b", go_on=go_on, cut=True))
    seen = await start()
    running = seen.start()
    await until(lambda: seen.progress)
    await seen.agent.set_model("m-large")
    go_on.set()
    with pytest.raises(WorkError, match="m-small: "):
        await running


async def test_a_server_that_is_not_there_is_the_error_of_the_work(start: Start, server: ChatServer) -> None:
    seen = await start(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(WorkError, match=r"m-small: (?i:connection error)"):
        await seen.start()


async def test_no_key_goes_to_a_server_that_the_configuration_gives_none(
    start: Start, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    seen = await start()
    await seen.start()
    assert "sk-other" not in server.keys


async def test_a_provider_by_its_name_has_prices(
    start: Start, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("WRITER_KEY", "sk-secret")
    seen = await start(base_url=None, model="openai-chat:gpt-4o", models={}, api_key_env="WRITER_KEY")
    assert await seen.start() == "done"
    assert seen.models == ["openai-chat:gpt-4o"]
    [used] = seen.usage
    assert used == {"tokens": TOKENS, "usd": pytest.approx((INPUT * 2.5 + OUTPUT * 10) / 1e6)}
    assert server.keys == ["sk-secret"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "openai:gpt-5", "api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY, which api_key_env names, is not set"),
        ({"model": "openai:gpt-5", "api_key_env": "BAD_KEY"}, "BAD_KEY, which api_key_env names, holds no key"),
        ({"model": "nobody:gpt-5", "api_key_env": "PATH"}, "nobody"),
        ({"model": "bedrock:claude", "api_key_env": "PATH"}, "bedrock:claude"),
        ({"model": "groq:x", "api_key_env": "PATH"}, "package"),
    ],
)
async def test_a_model_that_cannot_be_reached_fails_the_start(
    start: Start, settings: dict[str, Json], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD_KEY", "sk-é")
    with pytest.raises(AgentDiedError) as died:
        await start(base_url=None, models={}, **settings)
    assert complaint in str(died.value)


async def test_a_model_of_another_provider_without_its_key_is_refused_and_the_work_goes_on(
    start: Start, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("WRITER_KEY", "sk-secret")
    keys = {"openai-chat": "WRITER_KEY", "anthropic": "NO_SUCH_KEY"}
    models = {"small": "openai-chat:gpt-4o", "large": "anthropic:claude-opus-4-5"}
    seen = await start(base_url=None, model="small", models=models, api_key_env=keys)
    outcome = await seen.agent.set_model("anthropic:claude-opus-4-5")
    assert (outcome.get("status"), "NO_SUCH_KEY" in str(outcome.get("reason"))) == ("failed", True)
    assert await seen.start() == "done"
    assert server.models == ["gpt-4o"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"model": "gpt-5"}, "should be 'provider:model'"),
        ({"model": "openai:gpt-5"}, "api_key_env should name"),
        ({"model": "openai:gpt-5", "api_key_env": {"anthropic": "X"}}, "the key of openai"),
        ({"model": "small", "models": {"small": "m"}}, "should be 'provider:model'"),
        ({"model": "m", "base_url": "localhost:11434"}, "http:// or https:// address"),
        ({"model": "m", "base_url": "http://me:secret@host/v1"}, "should hold no key"),
        ({"model": "m", "base_url": "http://host/v1?key=1"}, "should hold no key"),
        ({"model": "m", "base_url": "http://host/v1", "max_requests": 0}, "greater than or equal to 1"),
        ({"model": "m", "base_url": "http://host/v1", "temperature": 1}, "temperature"),
    ],
)
def test_bad_settings_name_what_is_wrong(settings: dict[str, Json], complaint: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LlmType.model_validate({"runner": "llm", **settings})
    assert complaint in str(refused.value)


# --- the library's own test models


async def test_on_the_librarys_test_model_every_tool_is_called_once(deck: Deck, tmp_path: Path) -> None:
    deck.rights.mode = "acceptEdits"
    seen = await on(TestModel(custom_output_text="all tried"), deck, tmp_path)
    assert await seen.start() == "all tried"
    assert {tool for tool, _ in deck.calls} == {"memory_usage", "vector_search"}
    await seen.agent.end(grace=0)


async def test_a_model_that_says_nothing_is_asked_again_and_not_for_ever(deck: Deck, tmp_path: Path) -> None:
    asked = 0

    async def silent(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        nonlocal asked
        asked += 1
        yield ""

    seen = await on(FunctionModel(stream_function=silent, model_name="silent"), deck, tmp_path)
    with pytest.raises(WorkError, match="max_requests"):
        await seen.start()
    assert asked == 5
    await seen.agent.end(grace=0)
