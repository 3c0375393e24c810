"""Uploads when things break: killed processes, full disks, folders that may not be written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from quarterdeck.storage.errors import DeckError, StorageError
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.sources import InlineSource
from tests.clock import ManualClock
from tests.contents import contents
from tests.ready import ready

PREAMBLE = """
import asyncio, os, sys, threading
from pathlib import Path
from quarterdeck.storage.objects.local import LocalObjectStore
from tests.contents import contents
root = Path(sys.argv[1])
store = LocalObjectStore(root)
async def put(key, source, size):
    return await store.put(key, source, size=size, name="n", content_type="t/t", created_at=0)
"""

HALF = """
def half():
    print("half", flush=True)
    threading.Event().wait()
asyncio.run(put("uploads/half", contents(b"x" * (2 << 20), half), 3 << 20))
"""

BUSY = """
def some(number):
    return contents(*[b"%04d" % number * 1000] * 4)
async def main():
    async def worker(start):
        for number in range(start, 10_000, 4):
            info = await put(f"uploads/{number:04}", some(number), 16_000)
            print(info.key, info.sha256, flush=True)
    await asyncio.gather(*map(worker, range(4)))
asyncio.run(main())
"""

READ_ONLY = """
some = contents(b"x")
async def main():
    await put("uploads/before", some, 1)
    for folder in (root / ".staging").iterdir():
        folder.chmod(0o500)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        await put("uploads/after", some, 1)
    except Exception as exc:
        print(type(exc).__name__, exc)
asyncio.run(main())
"""


@contextmanager
def child(program: str, root: Path) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PREAMBLE + program, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def drafts(root: Path) -> list[Path]:
    return list((root / ".staging").rglob("contents"))


def read_lines(process: subprocess.Popen[str], count: int) -> Sequence[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


async def test_kill_9_in_the_middle_of_a_put_leaves_nothing(tmp_path: Path) -> None:
    with child(HALF, tmp_path) as process:
        assert read_lines(process, 1) == ["half"]
        (draft,) = drafts(tmp_path)
        assert draft.stat().st_size >= 1 << 20
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert draft.exists()
    store = LocalObjectStore(tmp_path)
    assert await store.list("", "", 10) == []
    assert not draft.exists()
    assert names(tmp_path) == [".staging"]
    await store.close()


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with child(BUSY, tmp_path) as process:
        lines = list(read_lines(process, 40))
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        lines += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
    acknowledged = dict(line.split() for line in lines)
    store = LocalObjectStore(tmp_path)
    kept = {info.key: info for info in await store.list("", "", 10_000)}
    assert len(acknowledged) >= 40
    assert {key: kept[key].sha256 for key in acknowledged} == acknowledged
    for key, info in kept.items():
        contents = await store.read(key, 0, 100_000)
        assert contents == key[-4:].encode() * 4000
        assert info.size == len(contents)
    await store.close()


def test_a_folder_that_may_not_be_written_is_a_plain_error(tmp_path: Path) -> None:
    with child(READ_ONLY, tmp_path) as process:
        output, _ = process.communicate(timeout=60)
    assert output.strip() == f"StorageError the object store in {tmp_path} failed: Permission denied"


@contextmanager
def largest_file(size: int) -> Generator[None]:
    """Make the system refuse to write behind `size`, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_file_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    service = UploadService(ready(store), [], ManualClock())
    sources = [InlineSource(name, b"x" * size) for name, size in (("a", 10), ("big", 1 << 20), ("c", 10))]
    with largest_file(100_000):
        answer = await service.upload(sources)
    assert answer["status"] == 207
    assert [file["originalName"] for file in answer["files"]] == ["a", "c"]
    assert answer.get("warnings") == [f"Upload failed: big - the object store in {tmp_path} failed: File too large"]
    assert len(await store.list("", "", 10)) == 2
    assert drafts(tmp_path) == []
    await store.close()


@pytest.mark.parametrize("nth_sync", [1, 2, 3, 4])
async def test_a_disk_that_is_full_at_the_sync_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth_sync: int
) -> None:
    """Contents, description, draft and store are synced in this order; the last is behind the rename."""
    store = LocalObjectStore(tmp_path)
    service = UploadService(ready(store), [], ManualClock())
    syncs = 0
    really_sync = os.fsync

    def sync(file: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == nth_sync:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really_sync(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", sync)
        with pytest.raises(DeckError, match=r"All uploads failed: a - .*No space left on device") as failure:
            await service.upload([InlineSource("a", b"x")])
        assert syncs == nth_sync
    assert failure.value.details["status"] == 500
    assert await store.list("", "", 10) == []
    assert names(tmp_path) == [".staging"]
    assert drafts(tmp_path) == []
    assert (await service.upload([InlineSource("a", b"x")]))["status"] == 200
    await store.close()


async def test_a_store_whose_folder_is_gone_says_so(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "objects")
    for path in sorted((tmp_path / "objects").rglob("*"), reverse=True):
        path.rmdir()
    (tmp_path / "objects").rmdir()

    with pytest.raises(StorageError, match="No such file or directory"):
        await store.put("k", contents(b"x"), size=1, name="n", content_type="t/t", created_at=0)
    with pytest.raises(StorageError, match="No such file or directory"):
        await store.list("", "", 10)
