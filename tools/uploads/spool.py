"""Files that arrive piece by piece, kept until all of them are there."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock

from anyio import to_thread

from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.objects.base import Reader

from .sources import Prepared
from .types import TYPE_BYTES


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
        await to_thread.run_sync(self._append, piece)

    def _append(self, piece: bytes | bytearray) -> None:
        try:
            self._file.write(piece)
            self._file.flush()  # a full disk shows now
        except OSError as exc:
            raise _failed(exc) from exc

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Read what was appended, which blocks; comes after the last `append`. Raises StorageError: the disk fails."""
        try:
            with self._turn:
                self._file.seek(offset)
                return self._file.readinto(buffer)
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
        start = bytearray(min(self._size, TYPE_BYTES))
        length = await to_thread.run_sync(self.open().readinto, memoryview(start))
        return Prepared(self._size, bytes(start[:length]))

    def open(self) -> Reader:
        return _SpoolReader(self._spool, self._offset, self._size)


class _SpoolReader:
    def __init__(self, spool: Spool, offset: int, size: int) -> None:
        self._spool = spool
        self._at = offset
        self._end = offset + size

    def readinto(self, buffer: memoryview, /) -> int:
        length = self._spool.readinto(self._at, buffer[: self._end - self._at])
        self._at += length
        return length

    def close(self) -> None:
        """The spool is the request's."""
