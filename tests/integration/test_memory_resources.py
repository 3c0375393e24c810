"""Memory as resources, through real servers: read, completed, and listened to across processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.client.subscriptions import ListenNotSupportedError, Subscription
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, PromptReference, ResourceTemplateReference, TextResourceContents
from redis.asyncio import Redis

from quarterdeck.server.app import DeckServer
from quarterdeck.server.client import DeckClient, Era
from quarterdeck.server.config import Settings
from quarterdeck.server.deck import open_deck
from quarterdeck.storage.errors import StorageError
from quarterdeck.tools.memory import watch
from quarterdeck.tools.memory.uri import TEMPLATE
from tests.bench.raw_client import ENVELOPE
from tests.here import DeckHere
from tests.servers.valkey import ValkeyServer
from tests.tools.test_memory_uri import KEYS, NAMESPACES
from tests.until import until

ERAS: tuple[Era, ...] = ("auto", "legacy")
TEMPLATE_REFERENCE = ResourceTemplateReference(uri=TEMPLATE)


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    return request.param


async def store(deck: DeckClient, key: str, value: Any = 1, **arguments: Any) -> str:
    """Store a memory; its URI."""
    answer = await deck.call("memory_usage", action="store", key=key, value=value, **arguments)
    return answer["id"]


async def read(deck: DeckClient, uri: str) -> TextResourceContents:
    [content] = (await deck.client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    return content


async def refusal(deck: DeckClient, uri: str) -> str:
    with pytest.raises(MCPError) as refused:
        await deck.client.read_resource(uri)
    assert refused.value.error.code == INVALID_PARAMS
    assert refused.value.error.data == {"uri": uri}
    return refused.value.error.message


async def complete(deck: DeckClient, argument: str, typed: str, **chosen: str) -> tuple[list[str], int | None, bool]:
    answer = await deck.client.complete(TEMPLATE_REFERENCE, {"name": argument, "value": typed}, chosen or None)
    completion = answer.completion
    assert completion.has_more is not None
    return completion.values, completion.total, completion.has_more


async def updates(subscription: Subscription, count: int) -> list[str]:
    """The URIs of the next notifications."""
    events = [await asyncio.wait_for(anext(subscription), 20) for _ in range(count)]
    assert all(isinstance(event, ResourceUpdated) for event in events)
    return [event.uri for event in events if isinstance(event, ResourceUpdated)]


async def test_a_memory_is_read_as_it_was_stored(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        value = {"text": '"é" 🚢', "numbers": [1, 1.5, 10**30, None, True]}
        uri = await store(deck, "plan", value, namespace="ship", ttl=0)
        assert uri == "memory://ship/plan"
        content = await read(deck, uri)
        assert content.text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert content.meta is not None
        assert (content.meta["version"], "expiresAt" in content.meta) == (1, False)
        await store(deck, "plan", "123", namespace="ship", ttl=60)
        content = await read(deck, uri)
        listed = await deck.call("memory_usage", action="list", namespace="ship")
        [entry] = listed["entries"]
        assert content.text == '"123"'
        assert content.meta == {name: entry[name] for name in ("version", "updatedAt", "expiresAt")}


async def test_what_is_not_there_is_a_plain_error(tmp_path: Path, era: Era) -> None:
    async with DeckClient(tmp_path, era=era) as deck:
        uri = await store(deck, "gone")
        await deck.call("memory_usage", action="delete", key="gone")
        assert await refusal(deck, uri) == (
            "no 'gone' in namespace 'default': memory_usage's action list shows the keys"
        )
        for malformed in ("memory://default", "memory:", "memory://default/a/b", "memory://a/%ff", "memory://a/50%"):
            assert "must be memory://{namespace}/{key}" in await refusal(deck, malformed)
        assert "without control characters" in await refusal(deck, "memory://default/%00")
        assert "Unknown resource" in await refusal(deck, "file:///etc/passwd")
        assert "Traceback" not in deck.stderr


async def test_the_template_is_listed_and_memories_are_not(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        await store(deck, "plan")
        listed = (await deck.client.list_resources()).resources
        assert [resource.uri for resource in listed] == ["ui://quarterdeck/deck"]
        templates = (await deck.client.list_resource_templates()).resource_templates
        [template] = [template for template in templates if template.name == "memory"]
        assert (template.uri_template, template.title, template.mime_type) == (TEMPLATE, "Memory", "application/json")
        assert template.description
        assert template.annotations is not None
        assert template.annotations.audience == ["user", "assistant"]


async def test_any_name_is_read_and_completed_by_its_uri(tmp_path: Path) -> None:
    """Hypothesis draws the names, one server serves them all."""
    names: list[tuple[str, str]] = [("../..", "/etc/passwd"), ("a/b", "%2F%00?x#y"), ("..", "."), (" ", "ü 🚢\u202e")]

    @settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.tuples(NAMESPACES, KEYS))
    def draw(name: tuple[str, str]) -> None:
        names.append(name)

    draw()
    async with DeckHere(tmp_path) as deck:
        for number, (namespace, key) in enumerate(names):
            uri = await store(deck, key, number, namespace=namespace)
            assert (await read(deck, uri)).text == str(number)
            assert namespace in (await complete(deck, "namespace", namespace))[0]
            assert key in (await complete(deck, "key", key, namespace=namespace))[0]
        assert len(names) > 60


async def test_namespaces_and_keys_are_completed(memory_url: str, tmp_path: Path) -> None:
    async with DeckHere(tmp_path, environment={"QUARTERDECK_MEMORY_URL": memory_url}) as deck:
        await deck.call_all(
            *(
                ("memory_usage", {"action": "store", "key": f"key-{number:03}", "value": 1, "namespace": namespace})
                for namespace in ("many", "many%")
                for number in range(101 if namespace == "many" else 100)
            )
        )
        await store(deck, "key-000", namespace="a/b")
        await store(deck, "key-gone", namespace="man gone")
        await deck.call("memory_usage", action="delete", key="key-gone", namespace="man gone")
        assert await complete(deck, "namespace", "") == (["a/b", "many", "many%"], 3, False)
        assert await complete(deck, "namespace", "man") == (["many", "many%"], 2, False)
        assert await complete(deck, "namespace", "many%") == (["many%"], 1, False)
        assert await complete(deck, "namespace", "x\x00") == ([], 0, False)
        keys = [f"key-{number:03}" for number in range(101)]
        assert await complete(deck, "key", "key", namespace="many") == (keys[:100], None, True)
        assert await complete(deck, "key", "", namespace="many%") == (keys[:100], 100, False)
        assert await complete(deck, "key", "key-1", namespace="many") == (["key-100"], 1, False)
        assert await complete(deck, "key", "k%", namespace="many") == ([], 0, False)
        assert await complete(deck, "key", "key") == ([], 0, False)
        assert await complete(deck, "key", "key", namespace="n" * 999) == ([], 0, False)
        for number in range(101):
            await store(deck, "k", namespace=f"z{number}")
        found, total, has_more = await complete(deck, "namespace", "z")
        assert (found, total, has_more) == (sorted(f"z{number}" for number in range(101))[:100], None, True)


async def test_only_the_template_has_completions(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        await store(deck, "plan", namespace="ship")
        assert await complete(deck, "namespace", "s") == (["ship"], 1, False)
        assert await complete(deck, "key", "p", namespace="ship") == (["plan"], 1, False)
        for reference, told in (
            (PromptReference(name="plan"), "no prompt 'plan'"),
            (ResourceTemplateReference(uri="file:///{path}"), "only prompts and the resource templates memory:"),
        ):
            with pytest.raises(MCPError, match=told):
                await deck.client.complete(reference, {"name": "key", "value": ""})
        with pytest.raises(MCPError, match="'keys' is not in the template"):
            await deck.client.complete(TEMPLATE_REFERENCE, {"name": "keys", "value": ""})


async def test_changes_by_another_process_reach_a_listener(memory_url: str, tmp_path: Path) -> None:
    environment = {"QUARTERDECK_MEMORY_URL": memory_url}
    async with (
        DeckClient(tmp_path / "a", environment=environment) as deck,
        DeckClient(tmp_path / "b", environment=environment) as other,
    ):
        plan = await store(other, "../plan %", namespace="a/b")
        coming, brief = "memory://default/not%20yet", "memory://default/brief"
        listened = [plan, coming, brief, "memory://malformed", "file:///etc/passwd"]
        async with deck.client.listen(resource_subscriptions=listened) as subscription:
            assert subscription.honored.resource_subscriptions == listened
            await store(other, "unheard")
            await store(other, "../plan %", 2, namespace="a/b")
            assert await updates(subscription, 1) == [plan]
            assert (await read(deck, plan)).text == "2"
            await store(other, "not yet")
            assert await updates(subscription, 1) == [coming]
            await other.call("memory_usage", action="delete", key="not yet")
            assert await updates(subscription, 1) == [coming]
            assert "no 'not yet'" in await refusal(deck, coming)
            await other.call("memory_usage", action="restore", key="not yet")
            assert await updates(subscription, 1) == [coming]
            await other.call("memory_usage", action="touch", key="not yet", ttl=0)
            assert await updates(subscription, 1) == [coming]
            await store(other, "brief", ttl=3)
            assert await updates(subscription, 2) == [brief, brief]  # it came, and it expired
            assert "no 'brief'" in await refusal(deck, brief)
        assert "Traceback" not in deck.stderr


async def test_changes_by_this_server_and_its_agents_reach_a_listener(tmp_path: Path) -> None:
    async with DeckHere(tmp_path) as deck:
        spawned = await deck.call("agents_spawn_parallel", agents=[{"type": "memory_coordinator", "name": "keeper"}])
        [agent] = spawned["results"]
        done = f"memory://agent-activities/agent-{agent['agentId']}-complete"
        async with deck.client.listen(resource_subscriptions=["memory://default/plan", done]) as subscription:
            uri = await store(deck, "plan")
            assert await updates(subscription, 1) == [uri]
            started = await deck.call("query_start", agentId=agent["agentId"], prompt="finding_storage")
            await deck.call("query_wait", queryIds=[started["queryId"]])
            assert await updates(subscription, 1) == [done]
            assert json.loads((await read(deck, done)).text)["agentId"] == agent["agentId"]


async def test_what_a_call_writes_is_published_without_waiting_for_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 3600)
    async with (
        open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck,
        Client(DeckServer(deck)) as client,
        client.listen(resource_subscriptions=["memory://default/plan"]) as subscription,
    ):
        for _ in range(3):
            await client.call_tool("memory_usage", {"action": "store", "key": "plan", "value": 1})
            assert await updates(subscription, 1) == ["memory://default/plan"]


async def test_a_store_that_fails_is_a_plain_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is gone")

    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck, Client(DeckServer(deck)) as client:
        monkeypatch.setattr(deck.memory, "begin", fail)
        for failing in (
            client.read_resource("memory://default/plan"),
            client.complete(TEMPLATE_REFERENCE, {"name": "namespace", "value": ""}),
            client.listen(resource_subscriptions=["memory://default/plan"]).__aenter__(),
        ):
            with pytest.raises(MCPError) as refused:
                await failing
            assert (refused.value.error.code, refused.value.error.message) == (INTERNAL_ERROR, "the disk is gone")


async def test_nothing_is_read_unless_somebody_listens(valkey_server: ValkeyServer, tmp_path: Path) -> None:
    valkey_server.clear()
    environment = {"QUARTERDECK_MEMORY_URL": valkey_server.url}
    async with (
        Redis(unix_socket_path=valkey_server.url.removeprefix("unix://"), decode_responses=True) as counter,
        DeckHere(tmp_path, environment=environment) as deck,
    ):

        async def scripts() -> int:
            """Every read of memory is a script there."""
            statistics: Any = await counter.info("commandstats")  # pyright: ignore[reportUnknownMemberType]
            return statistics.get("cmdstat_evalsha", {"calls": 0})["calls"]

        async def is_quiet() -> bool:
            before = await scripts()
            await asyncio.sleep(0.7)  # two looks
            return await scripts() == before

        async def has_looked(before: int) -> bool:
            return await scripts() > before + 3

        uri = await store(deck, "plan")
        assert await is_quiet()
        async with deck.client.listen(resource_subscriptions=["memory://malformed", "file:///etc/passwd"]):
            assert await is_quiet()
        async with deck.client.listen(resource_subscriptions=[uri]), deck.client.listen(resource_subscriptions=[uri]):
            before = await scripts()
            await until(lambda: has_looked(before))
            assert not await is_quiet()
        await until(is_quiet)


async def test_too_many_listened_to_is_a_plain_error(tmp_path: Path) -> None:
    async with DeckHere(tmp_path) as deck:
        uris = [f"memory://default/{number}" for number in range(1001)]
        with pytest.raises(MCPError, match="at most 1000 memory URIs"):
            async with deck.client.listen(resource_subscriptions=uris):
                pytest.fail("it was accepted")
        async with deck.client.listen(resource_subscriptions=uris[1:]) as subscription:
            uri = await store(deck, "1000")
            assert await updates(subscription, 1) == [uri]


async def test_clients_of_the_legacy_era_cannot_listen(tmp_path: Path) -> None:
    async with DeckHere(tmp_path, era="legacy") as deck:
        capabilities = deck.client.server_capabilities.resources
        assert capabilities is not None
        assert capabilities.subscribe is False
        with pytest.raises(ListenNotSupportedError):
            async with deck.client.listen(resource_subscriptions=["memory://default/plan"]):
                pytest.fail("it was accepted")


def test_nothing_comes_before_the_acknowledgement(tmp_path: Path) -> None:
    """The lines as they come, while each of many writes changes what is listened to."""

    def line(request: int, method: str, **params: Any) -> str:
        message = {"jsonrpc": "2.0", "id": request, "method": method, "params": {"_meta": ENVELOPE, **params}}
        return json.dumps(message) + "\n"

    def write(request: int) -> str:
        arguments = {"action": "store", "key": "plan", "value": request}
        return line(request, "tools/call", name="memory_usage", arguments=arguments)

    listen = line(1000, "subscriptions/listen", notifications={"resourceSubscriptions": ["memory://default/plan"]})
    lines = [line(0, "server/discover"), *map(write, range(1, 100)), listen, *map(write, range(100, 200))]
    with subprocess.Popen(
        [sys.executable, "-m", "quarterdeck.server", "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"QUARTERDECK_DATA_DIR": str(tmp_path)},
    ) as server:
        assert server.stdin
        assert server.stdout
        server.stdin.write("".join(lines))
        server.stdin.flush()
        methods: list[str] = []
        while "notifications/resources/updated" not in methods:
            message = json.loads(server.stdout.readline())
            if "method" in message:
                assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 1000
                methods.append(message["method"])
        server.stdin.close()
    assert methods[0] == "notifications/subscriptions/acknowledged"
