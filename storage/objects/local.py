"""Objects in a local folder.

An object is a folder with two files, its contents and its description. It is written aside, synced, and moved into
place by one rename, which no system does over a folder that is not empty: so an object is there as a whole or not at
all, and of several processes exactly one gets the key.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, TypeVar, TypeVarTuple

from anyio import CancelScope, CapacityLimiter, to_thread

from ..errors import StorageError, UnsupportedError
from .base import BUFFER_BYTES, Contents, ObjectInfo, Reader, Stored, check_key, missing, taken, wrong_size
from .staging import Staging, sync_folder

T = TypeVar("T")
Args = TypeVarTuple("Args")

THREADS = 20  # as many as a batch has files: syncs at the same time share their writes
TURN_BYTES = 4 << 20  # of one file in one go: a thread for less costs more, and the next file waits for its end
CONTENTS = "contents"
DESCRIPTION = "about.json"


class LocalObjectStore:
    """An `ObjectStore`; several processes may use one folder at the same time."""

    def __init__(self, root: Path) -> None:
        """Create or open the folder (mode 0700) and sweep what dead processes left half-written.

        Raises:
            StorageError: the folder cannot be used.
        """
        self._root = root
        self._threads = CapacityLimiter(THREADS)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._staging = Staging(root / ".staging")  # no key starts with a dot
        except OSError as exc:
            raise StorageError(f"cannot keep objects in {root}: {_reason(exc)}") from exc

    async def put(
        self,
        key: str,
        contents: Contents,
        *,
        size: int,
        name: str,
        content_type: str,
        created_at: int,
        stored: Stored | None = None,
    ) -> ObjectInfo:
        check_key(key)
        target = self._folder(key)
        draft = await self._run(self._begin, key, target, contents, size)
        try:
            while draft.goes_on:
                await self._run(draft.write, TURN_BYTES)
                if stored is not None:
                    await stored(draft.size)
            info = ObjectInfo(key, name, content_type, size, draft.digest.hexdigest(), created_at)
            await self._run(draft.publish, info, target)
        except BaseException:
            with CancelScope(shield=True):
                await self._run(draft.discard)
            raise
        return info

    def _begin(self, key: str, target: Path, contents: Contents, size: int) -> _Draft:
        if target.exists():  # spares the writing; the rename is what decides
            raise taken(key)
        reader = contents()
        try:
            return _Draft(self._staging.path(), key, reader, size)
        except OSError:
            reader.close()
            raise

    async def stat(self, key: str) -> ObjectInfo | None:
        check_key(key)
        return await self._run(_describe, self._folder(key))

    async def read(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        contents = await self._run(_read, self._folder(key), offset, length)
        if contents is None:
            raise missing(key)
        return contents

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        return await self._run(self._list, prefix, after, limit)

    def _list(self, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        keys = (entry.name.replace("~", "/") for entry in self._root.iterdir() if not entry.name.startswith("."))
        found: list[ObjectInfo] = []
        for key in sorted(key for key in keys if key.startswith(prefix) and key > after):
            if len(found) == limit:
                break
            info = _describe(self._folder(key))
            if info is not None:  # deleted meanwhile, or nothing of ours
                found.append(info)
        return found

    async def delete(self, key: str) -> bool:
        check_key(key)
        return await self._run(self._delete, self._folder(key))

    def _delete(self, folder: Path) -> bool:
        """Let it leave as it came, by one rename: readers see the object or nothing."""
        aside = self._staging.path()
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return False
        sync_folder(self._root)
        shutil.rmtree(aside, ignore_errors=True)
        return True

    async def presign(self, key: str, seconds: int) -> str:  # noqa: ARG002
        check_key(key)
        raise UnsupportedError(
            "uploads are kept in a local folder, which has no URLs: read them with action read, "
            "or keep them in an S3 store (QUARTERDECK_OBJECTS_URL)"
        )

    async def close(self) -> None:
        await self._run(self._staging.close)

    def _folder(self, key: str) -> Path:
        return self._root / key.replace("/", "~")

    async def _run(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Do blocking work in a thread."""
        try:
            return await to_thread.run_sync(work, *args, limiter=self._threads)
        except OSError as exc:
            raise StorageError(f"the object store in {self._root} failed: {_reason(exc)}") from exc


def copy_objects(root: Path, target: Path, copy: Callable[[Path, Path], None]) -> None:
    """Copy every object of the folder by `copy(source, target)`; one that is deleted meanwhile is left out whole."""
    for folder in root.iterdir():
        if folder.name.startswith("."):
            continue
        try:
            for name in (CONTENTS, DESCRIPTION):
                copy(folder / name, target / folder.name / name)
        except (FileNotFoundError, NotADirectoryError):
            shutil.rmtree(target / folder.name, ignore_errors=True)


class _Draft:
    """An object that is being written aside; every method blocks."""

    def __init__(self, folder: Path, key: str, reader: Reader, size: int) -> None:
        folder.mkdir(mode=0o700)
        try:
            self._file = _create(folder / CONTENTS)
        except OSError:
            folder.rmdir()
            raise
        self._folder = folder
        self._reader = reader
        self._key = key
        self._expected = size
        self._buffer = memoryview(bytearray(min(BUFFER_BYTES, size + 1)))  # the same pages again and again
        self.digest = hashlib.sha256()
        self.size = 0
        self.goes_on = True

    def write(self, most: int) -> None:
        """Take `most` bytes, or a little more, from the contents, or what is left of them.

        Raises:
            InvalidArgumentError: they do not have the announced size.
        """
        end = self.size + most
        while self.goes_on and self.size < end:
            length = self._reader.readinto(self._buffer)
            self.goes_on = length > 0
            self.size += length
            if self.size > self._expected or (not length and self.size < self._expected):
                raise wrong_size(self._key, self._expected)
            self._file.write(self._buffer[:length])
            self.digest.update(self._buffer[:length])

    def publish(self, info: ObjectInfo, target: Path) -> None:
        """Make it durable, then visible.

        Raises:
            ConflictError: another writer was first.
        """
        self._reader.close()
        with self._file:
            _sync(self._file)
        with _create(self._folder / DESCRIPTION) as description:
            description.write(json.dumps(asdict(info)).encode())
            _sync(description)
        sync_folder(self._folder)
        try:
            self._folder.rename(target)
        except OSError as exc:
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise taken(info.key) from None
            raise
        self._folder = target  # should the next line fail, `discard` removes it there
        sync_folder(target.parent)

    def discard(self) -> None:
        """Leave no trace."""
        self._reader.close()
        with contextlib.suppress(OSError):  # what is still buffered may not fit on the disk
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _create(path: Path) -> BinaryIO:
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _describe(folder: Path) -> ObjectInfo | None:
    try:
        return ObjectInfo(**json.loads((folder / DESCRIPTION).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as exc:
        raise StorageError(f"{folder / DESCRIPTION} is damaged: {exc}") from exc


def _read(folder: Path, offset: int, length: int) -> bytes | None:
    try:
        with (folder / CONTENTS).open("rb") as contents:
            contents.seek(offset)
            return contents.read(length)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc)
