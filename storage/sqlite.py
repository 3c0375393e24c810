"""SQLite as the deck uses it: WAL, ordered migrations, and group commit on the event loop.

A point operation costs about 13 us; the hop to a thread and back costs several times that. So short statements run
inline on one connection that never waits: when another process holds the write lock, the loop goes on and the commit
is tried again. Whatever may take long (scans, searches, checkpoints) goes to other connections, each in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import aiosqlite

from .errors import DeckError, StorageError

T = TypeVar("T")
Rows = list[tuple[Any, ...]]
Parameters = Sequence[Any] | Mapping[str, Any]
Durability = Literal["process", "power"]
"""What a commit outlives: the death of every process, or a loss of power too (an fsync for each commit)."""

LOCK_TIMEOUT = 30.0  # seconds that a write may wait for other processes before it fails
SCANNERS = 3  # connections for what may take long
SCAN_TIMEOUT = 1.0  # seconds that a checkpoint may hold up the writers to wait for readers of other processes
CHECKPOINT_BYTES = 4 << 20  # WAL size at which a checkpoint is started
CHECKPOINT_EVERY = 256  # commits between two looks at that size


def open_database(path: Path, migrations: Sequence[str], durability: Durability = "process") -> sqlite3.Connection:
    """Open or create `path` (mode 0600), migrate it, and return a connection in autocommit mode that never waits.

    Raises:
        StorageError: the file cannot be opened, is damaged, or was written by a newer program.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))
        connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None, cached_statements=256)
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(f"cannot open {path}: {exc}") from exc
    try:
        _switch_to_wal(connection)
        _set_durability(connection, durability)
        connection.execute("PRAGMA foreign_keys=ON")
        _migrate(connection, path, migrations)
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA busy_timeout=0")
    except sqlite3.Error as exc:
        connection.close()
        raise StorageError(f"cannot use {path}: {exc}") from exc
    except DeckError:
        connection.close()
        raise
    return connection


def _set_durability(connection: sqlite3.Connection, durability: Durability) -> None:
    if durability == "power":
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache; a no-op elsewhere
    else:
        connection.execute("PRAGMA synchronous=NORMAL")


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, beside processes that write, into a new file (mode 0600).

    Raises:
        StorageError: it cannot be read, or is damaged.
    """
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with (
            contextlib.closing(sqlite3.connect(source, timeout=LOCK_TIMEOUT)) as original,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)  # all pages in one read transaction
            [state] = copy.execute("PRAGMA quick_check(1)").fetchone()
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(f"cannot copy {source}: {exc}") from exc
    if state != "ok":
        raise StorageError(f"cannot copy {source}: it is damaged: {state}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Processes that create a file together meet here, and SQLite itself does not wait for this lock."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            if not _is_busy(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Bring the schema to `len(migrations)`; other processes wait on the write lock meanwhile."""

    def version() -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    if version() < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version() == 0:
                _check_empty(connection, path)
            for number in range(version(), len(migrations)):
                for statement in _statements(migrations[number]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if version() > len(migrations):
        raise StorageError(
            f"{path} has schema {version()}, this program knows up to {len(migrations)}: upgrade quarterdeck"
        )


def _check_empty(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise StorageError(f"{path} is a database of another program: name another file")


def _statements(script: str) -> Iterable[str]:
    """Split a script at complete statements (`executescript` would commit the open transaction)."""
    buffer = ""
    for line in script.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            yield buffer
            buffer = ""


class _Write(Generic[T]):
    """One queued change and the caller that waits for its commit."""

    def __init__(self, change: Callable[[sqlite3.Connection], T], done: asyncio.Future[T]) -> None:
        self.change = change
        self.done = done
        self.result: T | None = None
        self.error: Exception | None = None

    def apply(self, connection: sqlite3.Connection) -> None:
        """Run the change; one that raises leaves nothing behind and does not disturb its neighbours.

        Raises:
            sqlite3.Error: the database itself failed, which ends the whole transaction.
        """
        connection.execute("SAVEPOINT change")
        try:
            self.result = self.change(connection)
        except sqlite3.Error:
            raise
        except Exception as exc:  # noqa: BLE001  kept for its caller; the others in this commit go on
            self.error = exc
            connection.execute("ROLLBACK TO change")
        connection.execute("RELEASE change")

    def settle(self) -> None:
        if self.done.done():  # its caller was cancelled
            return
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(cast("T", self.result))


class Database:
    """One SQLite file, shared with other processes. Use it from one event loop."""

    def __init__(
        self,
        path: Path,
        migrations: Sequence[str],
        durability: Durability = "process",
        functions: Mapping[str, Callable[[str, str], str]] | None = None,
    ) -> None:
        """`functions` are there for `scan`, by their SQL name. Raises StorageError as `open_database` does."""
        self.path = path
        self._functions = functions or {}
        self._durability: Durability = durability
        self._connection = open_database(path, migrations, durability)
        self._queue: list[_Write[Any]] = []
        self._flush_handle: asyncio.Handle | None = None
        self._blocked_since: float | None = None
        self._commits = 0
        self._scanners: list[aiosqlite.Connection] = []  # those that nobody uses now
        self._scanner_places = asyncio.Semaphore(SCANNERS)
        self._checkpoint: asyncio.Task[None] | None = None
        self._ends_log = False  # a checkpoint wants the write lock: our own commits wait for it

    def read(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Run a short query inline; it sees every commit, of other processes too.

        Raises:
            StorageError: SQLite could not read.
        """
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as exc:
            raise StorageError(f"cannot read {self.path}: {exc}") from exc

    async def scan(self, sql: str, parameters: Parameters = ()) -> Rows:
        """Run a query that may take long, in a thread.

        Raises:
            StorageError: SQLite could not read.
        """
        try:
            async with self._scanner() as scanner:
                return cast("Rows", list(await scanner.execute_fetchall(sql, parameters)))
        except sqlite3.Error as exc:
            raise StorageError(f"cannot read {self.path}: {exc}") from exc

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` in the next transaction and return its result once that is committed.

        Changes queued in the same turn of the loop share one commit. A change that raises is undone alone.

        Raises:
            StorageError: the transaction could not be committed; nothing of it was kept.
        """
        loop = asyncio.get_running_loop()
        write = _Write(change, loop.create_future())
        self._queue.append(write)
        if self._flush_handle is None:
            self._flush_handle = loop.call_soon(self._flush)
        result: T = await write.done
        return result

    async def write_aside(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run a change that may take long in a transaction of its own, in a thread; other writes wait meanwhile.

        Raises:
            StorageError: the transaction could not be committed; nothing of it was kept.
        """
        return await asyncio.to_thread(self._write_aside, change)

    def _write_aside(self, change: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with contextlib.closing(
                sqlite3.connect(self.path, timeout=LOCK_TIMEOUT, isolation_level=None)
            ) as connection:
                _set_durability(connection, self._durability)
                connection.execute("PRAGMA wal_autocheckpoint=0")
                connection.execute("BEGIN IMMEDIATE")
                result = change(connection)
                connection.execute("COMMIT")
                return result
        except sqlite3.Error as exc:
            raise StorageError(f"cannot write {self.path}: {exc}; nothing of this call was kept") from exc

    def _flush(self) -> None:
        self._flush_handle = None
        if self._ends_log or not self._queue:
            return
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as exc:
            if not (_is_busy(exc) and self._retry_later()):
                self._fail_queue(exc)
            return
        self._blocked_since = None
        batch, self._queue = self._queue, []
        try:
            for write in batch:
                write.apply(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            with contextlib.suppress(sqlite3.Error):  # whatever happens here, the callers are told below
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._queue = batch + self._queue
            self._fail_queue(exc)
            return
        for write in batch:
            write.settle()
        self._commits += 1
        if self._commits % CHECKPOINT_EVERY == 0:
            self._start_checkpoint()

    def _retry_later(self) -> bool:
        """Another process holds the write lock: come back soon, unless that has lasted too long."""
        now = time.monotonic()
        self._blocked_since = self._blocked_since or now
        if now - self._blocked_since > LOCK_TIMEOUT:
            return False
        delay = random.uniform(0.0005, 0.003)  # noqa: S311  spreads the contenders
        self._flush_handle = asyncio.get_running_loop().call_later(delay, self._flush)
        return True

    def _fail_queue(self, exc: sqlite3.Error) -> None:
        self._blocked_since = None
        batch, self._queue = self._queue, []
        for write in batch:
            write.error = StorageError(f"cannot write {self.path}: {exc}; nothing of this call was kept")
            write.settle()

    def _start_checkpoint(self) -> None:
        """Fold a grown WAL back into the file, in the thread, so that its fsync never stalls the loop."""
        if self._checkpoint is not None and not self._checkpoint.done():
            return
        wal = self.path.with_name(self.path.name + "-wal")
        with contextlib.suppress(OSError):
            if wal.stat().st_size >= CHECKPOINT_BYTES:
                self._checkpoint = asyncio.get_running_loop().create_task(self._run_checkpoint())

    async def _run_checkpoint(self) -> None:
        with contextlib.suppress(StorageError, sqlite3.Error):  # another process may be at it; the next one comes soon
            await self.scan("PRAGMA wal_checkpoint(PASSIVE)")  # nearly all of it, beside the writers
            # Under steady writes that alone never ends the log: the short rest is done while they wait.
            async with self._scanner() as scanner:
                self._ends_log = True
                try:
                    await scanner.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    self._ends_log = False
                    if self._queue:
                        self._flush()

    @contextlib.asynccontextmanager
    async def _scanner(self) -> AsyncGenerator[aiosqlite.Connection]:
        """A connection in a thread of its own; there are a few, so that a long scan does not hold up short ones."""
        async with self._scanner_places:
            scanner = self._scanners.pop() if self._scanners else await self._open_scanner()
            try:
                yield scanner
            finally:
                self._scanners.append(scanner)

    async def _open_scanner(self) -> aiosqlite.Connection:
        scanner = await aiosqlite.connect(self.path, timeout=SCAN_TIMEOUT, isolation_level=None)
        for name, function in self._functions.items():
            await scanner.create_function(name, 2, function)  # pyright: ignore[reportUnknownMemberType]
        return scanner

    async def close(self) -> None:
        """Commit what is queued and close every connection."""
        if self._checkpoint is not None:
            await self._checkpoint
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            deadline = time.monotonic() + LOCK_TIMEOUT
            while self._queue and time.monotonic() < deadline:
                self._flush()
                await asyncio.sleep(0.001)
        if self._checkpoint is not None:  # started by these last commits
            await self._checkpoint
        for scanner in self._scanners:
            await scanner.close()
        self._connection.close()


def _is_busy(exc: sqlite3.Error) -> bool:
    return isinstance(exc, sqlite3.OperationalError) and (exc.sqlite_errorcode & 0xFF) == sqlite3.SQLITE_BUSY
