"""The tools `upload` and `uploads` as a client sees them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.objects.base import ObjectStore
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.objects.s3 import S3ObjectStore
from quarterdeck.storage.vectors.base import VectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.uploads.ingest import Ingest
from quarterdeck.tools.uploads.naming import PREFIX
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.tool import INLINE_BYTES, upload_tools
from quarterdeck.tools.vectors.service import VectorService
from tests.clock import ManualClock
from tests.embedders import offering
from tests.ready import ready
from tests.servers.seaweed import SeaweedServer
from tests.tools.calling import call

STAMP = "2025-06-15T15-06-40"  # of the manual clock


class Deck:
    """Calls a server that has only these tools."""

    def __init__(self, service: UploadService, vectors: VectorService) -> None:
        self.vectors = vectors
        self.server = MCPServer("test", tools=[*upload_tools(service, Ingest(service, vectors))])

    async def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        is_error, answer = await call(self.server, tool, arguments)
        assert not is_error, answer
        return answer

    async def refusal(self, tool: str, **arguments: Any) -> dict[str, Any]:
        is_error, answer = await call(self.server, tool, arguments)
        assert is_error
        assert answer["success"] is False
        return answer


@pytest.fixture(params=["local", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    opened: ObjectStore
    if request.param == "s3":
        server: SeaweedServer = request.getfixturevalue("s3_server")
        opened = await S3ObjectStore.open(server.location(server.new_bucket()), prefix=PREFIX)
    else:
        opened = LocalObjectStore(tmp_path / "objects")
    yield opened
    await opened.close()


@pytest.fixture
async def deck(store: ObjectStore, tmp_path: Path) -> AsyncIterator[Deck]:
    (tmp_path / "root").mkdir()
    service = UploadService(ready(store), [tmp_path / "root"], ManualClock())

    async def open_vectors() -> VectorStore:
        return await FaissVectorStore.open(tmp_path / "vectors.db", ManualClock())

    vectors = OnFirstUse(open_vectors)
    yield Deck(service, VectorService(vectors, offering(), ManualClock()))
    if vectors.opened is not None:
        await vectors.opened.close()


async def stored(deck: Deck, contents: bytes, name: str = "a.txt") -> str:
    file = {"name": name, "content": base64.b64encode(contents).decode(), "encoding": "base64"}
    return str((await deck.answer("upload", files=[file]))["files"][0]["path"])


async def test_files_by_path_and_by_content(deck: Deck, tmp_path: Path) -> None:
    (tmp_path / "root" / "a.txt").write_bytes(b"alpha")
    answer = await deck.answer(
        "upload",
        files=[
            {"path": "a.txt"},
            {"name": "naïve.html", "content": "<p>é</p>"},
            {"name": "raw", "content": "/w\n==", "encoding": "base64", "contentType": "image/x; q=1"},
            {"name": "empty", "content": "", "content_type": "text/plain"},
        ],
    )
    expected = [
        ("a.txt", b"alpha", "text/plain"),
        ("naïve.html", "<p>é</p>".encode(), "text/html"),
        ("raw", b"\xff", "image/x; q=1"),
        ("empty", b"", "text/plain"),
    ]
    assert answer == {
        "success": True,
        "status": 200,
        "count": 4,
        "files": [
            {
                "originalName": name,
                "path": f"uploads/{STAMP}_{name}",
                "size": len(contents),
                "type": kind,
                "sha256": hashlib.sha256(contents).hexdigest(),
                "duration": 0.0,
            }
            for name, contents, kind in expected
        ],
    }


async def test_a_list_as_json_text_is_taken(deck: Deck) -> None:
    assert (await deck.answer("upload", files='[{"name": "a", "content": "[1]"}]'))["files"][0]["size"] == 3


async def test_some_fail(deck: Deck) -> None:
    answer = await deck.answer("upload", files=[{"path": "missing"}, {"name": "a", "content": "x"}])
    assert (answer["success"], answer["status"], answer["count"]) == (True, 207, 1)
    assert answer["warnings"] == ["Upload failed: missing - no such file: missing"]
    assert answer["message"] == "1 uploaded, 1 failed"


async def test_the_refusals_have_the_codes_of_the_http_door(deck: Deck, tmp_path: Path) -> None:
    with (tmp_path / "root" / "big").open("wb") as sparse:
        sparse.truncate(104_857_601)
    assert await deck.refusal("upload", files=[]) == {
        "success": False,
        "error": "No files uploaded",
        "code": "invalid_argument",
        "status": 400,
    }
    too_many = await deck.refusal("upload", files=[{"name": "a", "content": "x"}] * 21)
    assert (too_many["error"], too_many["status"]) == ("Maximum 20 files allowed", 400)
    too_large = await deck.refusal("upload", files=[{"path": "big"}])
    assert (too_large["error"], too_large["status"]) == ("Validation failed: File big exceeds 100MB limit", 400)
    all_failed = await deck.refusal("upload", files=[{"path": "/etc/passwd"}])
    assert all_failed["error"].startswith("All uploads failed: passwd - outside the folders")
    assert all_failed["status"] == 500
    assert (await deck.answer("uploads", action="list"))["uploads"] == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ({}, "files.0: give either path, or content and name"),
        ({"path": "a", "content": "x", "name": "a"}, "files.0: give either path, or content and name"),
        ({"path": "a", "name": "b"}, "files.0: give either path, or content and name"),
        ({"content": "x"}, "files.0: give either path, or content and name"),
        ({"path": "a", "mode": "rw"}, "unknown argument 'files.0.mode'"),
        ({"path": 7}, "files.0.path: input should be a valid string, got 7"),
        ({"path": "a", "contentType": "text/plain\r\nX: y"}, "files.0.contentType: string should match pattern"),
        ({"name": "a", "content": "x", "encoding": "rot13"}, "files.0.encoding: input should be 'text' or 'base64'"),
        ({"name": "a", "content": "no base64!", "encoding": "base64"}, "'a': content is not base64: "),
    ],
)
async def test_a_bad_file_is_explained(deck: Deck, file: dict[str, Any], expected: str) -> None:
    answer = await deck.refusal("upload", files=[file])
    assert answer["code"] == "invalid_argument"
    assert expected in answer["error"]


async def test_inline_content_is_limited(deck: Deck) -> None:
    fits = {"name": "fits", "content": "x" * INLINE_BYTES}
    assert (await deck.answer("upload", files=[fits]))["files"][0]["size"] == INLINE_BYTES
    answer = await deck.refusal("upload", files=[fits, {"name": "big", "content": "x" * (INLINE_BYTES + 1)}])
    assert answer["error"] == (
        "'big': inline content is limited to 1048576 bytes, got 1048577; save it as a file and give its path"
    )
    assert (answer["code"], answer["status"]) == ("limit", 400)


async def test_progress_is_sent_in_bytes(deck: Deck) -> None:
    reports: list[tuple[float, float | None]] = []

    async def take(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total))

    files = [{"name": "a", "content": "12345"}, {"name": "b", "content": "678"}]
    async with Client(deck.server) as client:
        await client.call_tool("upload", {"files": files}, progress_callback=take)
    assert len(reports) == 2
    assert reports[-1] == (8, 8)


async def test_list_pages(deck: Deck) -> None:
    paths = sorted([await stored(deck, b"x", name) for name in ("a", "b", "c")])
    first = await deck.answer("uploads", action="list", limit=2)
    assert first["uploads"][0] == {
        "key": paths[0],
        "originalName": "a",
        "size": 1,
        "type": "text/plain",
        "sha256": hashlib.sha256(b"x").hexdigest(),
        "createdAt": 1_750_000_000_000,
    }
    assert first["count"] == 2
    second = await deck.answer("uploads", action="list", limit=2, cursor=first["nextCursor"])
    assert [entry["key"] for entry in first["uploads"] + second["uploads"]] == paths
    assert "nextCursor" not in second
    assert (await deck.answer("uploads", action="list", prefix=paths[1]))["count"] == 1
    assert (await deck.answer("uploads", action="list", prefix="uploads/1999"))["count"] == 0


async def test_read_ranges(deck: Deck) -> None:
    key = await stored(deck, bytes(range(256)), "bytes")
    assert await deck.answer("uploads", action="read", key=key, offset=250, length=4, encoding="base64") == {
        "success": True,
        "key": key,
        "size": 256,
        "type": "application/octet-stream",
        "offset": 250,
        "length": 4,
        "nextOffset": 254,
        "content": base64.b64encode(bytes(range(250, 254))).decode(),
        "encoding": "base64",
    }
    rest = await deck.answer("uploads", action="read", key=key, offset=254, encoding="base64")
    assert (rest["length"], rest.get("nextOffset")) == (2, None)
    assert (await deck.answer("uploads", action="read", key=key, offset=256))["content"] == ""
    assert "256 bytes" in (await deck.refusal("uploads", action="read", key=key, offset=257))["error"]


@pytest.mark.parametrize("length", [4, 5, 6, 7, 65_536])
async def test_text_is_cut_between_characters(deck: Deck, length: int) -> None:
    text = "aé日😀" * 5
    key = await stored(deck, text.encode())
    pieces: list[str] = []
    offset: int | None = 0
    while offset is not None:
        answer = await deck.answer("uploads", action="read", key=key, offset=offset, length=length)
        pieces.append(answer["content"])
        assert answer["length"] == len(answer["content"].encode()) <= length
        offset = answer.get("nextOffset")
    assert "".join(pieces) == text


@pytest.mark.parametrize(("contents", "offset"), [(b"ok \xff", 0), ("é".encode(), 1), (b"cut \xc3", 0)])
async def test_what_is_no_text_is_pointed_to_base64(deck: Deck, contents: bytes, offset: int) -> None:
    key = await stored(deck, contents)
    answer = await deck.refusal("uploads", action="read", key=key, offset=offset)
    assert "read with encoding base64" in answer["error"]
    assert (await deck.answer("uploads", action="read", key=key, encoding="base64"))["length"] == len(contents)


async def test_reads_are_bounded(deck: Deck) -> None:
    key = await stored(deck, b"x" * 100_000)
    answer = await deck.answer("uploads", action="read", key=key)
    assert (answer["length"], answer["nextOffset"]) == (65_536, 65_536)
    assert "1048576" in (await deck.refusal("uploads", action="read", key=key, length=1_048_577))["error"]


async def test_delete(deck: Deck) -> None:
    key = await stored(deck, b"x")
    assert await deck.answer("uploads", action="delete", key=key) == {"success": True, "key": key, "deleted": True}
    answer = await deck.refusal("uploads", action="delete", key=key)
    assert answer["code"] == "not_found"
    assert answer["error"] == f"there is no upload '{key}'; `uploads` with action list shows the keys"


async def test_presign_gives_a_url_where_the_store_has_any(deck: Deck, store: ObjectStore) -> None:
    key = await stored(deck, b"contents", "naïve.txt")
    if isinstance(store, LocalObjectStore):
        answer = await deck.refusal("uploads", action="presign", key=key)
        assert answer["code"] == "unsupported"
        assert "QUARTERDECK_OBJECTS_URL" in answer["error"]
        return
    answer = await deck.answer("uploads", action="presign", key=key, seconds=60)
    async with httpx2.AsyncClient() as client:
        assert (await client.get(answer["url"])).content == b"contents"
        assert (await client.get(answer["url"].replace("X-Amz-Expires=60", "X-Amz-Expires=6000"))).status_code == 403
    answer = await deck.refusal("uploads", action="presign", key=key + "x")
    assert answer["error"] == f"there is no upload '{key}x'; `uploads` with action list shows the keys"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"action": "rename"}, "input should be 'list', 'read', 'presign' or 'delete'"),
        ({"action": "presign"}, "action presign needs 'key'"),
        ({"action": "presign", "key": "uploads/a", "seconds": 604_801}, "seconds: "),
        ({"action": "list", "cursor": "/etc"}, "cursor: pass the nextCursor"),
        ({"action": "list", "key": "uploads/a"}, "key: has no meaning for list, only for read, presign, delete"),
        (
            {"action": "read", "key": "uploads/a", "prefix": "uploads/b"},
            "prefix: has no meaning for read, only for list",
        ),
        ({"action": "delete", "key": "uploads/a", "offset": 5}, "offset: has no meaning for delete, only for read"),
        ({"action": "read", "key": "uploads/a", "seconds": 5}, "seconds: has no meaning for read, only for presign"),
        ({"action": "read"}, "action read needs 'key'"),
        ({"action": "delete"}, "action delete needs 'key'"),
        ({"action": "read", "key": "uploads/../../etc/passwd"}, "is no upload's"),
        ({"action": "read", "key": "/etc/passwd"}, "is no upload's"),
        ({"action": "list", "prefix": "/etc"}, "every upload's key starts with 'uploads/'"),
        ({"action": "read", "key": "uploads/a", "offset": -1}, "offset: "),
        ({"action": "list", "limit": 501}, "limit: "),
        ({"action": "list", "sort": "size"}, "unknown argument 'sort'"),
    ],
)
async def test_bad_arguments_are_explained(deck: Deck, arguments: dict[str, Any], expected: str) -> None:
    answer = await deck.refusal("uploads", **arguments)
    assert answer["code"] == "invalid_argument"
    assert expected in answer["error"]


async def test_annotations(deck: Deck) -> None:
    async with Client(deck.server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"upload", "uploads"}
    for name, destructive in (("upload", False), ("uploads", True)):
        annotations = tools[name].annotations
        assert annotations is not None
        assert (annotations.destructive_hint, annotations.read_only_hint) == (destructive, False)
