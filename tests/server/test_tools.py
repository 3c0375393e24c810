"""The tools as a client meets them: small, annotated, strict, and plain about every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client

from quarterdeck.server.app import DeckServer
from quarterdeck.server.client import DeckClient, Era, ToolRefusedError
from quarterdeck.server.config import Settings
from quarterdeck.server.deck import open_deck
from tests.here import DeckHere

CONTRACT = {
    "memory_usage", "agents_spawn_parallel", "agents_list", "agents_stop", "query_start", "query_control",
    "query_list", "query_wait", "upload", "uploads", "vector_upsert", "vector_search", "vector_delete",
    "vector_collections", "optimizer", "server_status",
}  # fmt: skip
VALID: dict[str, dict[str, Any]] = {
    "memory_usage": {"action": "list"},
    "agents_spawn_parallel": {"crew": "documents"},
    "agents_list": {},
    "agents_stop": {"all": True},
    "query_start": {"agentId": "nobody", "prompt": "work"},
    "query_control": {"action": "pause", "queryId": "nothing"},
    "query_list": {},
    "query_wait": {"queryIds": ["nothing"]},
    "upload": {"files": [{"name": "a.txt", "content": "text"}]},
    "uploads": {"action": "list"},
    "vector_upsert": {"collection": "c", "points": [{"id": "1", "text": "words"}]},
    "vector_search": {"collection": "nothing", "query": "words"},
    "vector_delete": {"collection": "nothing", "ids": ["1"]},
    "vector_collections": {"action": "list"},
    "optimizer": {},
    "server_status": {},
}
MISTAKES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("memory_usage", {"action": "remember"}, ["action", "'store'", "'retrieve'", "'search'"]),
    ("memory_usage", {}, ["missing argument 'action'"]),
    ("memory_usage", {"action": "store", "key": "k"}, ["value"]),
    ("memory_usage", {"action": "store", "key": 3, "value": 1}, ["key", "string"]),
    ("memory_usage", {"action": "store", "key": "k", "value": 1, "ttl": True}, ["ttl"]),
    ("memory_usage", {"action": "store", "key": "k", "value": 1, "ttl": -1}, ["ttl"]),
    ("agents_spawn_parallel", {}, ["either agents or crew", "documents"]),
    ("agents_spawn_parallel", {"agents": []}, ["agents", "at least 1"]),
    ("agents_spawn_parallel", {"crew": "pirates"}, ["unknown crew 'pirates'", "documents"]),
    ("agents_spawn_parallel", {"agents": [{"type": "researcher"}]}, ["missing argument 'agents.0.name'"]),
    (
        "agents_spawn_parallel",
        {"agents": [{"type": "researcher", "name": "n", "priority": "huge"}]},
        ["priority", "'critical'"],
    ),
    ("agents_spawn_parallel", {"agents": [{"type": "t", "name": "n"}] * 10_000}, ["at most 100"]),
    ("agents_list", {"status": "sleepy"}, ["status", "'idle'"]),
    ("agents_list", {"agentId": "nobody"}, ["no agent 'nobody'", "agents_list"]),
    ("agents_list", {"cursor": "../../etc"}, ["cursor", "nextCursor"]),
    ("agents_stop", {}, ["agentIds", "all"]),
    ("agents_stop", {"agentIds": ["nobody"]}, ["no agent 'nobody'"]),
    ("query_start", {"agentId": "nobody", "prompt": "x"}, ["no agent 'nobody'", "agents_list"]),
    ("query_start", {"agentId": "nobody", "prompt": ""}, ["prompt", "at least 1"]),
    ("query_control", {"action": "dance", "queryId": "q"}, ["action", "'pause'", "'terminate'"]),
    ("query_control", {"action": "pause", "queryId": "nothing"}, ["no query 'nothing'", "query_list"]),
    ("query_list", {"limit": 0}, ["limit", "greater than or equal to 1"]),
    ("query_list", {"limit": "many"}, ["limit", "integer"]),
    ("query_wait", {"queryIds": ["nothing"]}, ["no query 'nothing'", "query_list"]),
    ("query_wait", {"queryIds": []}, ["queryIds"]),
    ("upload", {"files": []}, ["No files uploaded"]),
    ("upload", {"files": [{"name": "a", "content": "b"}] * 21}, ["Maximum 20 files allowed"]),
    ("uploads", {"action": "read", "key": "uploads/none"}, ["uploads/none"]),
    ("uploads", {"action": "rename"}, ["'list'", "'read'", "'presign'", "'delete'"]),
    ("vector_search", {"collection": "nothing", "query": "x"}, ["nothing"]),
    ("vector_search", {"collection": "nothing"}, ["query", "vector", "queries", "vectors"]),
    ("vector_upsert", {"collection": "c", "points": [{"id": "1"}]}, ["text", "vector"]),
    ("vector_collections", {"action": "burn"}, ["'create'", "'describe'", "'drop'"]),
    ("vector_delete", {"collection": "nothing", "ids": ["1"]}, ["nothing"]),
    ("optimizer", {"action": "tune"}, ["'status'", "'start'", "'stop'"]),
    ("optimizer", {"action": "start", "intervalMs": 1}, ["intervalMs", "100"]),
]


async def test_all_sixteen_tools_are_offered_within_the_budget(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        tools = (await deck.client.list_tools()).tools
    assert {tool.name for tool in tools} == CONTRACT
    size = sum(len(tool.model_dump_json(by_alias=True, exclude_unset=True).encode()) for tool in tools)
    assert size / 4 < 6000
    for tool in tools:
        assert tool.description
        assert tool.annotations is not None
        hints = tool.annotations
        assert None not in (
            hints.read_only_hint,
            hints.destructive_hint,
            hints.idempotent_hint,
            hints.open_world_hint,
        ), tool.name
        assert tool.output_schema is not None
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        jsonschema.Draft202012Validator.check_schema(tool.output_schema)
        assert tool.input_schema["additionalProperties"] is False
        assert "$ref" not in json.dumps(tool.input_schema)


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_every_mistake_gets_a_plain_answer_and_the_server_lives_on(tmp_path: Path, era: Era) -> None:
    async with DeckClient(tmp_path, era=era) as deck:
        for tool, arguments, words in MISTAKES:
            with pytest.raises(ToolRefusedError) as caught:
                await deck.call(tool, **arguments)
            answer = caught.value.answer
            assert answer["success"] is False
            assert answer["code"]
            for word in words:
                assert word in answer["error"], (tool, arguments, answer["error"])
            assert "Traceback" not in answer["error"]
            assert "pydantic" not in answer["error"]
            assert len(answer["error"]) < 1000
        assert (await deck.call("server_status"))["success"] is True
        assert '"level": "ERROR"' not in deck.stderr


async def test_every_tool_refuses_an_unknown_argument_by_name(tmp_path: Path) -> None:
    assert VALID.keys() == CONTRACT
    async with DeckHere(tmp_path) as deck:
        for tool, arguments in VALID.items():
            with pytest.raises(ToolRefusedError) as caught:
                await deck.call(tool, **arguments, colour="red")
            assert "unknown argument 'colour' (valid: " in caught.value.answer["error"]


async def test_an_unknown_tool_is_an_error_that_lists_the_tools(tmp_path: Path) -> None:
    async with DeckHere(tmp_path) as deck:
        with pytest.raises(ToolRefusedError, match=r"unknown tool 'swarm_init' \(tools: .*memory_usage") as caught:
            await deck.call("swarm_init")
    assert (caught.value.answer["success"], caught.value.answer["code"]) == (False, "not_found")


async def test_a_defect_is_an_error_that_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("a secret of the deck")

    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck, Client(DeckServer(deck)) as client:
        deck.tools["optimizer"].handler = fail
        result = await client.call_tool("optimizer", {})
    assert result.is_error
    assert (result.structured_content or {})["code"] == "failed"
    assert "secret" not in str(result)
    assert "a secret of the deck" in caplog.text


async def test_both_spellings_of_an_argument_are_understood(tmp_path: Path) -> None:
    async with DeckHere(tmp_path) as deck:
        assert (await deck.call("query_list", include_history=True))["queries"] == []
        assert (await deck.call("query_list", includeHistory=True))["queries"] == []


async def test_the_control_flag_takes_the_tool_away(tmp_path: Path) -> None:
    async with DeckHere(tmp_path, environment={"FEATURE_QUERY_CONTROL": "false"}) as deck:
        tools = {tool.name for tool in (await deck.client.list_tools()).tools}
        assert tools == CONTRACT - {"query_control"}


async def test_the_optimizer_flag_stops_every_rule(tmp_path: Path) -> None:
    async with DeckHere(tmp_path, environment={"FEATURE_ADAPTIVE_OPT": "false"}) as deck:
        assert (await deck.call("optimizer"))["isMonitoring"] is False
        with pytest.raises(ToolRefusedError, match="FEATURE_ADAPTIVE_OPT"):
            await deck.call("optimizer", action="start")
    async with DeckHere(tmp_path) as deck:
        assert (await deck.call("optimizer"))["isMonitoring"] is True
        assert (await deck.call("optimizer", action="stop"))["isMonitoring"] is False
        answer = await deck.call("optimizer", action="start", intervalMs=200, dryRun=True)
        assert (answer["isMonitoring"], answer["intervalMs"], answer["dryRun"]) == (True, 200, True)


async def test_the_status_counts_calls_and_errors(tmp_path: Path) -> None:
    async with DeckHere(tmp_path) as deck:
        await deck.call("memory_usage", action="list")
        with pytest.raises(ToolRefusedError):
            await deck.call("memory_usage", action="forget")
        figures = (await deck.call("server_status"))["performance"]
    assert figures["calls"]["memory_usage"]["calls"] == 2
    assert figures["calls"]["memory_usage"]["errors"] == 1
    assert figures["memoryBytes"] > 1 << 20
