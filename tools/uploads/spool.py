"""Files that arrive piece by piece, kept until all of them are there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import TypeVar, TypeVarTuple

from anyio import to_thread

from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.objects.base import CHUNK_BYTES

from .sources import Prepared
from .types import TYPE_BYTES

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Spool:
    """One nameless temporary file for all that a request brings: it is gone with the request, or with the process."""

    def __init__(self, folder: Path) -> None:
        """Raises StorageError: the folder cannot be written."""
        try:
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115  closed by `close`
        except OSError as exc:
            raise _failed(exc) from exc
        self._turn = Lock()  # files are read side by side, from one descriptor

    async def append(self, piece: bytes | bytearray) -> None:
        """Write behind what is there.

        Raises:
            StorageError: the disk is full, or fails.
        """
        await self._run(self._append, piece)

    def _append(self, piece: bytes | bytearray) -> None:
        self._file.write(piece)
        self._file.flush()  # a full disk shows now

    def _read(self, offset: int, length: int) -> bytes:
        with self._turn:
            self._file.seek(offset)
            return self._file.read(length)

    async def read(self, offset: int, length: int) -> bytes:
        """Read what was appended; comes after the last `append`. Raises StorageError: the disk fails."""
        return await self._run(self._read, offset, length)

    async def _run(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Do blocking work in a thread."""
        try:
            return await to_thread.run_sync(work, *args)
        except OSError as exc:
            raise _failed(exc) from exc

    def close(self) -> None:
        self._file.close()


def _failed(exc: OSError) -> StorageError:
    return StorageError(f"cannot keep what arrives: {exc.strerror}", status=500)


class SpooledSource:
    """A `Source`: `size` bytes of a spool from `offset`. Those of a file that is too large need not be there."""

    def __init__(self, spool: Spool, offset: int, size: int, name: str, content_type: str | None) -> None:
        self.name = name
        self.content_type = content_type
        self._spool = spool
        self._offset = offset
        self._size = size

    async def prepare(self) -> Prepared:
        return Prepared(self._size, await self._spool.read(self._offset, min(self._size, TYPE_BYTES)))

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        end = self._offset + self._size
        for start in range(self._offset, end, CHUNK_BYTES):
            yield await self._spool.read(start, min(CHUNK_BYTES, end - start))
