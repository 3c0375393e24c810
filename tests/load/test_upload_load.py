"""The HTTP door under load: nothing fails, nothing is lost, and the server needs no more at the end than early on."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path

import httpx2
import psutil
import pytest

from quarterdeck.storage.objects.local import LocalObjectStore
from tests.servers.http import HttpServer, http_server
from tests.until import until

REQUESTS, SECONDS = 100, 30
SIZES = (0, 1_000, 70_000, 400_000)  # of the files of a request; in all, more than a spool keeps back
MEGABYTE = 1 << 20


def descriptors(server: HttpServer) -> int:
    return psutil.Process(server.process.pid).num_fds()


def memory(server: HttpServer) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


async def digests(server: HttpServer) -> dict[str, str | None]:
    store = LocalObjectStore(server.data_dir / "objects")
    found: dict[str, str | None] = {}
    after = ""
    while page := await store.list("uploads/", after, 500):
        found |= {info.key: info.sha256 for info in page}
        after = page[-1].key
    await store.close()
    return found


@pytest.mark.slow
async def test_a_hundred_uploads_at_once_for_half_a_minute(tmp_path: Path) -> None:
    stored: dict[str, str] = {}
    memories: list[int] = []
    numbers = count()
    noise = os.urandom(max(SIZES))
    loop = asyncio.get_running_loop()

    async def upload(client: httpx2.AsyncClient) -> None:
        number = b"%d" % next(numbers)
        contents = [(noise[: max(0, size - len(number))] + number) for size in SIZES]
        batch = [("files", ("same name.bin", content)) for content in contents]
        answer = await client.post("/api/upload", files=batch)
        assert answer.status_code == 200, answer.text
        for content, file in zip(contents, answer.json()["files"], strict=True):
            assert file["sha256"] == hashlib.sha256(content).hexdigest()
            assert stored.setdefault(file["path"], file["sha256"]) is file["sha256"], "a key was given twice"

    async def worker(client: httpx2.AsyncClient, until_when: float) -> None:
        while loop.time() < until_when:
            await upload(client)

    with http_server(tmp_path) as server:
        limits = httpx2.Limits(max_connections=REQUESTS, max_keepalive_connections=REQUESTS)
        async with await server.client(limits=limits) as client:
            await asyncio.gather(*(worker(client, loop.time() + SECONDS / 3) for _ in range(REQUESTS)))
            memories.append(memory(server))
            await asyncio.gather(*(worker(client, loop.time() + SECONDS * 2 / 3) for _ in range(REQUESTS)))
            memories.append(memory(server))
        print(f"{len(stored)} files; resident after a third {memories[0] >> 20} MB, at the end {memories[1] >> 20} MB")
        assert memories[1] < memories[0] + 64 * MEGABYTE
        await until(lambda: not psutil.Process(server.process.pid).net_connections()[1:])
        assert {line["level"] for line in server.log()} == {"INFO"}
        assert await digests(server) == stored


@pytest.mark.slow
async def test_twenty_files_of_100_mb_need_no_memory(tmp_path: Path) -> None:
    size = 104_857_600
    head = b'--cut\r\nContent-Disposition: form-data; name="files"; filename="large"\r\n\r\n'
    chunk = os.urandom(MEGABYTE)

    async def body() -> AsyncGenerator[bytes, None]:
        for _ in range(20):
            yield head
            for _ in range(size // MEGABYTE):
                yield chunk
            yield b"\r\n"
        yield b"--cut--\r\n"

    with http_server(tmp_path) as server:
        async with await server.client() as client:
            await client.get("/healthz")
            idle = memory(server)
            headers = {"Content-Type": "multipart/form-data; boundary=cut"}
            answer = await client.post("/api/upload", content=body(), headers=headers, timeout=300)
        assert answer.status_code == 200, answer.text
        assert [file["size"] for file in answer.json()["files"]] == [size] * 20
        peak = _peak(server)
        print(f"idle {idle >> 20} MB, peak {peak >> 20} MB")
        assert peak < idle + 100 * MEGABYTE


def _peak(server: HttpServer) -> int:
    """The most that was ever resident."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10
