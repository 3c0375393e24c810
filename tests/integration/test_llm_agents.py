"""Agents on models through a deck: a TOML file, a stand-in for the model's server, and a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from quarterdeck.server.config import SettingsError, load_settings
from quarterdeck.tools.agents.rights import CALLABLE
from tests.here import DeckHere
from tests.servers.chat import INPUT, OUTPUT, ChatServer, call, say
from tests.until import until

Json = dict[str, Any]
TOKENS = INPUT + OUTPUT
TYPE = """
[agents.types.writer]
runner = "llm"
base_url = "{url}"
model = "small"
models = {{ small = "m-small", large = "m-large" }}
{more}
"""


@pytest.fixture
async def server() -> AsyncGenerator[ChatServer]:
    async with ChatServer() as server:
        yield server


def deck_on(
    server: ChatServer, folder: Path, more: str = "", deck: type[DeckClient] = DeckHere, **environment: str
) -> DeckClient:
    (folder / "deck.toml").write_text(TYPE.format(url=server.url, more=more))
    return deck(folder / "deck", environment={"QUARTERDECK_CONFIG": str(folder / "deck.toml"), **environment})


async def spawn(deck: DeckClient, **more: Any) -> str:
    wanted = [{"type": "writer", "name": "Wanda", **more}]
    [agent] = (await deck.call("agents_spawn_parallel", agents=wanted))["results"]
    assert agent["status"] == "spawned", agent
    return str(agent["agentId"])


async def refusal(deck: DeckClient, **more: Any) -> str:
    """Why no agent was started."""
    with pytest.raises(ToolRefusedError) as refused:
        await deck.call("agents_spawn_parallel", agents=[{"type": "writer", "name": "Wanda", **more}])
    return str(refused.value)


async def start(deck: DeckClient, agent: str, prompt: str = "go", **more: Any) -> str:
    return str((await deck.call("query_start", agentId=agent, prompt=prompt, **more))["queryId"])


async def result(deck: DeckClient, query: str) -> Json:
    [done] = (await deck.call("query_wait", queryIds=[query], timeout=60))["results"]
    return done


async def shown(deck: DeckClient, query: str) -> Json:
    listed = (await deck.call("query_list", includeHistory=True))["queries"]
    return next(one for one in listed if one["queryId"] == query)


async def is_now(deck: DeckClient, query: str, status: str) -> bool:
    return (await shown(deck, query))["status"] == status


async def test_it_is_held_moved_to_another_model_and_gives_its_result(server: ChatServer, tmp_path: Path) -> None:
    go_on = asyncio.Event()
    stores = call("memory_usage", action="store", key="plan", value="ship it", namespace="writer")
    server.script.extend([replace(stores, chunks=["I keep", " it."], go_on=go_on), say("Kept.")])
    async with deck_on(server, tmp_path) as deck:
        agent = await spawn(deck)
        query = await start(deck, agent, "Keep the plan.")
        await until(lambda: server.requests)
        paused = await deck.call("query_control", action="pause", queryId=query)
        assert (paused["status"], paused["level"], paused["lossless"]) == ("pending", "hold", True)
        go_on.set()
        await until(lambda: is_now(deck, query, "paused"))
        changed = await deck.call("query_control", action="change_model", queryId=query, model="large")
        assert (changed["status"], changed["effectiveAt"]) == ("queued", "next_request")
        assert (await shown(deck, query))["model"] == "m-small"  # what was seen so far
        assert server.models == ["m-small"]
        with pytest.raises(ToolRefusedError) as refused:
            await deck.call("query_control", action="execute_command", queryId=query, command="ls")
        assert (refused.value.answer["status"], bool(refused.value.answer["alternatives"])) == ("unsupported", True)
        assert not (await deck.call("memory_usage", action="retrieve", key="plan", namespace="writer"))["found"]
        resumed = await deck.call("query_control", action="resume", queryId=query)
        assert resumed["status"] == "applied"
        done = await result(deck, query)
        assert (done["status"], done["result"]) == ("completed", "Kept.")
        assert (done["usage"]["tokens"], done["usage"]["usd"]) == (2 * TOKENS, None)
        assert (await shown(deck, query))["model"] == "m-large"
        assert server.models == ["m-small", "m-large"]
        kept = await deck.call("memory_usage", action="retrieve", key="plan", namespace="writer")
        assert kept["value"] == "ship it"
        offered = {tool["function"]["name"] for tool in server.requests[0]["tools"]}
        assert {"memory_usage", "vector_search", "uploads"} <= offered <= CALLABLE


async def test_a_budget_holds_it_before_the_next_request_and_a_larger_one_lets_it_go_on(
    server: ChatServer, tmp_path: Path
) -> None:
    server.script.extend([call("memory_usage", action="list"), call("memory_usage", action="list"), say("Enough.")])
    async with deck_on(server, tmp_path) as deck:
        query = await start(deck, await spawn(deck), budget={"tokens": 2 * TOKENS - 1})
        await until(lambda: is_now(deck, query, "paused"))
        assert len(server.requests) == 2
        with pytest.raises(ToolRefusedError, match="tokens"):
            await deck.call("query_control", action="resume", queryId=query)
        await deck.call("query_control", action="resume", queryId=query, budget={"tokens": 10 * TOKENS})
        done = await result(deck, query)
        assert (done["status"], done["result"], done["usage"]["tokens"]) == ("completed", "Enough.", 3 * TOKENS)
        assert len(server.requests) == 3


async def test_after_a_kill_it_goes_on_where_it_was(server: ChatServer, tmp_path: Path) -> None:
    server.script.extend([call("memory_usage", action="list"), say("a", "b", go_on=asyncio.Event())])
    async with deck_on(server, tmp_path, deck=DeckClient) as deck:
        agent = await spawn(deck)
        query = await start(deck, agent, "Look.")
        await until(lambda: len(server.requests) == 2)
        await until(lambda: was_told(deck, agent, query))
        await deck.kill()
    server.script.append(say("Nothing there."))
    async with deck_on(server, tmp_path) as deck:
        assert await is_now(deck, query, "interrupted")
        assert len(server.requests) == 2  # nothing that spends goes on by itself
        await deck.call("query_control", action="resume", queryId=query)
        done = await result(deck, query)
        assert (done["status"], done["result"]) == ("completed", "Nothing there.")
        assert done["usage"]["tokens"] == 2 * TOKENS
        assert (server.prompts(), len(server.tool_results())) == (["Look."], 1)


async def was_told(deck: DeckClient, agent: str, query: str) -> bool:
    [row] = (await deck.call("agents_list", agentId=agent, includeHistory=True))["agents"]
    return any(event["event"] == "session" for event in row["history"])


async def test_terminate_gives_its_request_up_at_once(server: ChatServer, tmp_path: Path) -> None:
    server.script.append(say("a", "b", go_on=asyncio.Event()))
    async with deck_on(server, tmp_path) as deck:
        agent = await spawn(deck)
        query = await start(deck, agent)
        await until(lambda: server.requests)
        ended = await deck.call("query_control", action="terminate", queryId=query)
        assert ended["observed"] == {"status": "terminated", "agent": "idle"}
        await asyncio.wait_for(server.given_up.wait(), 10)
        assert (await result(deck, await start(deck, agent)))["result"] == "done"
        assert (await deck.call("agents_stop", agentIds=[agent]))["success"]
        assert not list((tmp_path / "deck").rglob("conversations/*"))


async def test_its_permission_mode_binds_it_and_what_is_refused_is_for_the_model(
    server: ChatServer, tmp_path: Path
) -> None:
    stores = call("memory_usage", action="store", key="a", value=1, namespace="writer")
    server.script.extend([stores, call("memory_usage", action="nonsense"), call("upload", files=[]), say("I may not.")])
    async with deck_on(server, tmp_path) as deck:
        query = await start(deck, await spawn(deck), permissionMode="plan")
        assert (await result(deck, query))["result"] == "I may not."
        refusals = server.tool_results()
        assert all(part in refusal for part, refusal in zip(("plan", "plan", "upload"), refusals, strict=True))
        assert "widest_mode" in await refusal(deck, permissionMode="acceptEdits")


async def test_keys_are_in_no_answer_and_no_log(server: ChatServer, tmp_path: Path) -> None:
    more = 'api_key_env = "WRITER_KEY"'
    environment = {"WRITER_KEY": "sk-secret", "QUARTERDECK_LOG_LEVEL": "DEBUG"}
    server.script.append(replace(say(), status=401, error="wrong key sk-secret"))
    async with deck_on(server, tmp_path, more, DeckClient, **environment) as deck:
        done = await result(deck, await start(deck, await spawn(deck)))
        assert (done["status"], "wrong key ***" in done["error"]) == ("failed", True)
        assert server.keys == ["sk-secret"]
        assert "sk-secret" not in deck.stderr
    async with deck_on(server, tmp_path, more) as deck:
        assert "WRITER_KEY, which api_key_env names, is not set" in await refusal(deck)


async def test_without_its_extra_the_error_names_it(server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "pydantic_ai.py").write_text("raise ModuleNotFoundError(\"No module named 'pydantic_ai'\")")
    async with deck_on(server, tmp_path, deck=DeckClient, PYTHONPATH=str(tmp_path)) as deck:
        assert "pip install 'quarterdeck[llm]'" in await refusal(deck)


def test_a_bad_type_is_told_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deck.toml").write_text(TYPE.format(url="http://localhost:1", more="max_requests = 0"))
    monkeypatch.setenv("QUARTERDECK_CONFIG", str(tmp_path / "deck.toml"))
    with pytest.raises(SettingsError, match=r"agents\.types\.writer.*max_requests"):
        load_settings()


@pytest.mark.parametrize("trouble", ["unknown model", "down"])
async def test_trouble_of_its_provider_while_it_was_paused_fails_the_query_plainly(
    server: ChatServer, tmp_path: Path, trouble: str
) -> None:
    go_on = asyncio.Event()
    lists = call("memory_usage", action="list")
    server.script.append(replace(lists, chunks=["I look", " it up."], go_on=go_on))
    async with deck_on(server, tmp_path) as deck:
        agent = await spawn(deck)
        query = await start(deck, agent)
        await until(lambda: server.requests)
        pausing = asyncio.create_task(deck.call("query_control", action="pause", queryId=query))
        await until(lambda: is_now(deck, query, "pausing"))
        go_on.set()
        await pausing
        await until(lambda: is_now(deck, query, "paused"))
        if trouble == "down":
            await server.close()
        else:
            server.script.append(replace(say(), status=404, error="model m-large not found"))
            changed = await deck.call("query_control", action="change_model", queryId=query, model="large")
            assert changed["status"] == "queued"
        assert (await deck.call("query_control", action="resume", queryId=query))["status"] == "applied"
        done = await result(deck, query)
        assert done["status"] == "failed"
        assert ("Connection error" if trouble == "down" else "m-large: ") in done["error"]
        assert trouble == "down" or "model m-large not found" in done["error"]
        [idle] = (await deck.call("agents_list", agentId=agent))["agents"]
        assert idle["status"] == "idle"
