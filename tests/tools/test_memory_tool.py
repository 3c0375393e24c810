"""`memory_usage` as a client meets it: claude-flow 2.7's calls, ours beside them, and every refusal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent

from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.tools.contract import Call
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.tool import memory_tools
from tests.clock import ManualClock
from tests.ready import ready

ACTIONS = ["store", "retrieve", "list", "search", "delete", "touch", "restore", "namespaces"]


class Memory:
    """The tool in the hands of a client, which checks each answer against the output schema."""

    def __init__(self, service: MemoryService, clock: ManualClock) -> None:
        self.service = service
        [self.tool] = memory_tools(service, "sqlite")
        self.server = MCPServer(tools=[self.tool])
        self.clock = clock

    async def call(self, arguments: dict[str, Any]) -> tuple[CallToolResult, str, dict[str, Any]]:
        """The result, its text and its structured content, which say the same."""
        async with Client(self.server) as client:
            result = await client.call_tool("memory_usage", arguments)
        [block] = result.content
        assert isinstance(block, TextContent)
        answer: dict[str, Any] = json.loads(block.text)
        assert result.structured_content == answer
        return result, block.text, answer

    async def service_answer(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As a call from an agent, which can hold what JSON cannot."""
        try:
            return cast("dict[str, Any]", await self.tool.answer(arguments, cast("Call", None)))
        except DeckError as exc:
            return {"success": False, "error": exc.message, "code": exc.code}

    async def __call__(self, action: str, **arguments: Any) -> dict[str, Any]:
        result, text, answer = await self.call({"action": action, **arguments})
        assert not result.is_error, text
        assert answer["success"] is True
        assert answer["action"] == action
        return answer

    async def refused(self, **arguments: Any) -> str:
        result, _, answer = await self.call(arguments)
        assert result.is_error
        assert answer["success"] is False
        return str(answer["error"])


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[Memory]:
    clock = ManualClock()
    store = SqliteMemoryStore(tmp_path / "memory.db")
    yield Memory(MemoryService(ready(store), clock, 604_800, 86_400), clock)
    await store.close()


async def test_the_calls_of_claude_flow_get_its_fields_and_ours(memory: Memory) -> None:
    stamp = "2025-06-15T15:06:40.000Z"
    common = {"success": True, "namespace": "default", "storage_type": "sqlite", "timestamp": stamp}
    state = {"version": 1, "expiresAt": "2025-06-15T16:06:40.000Z"}
    identity = {"key": "user:42", "id": "memory://default/user%3A42"}
    assert await memory("store", key="user:42", value="likes tea", ttl=3600, namespace="default") == {
        **common, **state, **identity, "action": "store", "stored": True, "size": 11,
    }  # fmt: skip
    assert await memory("retrieve", key="user:42") == {
        **common, **state, **identity, "action": "retrieve", "value": "likes tea", "found": True, "size": 11,
    }  # fmt: skip
    entry = {
        **state, "key": "user:42", "value": "likes tea", "namespace": "default", "size": 11,
        "metadata": None, "accessCount": None, "createdAt": stamp, "updatedAt": stamp,
    }  # fmt: skip
    assert await memory("list") == {**common, "action": "list", "entries": [entry], "count": 1, "nextCursor": None}
    found = await memory("search", value="tea")
    [hit] = found.pop("results")
    assert found == {**common, "action": "search", "pattern": "tea", "count": 1, "nextCursor": None}
    assert {**entry, "score": hit["score"], "snippet": "likes tea"} == hit
    assert await memory("delete", key="user:42") == {**common, "action": "delete", "key": "user:42", "deleted": True}
    assert (await memory("delete", key="user:42"))["deleted"] is False
    assert await memory("retrieve", key="user:42") == {
        **common, "action": "retrieve", "key": "user:42", "value": None, "found": False, "version": None,
        "expiresAt": None,
    }  # fmt: skip


async def test_our_own_actions(memory: Memory) -> None:
    await memory("store", key="k", value=1)
    await memory("store", key="k", value=[2], ttl=0, ifVersion=1)
    assert (await memory("restore", key="k"))["value"] == 1
    touched = await memory("touch", key="k", ttl=1)
    assert (touched["version"], touched["expiresAt"]) == (3, "2025-06-15T15:06:41.000Z")
    assert (await memory("namespaces"))["namespaces"] == [
        {"namespace": "default", "count": 1, "bytes": 1, "nextExpiry": "2025-06-15T15:06:41.000Z"}
    ]
    memory.clock.advance(1)
    assert (await memory("retrieve", key="k"))["found"] is False
    assert (await memory("restore", key="k", ttl=0))["expiresAt"] is None


@pytest.mark.parametrize(
    "value", ["123", "null", "", "[1, 2]", '{"a": 1}', None, False, 0, 1.5, 2**70, "漢" * 180_000, {"a": [{"b": None}]}]
)
async def test_values_come_back_as_they_went_in(memory: Memory, value: Any) -> None:
    await memory("store", key="k", value=value)
    answer = await memory("retrieve", key="k")
    assert answer["found"] is True
    assert answer["value"] == value
    assert type(answer["value"]) is type(value)


async def test_wildcards_are_plain_characters(memory: Memory) -> None:
    for key in ("a", "ab", "%", "_"):
        await memory("store", key=key, value="x")
    assert [entry["key"] for entry in (await memory("list", prefix="%"))["entries"]] == ["%"]
    assert (await memory("list", prefix="_b"))["entries"] == []
    assert "letter or digit" in await memory.refused(action="search", value="%")
    assert (await memory("search", query="a_"))["count"] == 2  # words that begin with a


async def test_listing_goes_past_a_hundred(memory: Memory) -> None:
    for number in range(120):
        await memory.service.store("default", f"k{number:03}", number)
    assert (await memory("list", limit=500))["count"] == 120
    first = await memory("list", limit=70, includeValues=False)
    assert "value" not in first["entries"][0]
    rest = await memory("list", limit=70, cursor=first["nextCursor"])
    assert [entry["value"] for entry in rest["entries"]] == list(range(70, 120))
    assert rest["nextCursor"] is None


@pytest.mark.parametrize("limit", [300, 600, 2_000])
async def test_an_answer_keeps_its_token_limit(memory: Memory, limit: int) -> None:
    namespace = '"\\' * 9
    for number in range(30):
        await memory.service.store(namespace, f'"漢\\{number}', ["\x01é\n" * number, 1e-7])
    for call in ({"action": "list"}, {"action": "search", "query": "1"}):
        _, text, answer = await memory.call({**call, "namespace": namespace, "maxTokens": limit})
        assert len(text.encode()) <= 4 * limit
        assert 1 <= answer["count"] < 30
        assert "nextCursor" in answer["notice"]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ({}, ["missing argument 'action'"]),
        ({"action": "frobnicate"}, ["action", *ACTIONS]),
        ({"action": "store", "key": "k"}, ["store needs 'value'"]),
        ({"action": "store", "value": 1}, ["store needs 'key'"]),
        ({"action": "retrieve"}, ["retrieve needs 'key'"]),
        ({"action": "delete"}, ["delete needs 'key'"]),
        ({"action": "touch"}, ["touch needs 'key'"]),
        ({"action": "restore"}, ["restore needs 'key'"]),
        ({"action": "search"}, ["search needs 'query'"]),
        ({"action": "search", "value": 5}, ["search needs 'query'"]),
        ({"action": "store", "key": "k", "value": 1, "tll": 5}, ["unknown argument 'tll'", "ttl", "ifVersion"]),
        ({"action": "store", "key": "k", "value": 1, "ttl": True}, ["ttl"]),
        ({"action": "store", "key": "k", "value": 1, "ttl": -1}, ["ttl"]),
        ({"action": "store", "key": "k", "value": 1, "ttl": "60"}, ["ttl"]),
        ({"action": "store", "key": "k", "value": 1, "ifVersion": -1}, ["ifVersion"]),
        ({"action": "store", "key": 5, "value": 1}, ["key"]),
        ({"action": "store", "key": "a\x00", "value": 1}, ["key", "1 to 512"]),
        ({"action": "store", "key": "k", "value": 1, "namespace": ""}, ["namespace", "1 to 128"]),
        ({"action": "store", "key": "k", "value": "x" * 2**20}, ["1048578 bytes", "1048576"]),
        ({"action": "store", "key": "k", "value": 1, "ifVersion": 3}, ["does not exist", "ifVersion 0"]),
        ({"action": "touch", "key": "k"}, ["no 'k'"]),
        ({"action": "restore", "key": "k"}, ["nothing to restore"]),
        ({"action": "touch", "key": "k", "ifVersion": 1}, ["ifVersion", "store, delete"]),
        ({"action": "search", "query": "x", "prefix": "y"}, ["prefix", "list"]),
        ({"action": "list", "limit": 501}, ["limit", "500"]),
        ({"action": "list", "limit": 0}, ["limit"]),
        ({"action": "list", "cursor": "forged!"}, ["nextCursor"]),
        ({"action": "list", "maxTokens": 0}, ["maxTokens"]),
    ],
)
async def test_bad_calls_say_what_is_wrong(memory: Memory, arguments: dict[str, Any], texts: list[str]) -> None:
    error = await memory.refused(**arguments)
    assert [text for text in texts if text not in error] == []
    assert (await memory("namespaces"))["count"] == 0


async def test_the_schema_lists_what_is_built(memory: Memory) -> None:
    async with Client(memory.server) as client:
        [tool] = (await client.list_tools()).tools
    assert tool.input_schema["properties"]["action"]["enum"] == ACTIONS
    assert tool.input_schema["required"] == ["action"]
    assert len(tool.model_dump_json(by_alias=True, exclude_none=True)) < 2_400


async def test_both_spellings_and_defaults_are_taken(memory: Memory) -> None:
    await memory("store", key="k", value=1, if_version=0, limit=50, includeValues=True, cursor=None)
    assert "ifVersion 1" in await memory.refused(action="store", key="k", value=1, if_version=0)


odd_texts = st.text(max_size=30) | st.sampled_from(
    ["", "k", "%", "..", "a/b", "\x00", "\ud800", "YQ==", "99", "x" * 600]
)
odd_numbers = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 1e308, 2**63, 2**64])
anything = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=5,
)
calls = st.fixed_dictionaries(
    {"action": st.sampled_from(ACTIONS) | anything},
    optional={
        "key": odd_texts | anything,
        "value": anything,
        "namespace": odd_texts | anything,
        "ttl": odd_numbers | anything,
        "query": odd_texts | anything,
        "prefix": odd_texts | anything,
        "includeValues": anything,
        "limit": st.integers(1, 500) | anything,
        "cursor": odd_texts | anything,
        "ifVersion": st.integers(0, 3) | anything,
        "maxTokens": odd_numbers | anything,
        "unheard of": anything,
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls)
async def test_any_call_gets_an_answer_or_a_plain_error_and_nothing_is_lost(
    memory: Memory, call: dict[str, Any]
) -> None:
    """In one memory that all examples share, beside an entry that none of them may touch."""
    await memory("store", namespace="kept", key="entry", value="kept", ttl=0)
    answer = await memory.service_answer(call)
    assert answer["success"] is ("error" not in answer)
    if "error" in answer:
        assert answer["code"] in ("invalid_argument", "conflict", "not_found", "limit")
        assert answer["error"]
    elif call["action"] == "store":
        stored = await memory.service.retrieve(call.get("namespace") or "default", call["key"])
        assert stored is not None
        assert stored.value == call["value"]
    if call.get("namespace") != "kept":
        assert (await memory("retrieve", namespace="kept", key="entry"))["value"] == "kept"
