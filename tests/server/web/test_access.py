"""Who may do what: tokens and their rights on every door, and how much anybody may ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from quarterdeck.server.client import Era
from quarterdeck.server.config import SettingsError, load_settings
from quarterdeck.server.web.rate import RateLimit
from quarterdeck.server.web.tokens import HttpTable, Keyring
from quarterdeck.storage.errors import LimitError
from quarterdeck.tools.reads import only_reads
from tests.clock import ManualClock
from tests.servers.http import http_server

from .conftest import served

TOKENS = {
    "tokens": {
        "eve": {"token": "eve-only-looks-on", "rights": "read"},
        "bob": {"token": "bob-does-all-he-likes", "rights": "full"},
    }
}
EVE, BOB = ({"Authorization": f"Bearer {one['token']}"} for one in TOKENS["tokens"].values())


async def test_a_read_only_token_reads_and_does_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path, http=HttpTable.model_validate(TOKENS)) as client:
        described = (await client.get("/api/openapi.json", headers=EVE)).json()
        names = [path.rpartition("/")[2] for path in described["paths"] if path.startswith("/api/tools/")]
        assert len(names) == 16
        for name in names:
            refused = await client.post(f"/api/tools/{name}", json={}, headers=EVE)
            assert (refused.status_code == 403) is not only_reads(name, {}), name
        for path, body in (
            ("/api/agents", {"crew": "qdrant"}),
            ("/api/queries", {"agentId": "a", "prompt": "p"}),
            ("/api/queries/q/control", {"action": "terminate"}),
            ("/api/memory", {"action": "store", "key": "k", "value": 1}),
            ("/api/memory", {"action": "delete", "key": "k"}),
            ("/api/tools/uploads", {"action": "presign", "key": "k"}),
        ):
            refused = await client.post(path, json=body, headers=EVE)
            assert (refused.status_code, refused.json()["code"]) == (403, "denied"), path
            assert "'eve' only reads" in refused.json()["error"]
        upload = await client.post("/api/upload", files=[("files", ("a", b"x"))], headers=EVE)
        assert upload.status_code == 403
        for path in ("/api/agents", "/api/queries", "/api/memory?action=list", "/metrics"):
            assert (await client.get(path, headers=EVE)).status_code == 200, path
        assert (await client.get("/api/memory?action=list", headers=BOB)).json()["count"] == 0


async def test_without_a_right_token_there_is_a_way_to_learn_of_one_and_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path, http=HttpTable.model_validate(TOKENS)) as client:
        for path in ("/api/agents", "/api/events", "/api/openapi.json", "/metrics", "/mcp", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer eve-only-looks-o"}, {"Authorization": "Basic ZXZlOg=="}):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 401, path
                challenge = answer.headers["www-authenticate"]
                assert challenge.startswith("Bearer ")
                assert ('error="invalid_token"' in challenge) is bool(headers)
        url = challenge.split('resource_metadata="')[1].rstrip('"')
        metadata = (await client.get(f"{url}/mcp")).json()
        assert metadata["resource"] == "http://localhost/mcp"
        assert metadata["bearer_methods_supported"] == ["header"]
        for path in ("/", "/healthz"):
            assert (await client.get(path)).status_code == 200


async def test_no_door_opens_to_a_foreign_name_or_to_a_page_of_another_site(tmp_path: Path) -> None:
    async with served(tmp_path) as client:
        described = (await client.get("/api/openapi.json")).json()["paths"]
        doors = [(method.upper(), path) for path, methods in described.items() for method in methods]
        call = {"action": "store", "key": "k", "value": 1}
        for method, path in [*doors, ("GET", "/"), ("GET", "/assets/index.html"), ("POST", "/mcp"), ("GET", "/mcp")]:
            body = call if method == "POST" else None
            rebound = await client.request(method, path, json=body, headers={"Host": "evil.example"})
            assert rebound.status_code == 421, path
            for origin in ("http://evil.example", "null"):
                answer = await client.request(method, path, json=body, headers={"Origin": origin})
                assert (answer.status_code, answer.json()["code"]) == (403, "denied"), path
        assert (await client.get("/api/memory?action=list")).json()["count"] == 0


def test_a_token_is_compared_as_a_whole() -> None:
    keyring = Keyring(None, HttpTable.model_validate(TOKENS))
    assert keyring.holder(b"eve-only-looks-on") == ("eve", "read")
    assert keyring.holder(b"bob-does-all-he-likes") == ("bob", "full")
    for wrong in (b"", b"eve-only-looks-on ", b"eve", b"\xff"):
        assert keyring.holder(wrong) is None


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ('[http.tokens]\neve = { token = "short" }', "http.tokens.eve.token"),
        ('[http.tokens]\neve = { token = "0123456789abcdef", rights = "all" }', "http.tokens.eve.rights"),
        ('[http.tokens]\n"e v e" = { token = "0123456789abcdef" }', "http.tokens.e v e"),
    ],
)
def test_a_bad_token_is_refused_by_name_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, error: str
) -> None:
    (tmp_path / "deck.toml").write_text(table)
    monkeypatch.setenv("QUARTERDECK_CONFIG", str(tmp_path / "deck.toml"))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert error in str(caught.value)
    assert "0123456789abcdef" not in str(caught.value)


def test_a_caller_who_asks_too_much_has_to_wait() -> None:
    clock = ManualClock()
    limit = RateLimit(10, clock)
    for _ in range(50):
        limit.take("eve")
    with pytest.raises(LimitError):
        limit.take("eve")
    limit.take("bob")
    clock.advance(0.1)
    limit.take("eve")
    with pytest.raises(LimitError):
        limit.take("eve")
    unlimited = RateLimit(0, clock)
    for _ in range(1000):
        unlimited.take("eve")


async def test_the_limit_holds_at_the_door_and_for_who_guesses_tokens(tmp_path: Path) -> None:
    async with served(tmp_path, http_rate=0.2, http=HttpTable.model_validate(TOKENS)) as client:  # one in five seconds
        assert (await client.get("/api/agents", headers=EVE)).status_code == 200
        again = await client.get("/api/agents", headers=EVE)
        assert (again.status_code, again.json()["code"], again.headers["retry-after"]) == (429, "limit", "1")
        assert (await client.get("/api/agents", headers=BOB)).status_code == 200
        assert (await client.get("/api/agents", headers={"Authorization": "Bearer guess"})).status_code == 401
        assert (await client.get("/api/agents", headers={"Authorization": "Bearer guess"})).status_code == 429


async def test_no_door_reads_a_gigabyte(tmp_path: Path) -> None:
    gigabyte = str(1 << 30)
    taken = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal taken
        while True:
            taken += 1 << 20
            yield b" " * (1 << 20)

    async with served(tmp_path) as client:
        for path in ("/api/memory", "/api/tools/upload", "/api/agents", "/mcp", "/", "/healthz", "/nowhere"):
            answer = await client.post(
                path, content=endless(), headers={"Content-Length": gigabyte, "Content-Type": "application/json"}
            )
            assert answer.status_code == 413, path
            assert answer.headers["connection"] == "close"
        assert taken == 0
        chunked = await client.post("/api/memory", content=endless(), headers={"Content-Type": "application/json"})
        assert chunked.status_code == 413
        assert taken < 40 << 20


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_mcp_over_http_knows_the_same_rights(tmp_path: Path, era: Era) -> None:
    config = tmp_path / "deck.toml"
    config.write_text(
        '[http.tokens]\neve = { token = "eve-only-looks-on" }\n'
        'bob = { token = "bob-does-all-he-likes", rights = "full" }\n'
        '[agents.types.nap]\nprotocol = "plain"\ncommand = ["sleep", "60"]\n'
    )
    with http_server(tmp_path, QUARTERDECK_CONFIG=str(config)) as server:
        url = f"{await server.url()}/mcp"

        async def call(headers: dict[str, str], tool: str, **arguments: Any) -> Any:
            async with (
                httpx2.AsyncClient(headers=headers, timeout=60) as http,
                Client(streamable_http_client(url, http_client=http), mode=era) as client,
            ):
                return await client.call_tool(tool, arguments)

        refused = await call(EVE, "memory_usage", action="store", key="k", value="v")
        assert refused.is_error
        assert refused.structured_content["code"] == "denied"
        assert not (await call(BOB, "memory_usage", action="store", key="k", value="v")).is_error
        read = await call(EVE, "memory_usage", action="retrieve", key="k")
        assert read.structured_content["value"] == "v"
        spawned = await call(BOB, "agents_spawn_parallel", agents=[{"type": "nap", "name": "n"}])
        [agent] = spawned.structured_content["results"]
        started = await call(BOB, "query_start", agentId=agent["agentId"], prompt="now")
        query = started.structured_content["queryId"]
        assert not (await call(BOB, "query_control", queryId=query, action="pause")).is_error
        async with await server.client(headers=EVE) as client:
            assert [entry["actor"] for entry in (await client.get(f"/api/queries/{query}")).json()["audit"]] == ["bob"]
            foreign = await client.post("/mcp", json={}, headers={"Origin": "http://evil.example"})
            assert foreign.status_code == 403
        log = server.stderr.read_text(encoding="utf-8")
        assert "looks-on" not in log
        assert "he-likes" not in log


@pytest.mark.slow
async def test_five_hundred_slow_connections_stop_nobody(tmp_path: Path) -> None:
    with http_server(tmp_path) as server:
        async with await server.client() as client:
            port = client.base_url.port
            slow = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(500)))
            try:
                for number, (_, writer) in enumerate(slow):
                    begun = b"POST /api/memory HTTP/1.1\r\nHost: localhost\r\n"
                    body = b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
                    writer.write(begun + (body if number % 2 else b""))
                answer = await client.post("/api/memory", json={"action": "list"})
                assert answer.status_code == 200
                silent = [reader for reader, _ in slow[::2]]  # their heads never end
                async with asyncio.timeout(60):
                    ends = await asyncio.gather(*(reader.read() for reader in silent), return_exceptions=True)
                assert {end if isinstance(end, bytes) else type(end) for end in ends} <= {b"", ConnectionResetError}
            finally:
                for _, writer in slow:
                    writer.close()
