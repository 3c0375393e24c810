"""The truth of the vector store: collections and points in one SQLite file.

Every change of a collection gets the next number of its sequence, in the transaction that makes it, and every row of a
point a greater key than all before it. What is derived from the points, in whichever process, is brought up to date by
the rows above the greatest key that it has, and by the keys that were deleted since the change it has reached.

Everything here is synchronous: it runs inline where it is short, else in a thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from ..errors import StorageError
from ..sqlite import LOCK_TIMEOUT, open_database
from .reader import Reader
from .schema import MIGRATIONS
from .writer import Writer

T = TypeVar("T")

MAPPED_BYTES = 1 << 30  # of the file that readers map instead of copying its pages
CHECKPOINT_PAGES = 4000  # in the log before a commit folds them back: 16 MB


class PointDatabase:
    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            StorageError: it cannot be opened, is damaged, or was written by a newer program.
        """
        self.path = path
        open_database(path, MIGRATIONS).close()
        self._inline = Reader(self._connect())
        self._writer = self._connect()
        self._idle: list[Reader] = []  # readers that no thread uses now

    def _connect(self) -> sqlite3.Connection:
        with self._explained("open"):
            connection = sqlite3.connect(
                self.path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=512
            )
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA mmap_size={MAPPED_BYTES}")
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return connection

    def close(self) -> None:
        for connection in (self._writer, self._inline.connection, *(reader.connection for reader in self._idle)):
            connection.close()

    @contextlib.contextmanager
    def read_inline(self) -> Generator[Reader]:
        """For the event loop's thread: all reads see the same state, and nothing is awaited meanwhile."""
        with self._explained("read"), self._inline.transaction():
            yield self._inline

    def read_once(self, read: Callable[[Reader], T]) -> T:
        """On the event loop, what needs no transaction: one statement, or several that look after it themselves."""
        with self._explained("read"):
            return read(self._inline)

    @contextlib.contextmanager
    def read(self) -> Generator[Reader]:
        """For any thread: all reads see the same state."""
        reader = self._idle.pop() if self._idle else Reader(self._connect())
        try:
            with self._explained("read"), reader.transaction():
                yield reader
        finally:
            self._idle.append(reader)

    @contextlib.contextmanager
    def write(self) -> Generator[Writer]:
        """A transaction, committed to the disk at the end, or undone if the block raises; one at a time."""
        with self._explained("write"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Writer(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.OperationalError):  # a failed commit may have rolled back itself
                    self._writer.execute("ROLLBACK")
                raise

    def fold_log(self) -> None:
        """Bring the log's pages into the file, where reads are quickest, as far as no reader is in the way."""
        with self._explained("write"):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextlib.contextmanager
    def _explained(self, action: str) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageError(f"cannot {action} {self.path}: {exc}") from exc
