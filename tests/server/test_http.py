"""The HTTP door in a process of its own: uploads, who may call, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from quarterdeck.server.config import Settings, SettingsError, load_settings
from quarterdeck.server.deck import open_deck
from quarterdeck.server.http import listen
from quarterdeck.server.web.app import http_app
from tests.here import DeckHere
from tests.servers.http import COMMAND, HttpServer, http_server
from tests.until import until

Files = list[tuple[str, tuple[str, bytes] | tuple[str, bytes, str]]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HttpServer]:
    with http_server(tmp_path) as started:
        yield started


def files(*given: tuple[str, bytes]) -> Files:
    return [("files", file) for file in given]


async def stored(server: HttpServer) -> dict[str, str]:
    """The digest of every upload, as an MCP client on the same data directory sees them."""
    async with DeckHere(server.data_dir) as deck:
        uploads = (await deck.call("uploads", action="list", limit=500))["uploads"]
    return {upload["key"]: upload["sha256"] for upload in uploads}


def leftovers(server: HttpServer) -> list[str]:
    """What of unfinished uploads is on the disk."""
    staging = server.data_dir / "objects" / ".staging"
    drafts = [str(path) for path in staging.rglob("*") if path.is_file()]
    return drafts + [path.name for path in server.data_dir.glob("tmp*")]


async def test_a_batch_is_stored_and_searchable(server: HttpServer) -> None:
    note = b"# Ships\n\nThe harbour pilot boards every ship at the fairway buoy.\n"
    batch = files(("notes.md", note), ("notes.md", b"again"), ("empty", b""))
    batch.append(("files", ("logo", b"\x89PNG\r\n\x1a\n" + bytes(100))))
    async with await server.client() as client:
        answer = await client.post("/api/upload", files=batch, data={"index": "library"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["success"], body["status"], body["count"]) == (True, 200, 4)
    assert [file["originalName"] for file in body["files"]] == ["notes.md", "notes.md", "empty", "logo"]
    assert [file["size"] for file in body["files"]] == [len(note), 5, 0, 108]
    assert [file["type"] for file in body["files"]][0::3] == ["text/markdown", "image/png"]
    assert [file["chunks"] for file in body["files"]] == [1, 1, 0, 0]
    assert [warning.partition(" - ")[0] for warning in body["warnings"]] == [
        "Indexing failed: empty",
        "Indexing failed: logo",
    ]
    assert await stored(server) == {file["path"]: file["sha256"] for file in body["files"]}
    assert body["files"][0]["sha256"] == hashlib.sha256(note).hexdigest()
    async with DeckHere(server.data_dir) as deck:
        found = await deck.call("vector_search", collection="library", query="harbour pilot", limit=1)
    (hit,) = found["results"][0]
    assert hit["payload"] == {
        "key": body["files"][0]["path"],
        "document": body["files"][0]["path"],
        "title": "notes.md",
        "chunk": 0,
        "text": note.decode().strip(),
    }
    assert [line["level"] for line in server.log()] == ["INFO"]


async def test_bad_batches_get_the_codes_and_texts_of_the_tool(server: HttpServer) -> None:
    large = bytes(104_857_601)
    async with await server.client() as client:
        for batch, index, status, error in (
            (None, None, 400, "No files uploaded"),  # nothing at all
            ([("index", (None, b"library"))], None, 400, "No files uploaded"),
            (files(*[("a", b"x")] * 21), None, 400, "Maximum 20 files allowed"),
            (
                files(("a", b"x"), ("big", large), ("bigger", large + b"!")),
                None,
                400,
                "Validation failed: File big exceeds 100MB limit, File bigger exceeds 100MB limit",
            ),
            (files(("a", b"x")), "no/name", 400, "index: collection: a name is 1 to 128 letters"),
        ):
            answer = await client.post("/api/upload", files=batch, data={"index": index} if index else None)
            assert answer.status_code == status, answer.text
            body = answer.json()
            assert body["success"] is False
            assert body["status"] == status
            assert body["error"].startswith(error)
    assert await stored(server) == {}
    assert leftovers(server) == []


async def test_a_store_that_cannot_be_used_fails_all(server: HttpServer) -> None:
    async with await server.client() as client:
        (server.data_dir / "objects").write_text("in the way")
        answer = await client.post("/api/upload", files=files(("a", b"x"), ("b", b"y")))
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("All uploads failed: a - cannot keep objects in")
    assert len(answer.json()["warnings"]) == 2


async def test_a_defect_is_an_answer_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("secret")

    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck:
        monkeypatch.setattr(deck.ingest, "upload", fail)
        transport = httpx2.ASGITransport(http_app(deck, asyncio.Event()), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.post("/api/upload", files=files(("a", b"x")))
    assert answer.status_code == 500
    assert answer.json() == {
        "success": False,
        "error": "a defect of the server; its log has it",
        "code": "failed",
        "status": 500,
    }


async def test_health_and_unknown_routes(server: HttpServer) -> None:
    async with await server.client() as client:
        health = await client.get("/healthz")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        for method, path, status, error in (
            ("GET", "/nowhere", 404, "there is no such door; GET /api/openapi.json lists all"),
            ("GET", "/api/upload", 405, "this door takes POST"),
            ("POST", "/healthz", 405, "this door takes GET, HEAD"),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"] == f"{method} {path}: {error}"


async def test_a_foreign_host_name_is_refused(server: HttpServer) -> None:
    async with await server.client() as client:
        for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "10.0.0.1"):
            for path in ("/healthz", "/api/upload"):
                answer = await client.get(path, headers={"Host": host})
                assert answer.status_code in (400, 421), host  # 400: the parser takes no such host at all
        for own in ("localhost:1", "127.0.0.1", "[::1]:8765"):
            assert (await client.get("/healthz", headers={"Host": own})).status_code == 200


async def test_a_page_of_another_site_uploads_nothing(server: HttpServer) -> None:
    async with await server.client() as client:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://", "127.0.0.1"):
            answer = await client.post("/api/upload", files=files(("a", b"x")), headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "denied"), origin
        own = await client.post("/api/upload", files=files(("a", b"x")), headers={"Origin": await server.url()})
        assert own.status_code == 200
    assert len(await stored(server)) == 1


async def test_only_the_token_opens(tmp_path: Path) -> None:
    environment = {"QUARTERDECK_HTTP_HOST": "0.0.0.0", "QUARTERDECK_HTTP_TOKEN": "a sécret of all/1"}  # noqa: S104
    with http_server(tmp_path, **environment) as server:
        port = urlsplit(await server.url()).port
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def status(token: str | None, scheme: str = "Bearer") -> int:
                headers = {} if token is None else {"Authorization": f"{scheme} {token}".encode()}
                answer = await client.post("/api/upload", files=files(("a", b"x")), headers=headers)  # type: ignore[arg-type]
                if answer.status_code == 401:
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
                    assert "a sécret of all/1" not in answer.text
                return answer.status_code

            for wrong in (None, "sécret", "a sécret of all/12", "A SÉCRET OF ALL/1"):
                assert await status(wrong) == 401, wrong
            assert await status("a sécret of all/1", "Basic") == 401
            assert await status("a sécret of all/1") == await status("a sécret of all/1", "bearer") == 200
            assert (await client.get("/healthz")).status_code == 200
        assert len(await stored(server)) == 2
        assert "a sécret of all/1" not in server.stderr.read_text(encoding="utf-8")


def refused(folder: Path, **environment: str) -> str:
    """What a server that does not start says."""
    variables = {**os.environ, "QUARTERDECK_DATA_DIR": str(folder / "data"), **environment}
    done = subprocess.run(COMMAND, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def refused_here(**environment: str) -> str:
    """The same without a server."""
    with mock.patch.dict(os.environ, environment), pytest.raises(SettingsError) as error:
        listen(load_settings())
    return error.value.message


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
def test_nothing_is_opened_to_others_without_a_token_that_is_hard_to_guess(tmp_path: Path, host: str) -> None:
    open_to_all = {"QUARTERDECK_HTTP_HOST": host, "QUARTERDECK_HTTP_PORT": "0"}
    assert "set QUARTERDECK_HTTP_TOKEN too" in refused(tmp_path, **open_to_all)
    error = refused_here(**open_to_all, QUARTERDECK_HTTP_TOKEN="guess-me-please")
    assert "it needs at least 16 characters; python3 -c" in error
    assert "guess-me" not in error


def test_an_address_that_cannot_be_had_stops_the_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        text = refused(tmp_path, QUARTERDECK_HTTP_PORT=port)
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in text
    assert "cannot listen on no.such.host.invalid:" in refused_here(QUARTERDECK_HTTP_HOST="no.such.host.invalid")


BOUNDARY = b"frontier"
HEAD = b'--frontier\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n'
TAIL = b"\r\n--frontier--\r\n"


class Raw:
    """A connection that sends what it is told, when it is told."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    async def __aenter__(self) -> Raw:
        self.reader, self.writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def begin(self, size: int, first: bytes) -> None:
        """Send the head of an upload of so many bytes, and the first of them."""
        head = (
            f"POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n"
            "Content-Type: multipart/form-data; boundary=frontier\r\n\r\n"
        )
        self.writer.write(head.encode() + first)
        await self.writer.drain()

    async def answer(self) -> bytes:
        async with asyncio.timeout(30):
            return await self.reader.read()


def open_files(server: HttpServer) -> int:
    return psutil.Process(server.process.pid).num_fds()


async def test_a_signal_lets_a_running_upload_end(server: HttpServer) -> None:
    body = HEAD % b"slow" + b"x" * 500_000 + TAIL
    async with Raw(await server.url()) as client:
        before = open_files(server)
        await client.begin(len(body), body[:300_000])
        await until(lambda: open_files(server) > before)  # its spool: it is being read
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: any("SIGTERM: ending" in line["message"] for line in server.log()))
        await until(lambda: not _listens(client))
        client.writer.write(body[300_000:])
        assert (await client.answer()).startswith(b"HTTP/1.1 200 OK")
    assert await asyncio.to_thread(server.process.wait, 30) == 0
    assert len(await stored(server)) == 1


async def test_a_signal_lets_a_running_download_end(server: HttpServer) -> None:
    content = os.urandom(20 << 20)  # more than sockets hold
    async with await server.client() as client:
        key = (await client.post("/api/upload", files=files(("large", content)))).json()["files"][0]["path"]
    async with Raw(await server.url()) as slow:
        slow.writer.write(f"GET /api/upload/{key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(30):
            assert b"200 OK" in await slow.reader.readuntil(b"\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: not _listens(slow))
        assert await slow.answer() == content
    assert await asyncio.to_thread(server.process.wait, 30) == 0
    assert {line["level"] for line in server.log()} == {"INFO"}


def _listens(client: Raw) -> bool:
    try:
        with socket.create_connection(client.writer.get_extra_info("peername"), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(server: HttpServer) -> None:
    await server.url()
    async with await server.client() as client:
        await client.post("/api/upload", files=files(("a", b"x")))  # what is opened once and kept
    await until(lambda: not psutil.Process(server.process.pid).net_connections()[1:])
    before = open_files(server)
    for _ in range(5):
        async with Raw(await server.url()) as left:
            await left.begin(10_000_000, HEAD % b"gone" + b"x" * 1_000_000)
            await until(lambda: open_files(server) > before + 1)
    await until(lambda: open_files(server) == before)
    assert leftovers(server) == []
    assert len(await stored(server)) == 1
    assert {line["level"] for line in server.log()} == {"INFO"}


async def test_a_killed_server_leaves_nothing_of_a_half_upload(server: HttpServer) -> None:
    before_any = {path.name for path in server.data_dir.glob("*")}
    async with Raw(await server.url()) as client:
        before = open_files(server)
        await client.begin(10_000_000, HEAD % b"half" + b"x" * 5_000_000)
        await until(lambda: open_files(server) > before + 1)
        server.process.kill()
        await asyncio.to_thread(server.process.wait, 30)
    assert before_any <= {path.name for path in server.data_dir.glob("*")}
    assert leftovers(server) == []
    assert await stored(server) == {}


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: HttpServer) -> None:
    async with Raw(await server.url()) as client:
        await client.begin(20 * 104_857_600 + (1 << 20) + 1, b"")
        answer = await client.answer()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 20 files of 100MB can be" in answer


async def test_names_that_could_lead_elsewhere_stay_inside(server: HttpServer, tmp_path: Path) -> None:
    names = [b"../../evil.txt", b"/etc/passwd", b"a\0b", b"x" * 300, b"caf\xe9.txt", b"..", "naïve 日本.txt".encode()]
    parts = [HEAD % name + b"contents" for name in names]
    body = b"\r\n".join(parts) + TAIL
    await server.url()
    before = {path.name for path in tmp_path.iterdir()}
    async with await server.client() as client:
        answer = await client.post(
            "/api/upload", content=body, headers={"Content-Type": "multipart/form-data; boundary=frontier"}
        )
    assert answer.status_code == 200, answer.text
    paths = [file["path"] for file in answer.json()["files"]]
    assert [path.partition("_")[2] for path in paths] == [
        "evil.txt", "passwd", "a_b", "x" * 150, "caf_.txt", "file", "naïve_日本.txt",
    ]  # fmt: skip
    assert all(path.startswith("uploads/") and "/" not in path.removeprefix("uploads/") for path in paths)
    given: list[Any] = [file["originalName"] for file in answer.json()["files"]]
    assert given[4] == "caf\\udce9.txt"
    assert {path.name for path in tmp_path.iterdir()} == before
    assert len(await stored(server)) == len(names)
