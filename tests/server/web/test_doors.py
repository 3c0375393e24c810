"""The doors: what they answer, with which status, and that their description is true."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

from quarterdeck.server.config import Settings
from quarterdeck.server.deck import open_deck
from quarterdeck.server.web import pages
from quarterdeck.server.web.app import http_app
from quarterdeck.tools.reads import ACTIONS
from tests.until import until

from .conftest import served

Answer = dict[str, Any]


async def post(client: httpx2.AsyncClient, path: str, **arguments: Any) -> Answer:
    answer = await client.post(path, json=arguments)
    assert answer.status_code == 200, answer.text
    body: Answer = answer.json()
    assert body["success"] is True
    return body


async def test_every_tool_answers_as_it_does_over_mcp(client: httpx2.AsyncClient) -> None:
    value = {"text": "ship it", "n": [1, None, "null"]}
    stored = await post(client, "/api/tools/memory_usage", action="store", key="plan", value=value)
    assert (stored["version"], stored["namespace"]) == (1, "default")
    assert (await post(client, "/api/memory", action="retrieve", key="plan"))["value"] == value
    listed = await client.get("/api/memory", params={"action": "list", "limit": "10", "includeValues": "false"})
    assert [(entry["key"], "value" in entry) for entry in listed.json()["entries"]] == [("plan", False)]
    points = [{"id": "a", "text": "the harbour pilot"}]
    await post(client, "/api/tools/vector_upsert", collection="notes", points=points)
    found = await post(client, "/api/tools/vector_search", collection="notes", query="harbour", limit=1)
    assert [hit["id"] for hit in found["results"][0]] == ["a"]
    status = await post(client, "/api/tools/server_status")
    assert status["performance"]["calls"]["memory_usage"]["calls"] == 3


async def test_agents_and_queries_are_worked_and_steered_over_rest(client: httpx2.AsyncClient) -> None:
    spawned = await post(client, "/api/agents", agents=[{"type": "researcher", "name": "r"}])
    agent = spawned["results"][0]["agentId"]
    assert [one["agentId"] for one in (await client.get("/api/agents?status=idle")).json()["agents"]] == [agent]
    query = (await post(client, "/api/queries", agentId=agent, prompt="# Title\n\nWords."))["queryId"]

    async def ended() -> bool:
        return bool((await client.get(f"/api/queries/{query}")).json()["status"] == "completed")

    await until(ended)
    [listed] = (await client.get("/api/queries", params={"includeHistory": "true"})).json()["queries"]
    assert (listed["queryId"], listed["status"]) == (query, "completed")
    refused = await client.post(f"/api/queries/{query}/control", json={"action": "pause"})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    report = (await client.get(f"/api/queries/{query}")).json()
    assert report["prompt"] == "# Title\n\nWords."
    history = (await client.get(f"/api/agents/{agent}")).json()["history"]
    assert [event["event"] for event in history] == ["spawned", "query_started", "query_completed"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/api/tools/memory_usage", {"action": "retrieve"}, 400, "key"),
        ("POST", "/api/tools/memory_usage", {"action": "store", "key": "k", "value": "x" * 1_100_000}, 413, "value:"),
        ("POST", "/api/tools/memory_usage", {"action": "touch", "key": "k"}, 404, "no 'k'"),
        ("POST", "/api/tools/memory_usage", {"action": "store", "key": "k", "value": 1, "ifVersion": 7}, 409, "'k'"),
        ("POST", "/api/tools/nothing", {}, 404, "no such door"),
        ("POST", "/api/queries/none/control", {"action": "pause"}, 404, "no query"),
        ("POST", "/api/queries/none/control", {"action": "pause", "queryId": "other"}, 400, "is in the path"),
        ("POST", "/api/memory", [1], 400, "must be a JSON object"),
        ("POST", "/api/memory", {"action": "retrieve", "key": "\ud800"}, 400, "is no JSON: "),
        ("POST", "/api/memory", {"action": "list", "\ud800": 1}, 400, "is no JSON: "),
        ("GET", "/api/agents/none", None, 404, "no agent"),
        ("GET", "/api/queries?limit=many", None, 400, "limit: should be of type integer, got 'many'"),
        ("GET", "/api/queries?limit=1&limit=2", None, 400, "limit: is given twice"),
        ("GET", "/api/queries?unknown=1", None, 400, "unknown argument 'unknown'"),
        ("GET", "/api/memory?action=delete&key=k", None, 405, "only reads"),
        ("GET", "/api/upload/uploads/none", None, 404, "none"),
        ("GET", "/api/upload/../../etc/passwd", None, 404, "no such door"),
        ("GET", "/api/upload/%2e%2e/secret", None, 400, "is no upload's"),
    ],
)
async def test_a_refusal_has_the_status_that_fits(
    client: httpx2.AsyncClient, method: str, path: str, body: Any, status: int, error: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.request(method, path, content=None if body is None else json.dumps(body), headers=headers)
    assert answer.status_code == status, answer.text
    refused = answer.json()
    assert refused["success"] is False
    assert error in refused["error"]


async def test_what_cannot_be_a_json_call_of_a_page_of_ours_is_none(client: httpx2.AsyncClient) -> None:
    call = b'{"action": "store", "key": "k", "value": 1}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = await client.post("/api/memory", content=call, headers={"Content-Type": kind})
        assert answer.status_code == 415, kind
    for broken in (call[:-1], call.replace(b"1", b"NaN"), b"[" * 100_000, b"\xff"):
        answer = await client.post("/api/memory", content=broken, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, broken[:80]
    assert (await post(client, "/api/memory", action="list"))["count"] == 0


async def test_an_upload_comes_back_byte_for_byte_and_never_as_a_page(client: httpx2.AsyncClient) -> None:
    contents = b"<script>alert(1)</script>\x00" * 50_000
    stored = await client.post("/api/upload", files=[("files", ("évil page's.html", contents, "text/html"))])
    answer = await client.get(f"/api/upload/{stored.json()['files'][0]['path']}")
    assert answer.content == contents
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9vil%20page%27s.html"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("asked", "status", "part", "content_range"),
    [
        ({"Range": "bytes=3-6"}, 206, slice(3, 7), "bytes 3-6/2500000"),
        ({"Range": "bytes=1000000-"}, 206, slice(1_000_000, None), "bytes 1000000-2499999/2500000"),
        ({"Range": "bytes=-5"}, 206, slice(-5, None), "bytes 2499995-2499999/2500000"),
        ({"Range": "bytes=0-99999999"}, 206, slice(None), "bytes 0-2499999/2500000"),
        ({"Range": "bytes=2500000-"}, 416, None, "bytes */2500000"),
        ({"Range": "bytes=-0"}, 416, None, "bytes */2500000"),
        ({"Range": "bytes=6-3"}, 200, slice(None), None),
        ({"Range": "bytes=0-1,5-6"}, 200, slice(None), None),
        ({"Range": "bytes=3-6", "If-Range": '"another"'}, 200, slice(None), None),
    ],
)
async def test_a_download_can_go_on_in_the_middle(
    client: httpx2.AsyncClient, asked: dict[str, str], status: int, part: slice | None, content_range: str | None
) -> None:
    contents = bytes(range(250)) * 10_000
    stored = (await client.post("/api/upload", files=[("files", ("log", contents))])).json()["files"][0]
    answer = await client.get(f"/api/upload/{stored['path']}", headers=asked)
    assert (answer.status_code, answer.headers.get("content-range")) == (status, content_range)
    if part is None:
        assert (answer.json()["code"], answer.json()["success"]) == ("invalid_argument", False)
    else:
        assert answer.content == contents[part]
        assert answer.headers["etag"] == f'"{stored["sha256"]}"'


async def test_head_of_a_download_reads_nothing_of_it(client: httpx2.AsyncClient, tmp_path: Path) -> None:
    stored = await client.post("/api/upload", files=[("files", ("log", b"x" * 1000))])
    path = stored.json()["files"][0]["path"]
    [contents] = tmp_path.glob("data/objects/*/contents")
    contents.unlink()
    answer = await client.head(f"/api/upload/{path}", headers={"Range": "bytes=3-6"})
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "1000", b"")
    assert answer.headers["accept-ranges"] == "bytes"


async def test_a_defect_is_answered_as_safely_as_all_else(tmp_path: Path) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("a secret of the deck")

    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck:
        deck.tools["query_list"].handler = fail
        transport = httpx2.ASGITransport(http_app(deck, asyncio.Event()), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer, other = await client.get("/api/queries"), await client.get("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (500, "failed")
    assert "secret" not in answer.text
    assert other.headers.keys() - {"content-length"} <= answer.headers.keys()


async def test_the_description_is_valid_and_true(client: httpx2.AsyncClient) -> None:
    described = (await client.get("/api/openapi.json")).json()
    validate(described)
    doors = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    for method, path in doors - {("GET", "/api/events")}:  # that one has no end
        answer = await client.request(method, re.sub(r"\{\w+\}", "none", path))
        assert "no such door" not in answer.text, path
        assert answer.status_code != 405, path
    actions = described["paths"]["/api/memory"]["get"]["parameters"][0]["schema"]["enum"]
    assert set(actions) == ACTIONS["memory_usage"]


async def test_no_door_is_left_out_of_the_description(tmp_path: Path) -> None:
    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck:
        app = http_app(deck, asyncio.Event())
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            described = (await client.get("/api/openapi.json")).json()["paths"]
    routes = [route for route in app.routes if isinstance(route, Route)]
    others = {"/", "/assets/{path:path}", "/mcp"}  # the page, and what describes itself
    assert {
        (method.lower(), re.sub(r":\w+", "", route.path))
        for route in routes
        if route.path not in others
        for method in (route.methods or set()) - {"HEAD"}
    } == {(method, path) for path, methods in described.items() for method in methods}
    assert len(routes) == len(app.routes)


async def test_the_flag_takes_the_controls_away(tmp_path: Path) -> None:
    async with served(tmp_path, feature_query_control=False) as client:
        assert (await client.post("/api/queries/q/control", json={"action": "pause"})).status_code == 404
        assert (await client.post("/api/tools/query_control", json={"action": "pause"})).status_code == 404
        assert not [path for path in (await client.get("/api/openapi.json")).json()["paths"] if "control" in path]


async def test_the_page_has_no_way_out_of_its_folder(client: httpx2.AsyncClient) -> None:
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    again = await client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("__init__.py", "%2e%2e/deck.py", "../deck.py", "/etc/passwd", "nothing.js", "index.html/", ""):
        assert (await client.get(f"/assets/{path}")).status_code == 404, path


@pytest.mark.parametrize("name", ["c:deck.js", "deck.js::$DATA", " .js"])
async def test_no_name_of_the_page_is_one_that_a_system_takes_apart(
    client: httpx2.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On Windows: a drive, a stream of a file, blanks that are dropped. Here they are plain files."""

    def folder(_: str) -> Path:
        return tmp_path

    monkeypatch.setattr(pages, "files", folder)
    for file in ("deck.css", name):
        (tmp_path / file).write_text("a")
    assert (await client.get("/assets/deck.css")).text == "a"
    assert (await client.get(f"/assets/{quote(name)}")).status_code == 404


async def test_metrics_are_what_happened(client: httpx2.AsyncClient) -> None:
    await post(client, "/api/memory", action="list")
    await client.post("/api/memory", json={"action": "touch", "key": "none"})
    for number in (1, 21):
        await client.post("/api/upload", files=[("files", ("a", b"x"))] * number)
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = answer.text.splitlines()
    assert 'quarterdeck_tool_call_seconds_count{tool="memory_usage"} 2.0' in lines
    assert 'quarterdeck_tool_call_errors_total{tool="memory_usage"} 1.0' in lines
    assert 'quarterdeck_tool_call_seconds_count{tool="upload"} 2.0' in lines
    assert 'quarterdeck_tool_call_errors_total{tool="upload"} 1.0' in lines
    assert "quarterdeck_agents_alive 0.0" in lines
    assert not [line for line in lines if line.startswith("quarterdeck_query_tokens_total")]
