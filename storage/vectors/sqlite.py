"""The truth of the vector store: collections and points in one SQLite file.

Every change of a collection gets the next number of its sequence, in the transaction that makes it. What is derived
from the points, in whichever process, is brought up to date by replaying the changes after the number it has reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Protocol, cast

import aiosqlite

from ..errors import ConflictError, NotFoundError, StorageError
from ..sqlite import LOCK_TIMEOUT, open_database
from .base import CollectionInfo
from .filters import Predicate
from .schema import MIGRATIONS

PointRow = tuple[str, bytes, str, int | None]  # id, vector, payload as JSON, expiry

KEPT_CHANGES = 1000  # deletions are remembered for so many changes; whoever is further behind starts from nothing
CHUNK_ROWS = 2048  # points replayed at once
CHUNK_IDS = 500  # ids in one statement

_INFO = "name, dimension, metric, embedder, created_at, index_kind, quantization, stored"
_COLLECTION = f"id, sequence, {_INFO}"
_CREATE = f"INSERT OR IGNORE INTO collections ({_INFO}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_POINT = "id, vector, payload, expires_at"
_PUT = f"""
    INSERT INTO points (collection, sequence, {_POINT}) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (collection, id) DO UPDATE SET
        sequence = excluded.sequence,
        vector = excluded.vector,
        payload = excluded.payload,
        expires_at = excluded.expires_at
"""
_COUNT = """
    SELECT (SELECT count(*) FROM points WHERE collection = :collection)
         - (SELECT count(*) FROM points WHERE collection = :collection AND expires_at <= :now)
"""
_LIVE = "collection = :collection AND ifnull(expires_at > :now, 1)"
_LOG_DELETION = "INSERT OR IGNORE INTO deletions SELECT collection, ?, id FROM points WHERE collection = ? AND "
_DELETE_LOGGED = """
    DELETE FROM points WHERE collection = :collection
        AND id IN (SELECT id FROM deletions WHERE collection = :collection AND sequence = :sequence)
"""


class Collection:
    """A row of `collections`: its key, the number of its last change, and what the world sees of it."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.key: int = row[0]
        self.sequence: int = row[1]
        self.info = CollectionInfo(*row[2:])

    @property
    def change(self) -> str:
        """Names the last change, of whichever collection has had this name."""
        return f"{self.key}.{self.sequence}"


class Replica(Protocol):
    """What is derived from the points of one collection."""

    def clear(self) -> None: ...
    def remove(self, ids: Iterable[str]) -> None: ...
    def put(self, rows: Sequence[PointRow]) -> None: ...


class PointDatabase:
    """Short reads run inline on the event loop, everything else in the threads of two connections.

    A cancelled write or replay must not be left half-way: the caller shields them. All methods raise StorageError if
    SQLite fails.
    """

    def __init__(
        self, path: Path, reader: sqlite3.Connection, replayer: aiosqlite.Connection, writer: aiosqlite.Connection
    ) -> None:
        """Use `open`."""
        self._path = path
        self._reader = reader
        self._replayer = replayer
        self._writer = writer
        self._replaying = asyncio.Lock()
        self._writing = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> PointDatabase:
        """Open or create the file; also raises StorageError if a newer program wrote it."""
        async with contextlib.AsyncExitStack() as opened:
            reader = opened.enter_context(contextlib.closing(open_database(path, MIGRATIONS)))
            replayer, writer = [
                await opened.enter_async_context(aiosqlite.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None))
                for _ in range(2)
            ]
            opened.pop_all()
        return cls(path, reader, replayer, writer)

    async def close(self) -> None:
        await self._replayer.close()
        await self._writer.close()
        self._reader.close()

    # ---- reads

    def find(self, name: str) -> Collection:
        """Read a collection's row as it is now, inline.

        Raises:
            NotFoundError: there is none.
        """
        return _only(name, self._read(f"SELECT {_COLLECTION} FROM collections WHERE name = ?", (name,)))

    def collections(self, limit: int, after: str) -> list[Collection]:
        sql = f"SELECT {_COLLECTION} FROM collections WHERE name > ? ORDER BY name LIMIT ?"
        return [Collection(row) for row in self._read(sql, (after, limit))]

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        with self._explained("read"):
            return self._reader.execute(sql, parameters).fetchall()

    async def count(self, key: int, now: int, accepts: Predicate | None = None) -> int:
        with self._explained("read"):
            async with self._replaying:
                if accepts is None:
                    return await _count(self._replayer, key, now)
                await self._replayer.create_function("accepts", 1, _on_text(accepts))  # pyright: ignore[reportUnknownMemberType]
                sql = f"SELECT count(*) FROM points WHERE {_LIVE} AND accepts(payload)"
                [(count,)] = await self._replayer.execute_fetchall(sql, {"collection": key, "now": now})
                return int(count)

    def latest_end(self, key: int, now: int) -> int:
        """When the last point ended that is still in the table, inline; 0 if none is."""
        sql = "SELECT ifnull(max(expires_at), 0) FROM points WHERE collection = ? AND expires_at <= ?"
        [(latest,)] = self._read(sql, (key, now))
        return int(latest)

    async def texts(self, key: int, now: int) -> list[tuple[str, str, str]]:
        """Id, payload and text of each point that has one."""
        sql = f"""
            SELECT id, payload, payload ->> '$.text' FROM points
            WHERE {_LIVE} AND json_type(payload, '$.text') = 'text'
        """
        with self._explained("read"):
            async with self._replaying:
                rows = await self._replayer.execute_fetchall(sql, {"collection": key, "now": now})
        return cast("list[tuple[str, str, str]]", rows)

    async def size(self, key: int) -> int:
        """Bytes of the points' rows, about."""
        sql = "SELECT ifnull(sum(length(vector) + length(payload) + length(id)), 0) FROM points WHERE collection = ?"
        with self._explained("read"):
            async with self._replaying:
                [(size,)] = await self._replayer.execute_fetchall(sql, (key,))
        return int(size)

    async def get(self, key: int, ids: Sequence[str], now: int) -> dict[str, PointRow]:
        rows: list[Any] = []
        with self._explained("read"):
            async with self._replaying:
                for start in range(0, len(ids), CHUNK_IDS):
                    chunk = ids[start : start + CHUNK_IDS]
                    sql = (
                        f"SELECT {_POINT} FROM points WHERE collection = ? AND ifnull(expires_at > ?, 1)"
                        f" AND id IN ({', '.join('?' * len(chunk))})"
                    )
                    rows += await self._replayer.execute_fetchall(sql, (key, now, *chunk))
        return {row[0]: row for row in rows}

    async def page(self, key: int, after: str, limit: int, now: int) -> list[PointRow]:
        sql = f"""
            SELECT {_POINT} FROM points
            WHERE collection = ? AND id > ? AND ifnull(expires_at > ?, 1) ORDER BY id LIMIT ?
        """
        with self._explained("read"):
            async with self._replaying:
                return cast("list[PointRow]", await self._replayer.execute_fetchall(sql, (key, after, now, limit)))

    async def replay(self, name: str, key: int, since: int, replica: Replica) -> int:
        """Apply the changes after number `since` to `replica` and return the number reached.

        Raises:
            NotFoundError: the collection was dropped.
        """
        async with self._snapshot() as db:
            rows = await db.execute_fetchall(f"SELECT {_COLLECTION} FROM collections WHERE id = ?", (key,))
            reached = _only(name, rows).sequence
            if since < reached - KEPT_CHANGES:
                since = 0
                replica.clear()
            scope = (key, since)
            gone = await db.execute_fetchall("SELECT id FROM deletions WHERE collection = ? AND sequence > ?", scope)
            replica.remove(row[0] for row in gone)  # first: a deleted id may have been put again
            sql = f"SELECT {_POINT} FROM points WHERE collection = ? AND sequence > ?"
            async with db.execute(sql, scope) as cursor:
                while chunk := await cursor.fetchmany(CHUNK_ROWS):
                    await asyncio.to_thread(replica.put, cast("list[PointRow]", chunk))
        return reached

    # ---- changes

    async def create(self, info: CollectionInfo) -> None:
        """Raises ConflictError if the name is taken."""
        async with self._transaction() as db:
            if not await _create(db, info):
                raise ConflictError(f"collection '{info.name}' exists already")

    async def drop(self, name: str, now: int) -> int:
        async with self._change(name, now) as (db, collection):
            count = await _count(db, collection.key, now)
            await _drop(db, collection.key)
        return count

    async def replace(self, name: str, successor: str, change: str | None) -> None:
        """Raises ConflictError if the last change of `name` is not `change`, where one is given."""
        async with self._transaction() as db:
            sql = f"SELECT {_COLLECTION} FROM collections WHERE name = ?"
            old, new = [_only(each, await db.execute_fetchall(sql, (each,))) for each in (name, successor)]
            if change not in (None, old.change):
                raise ConflictError(f"collection '{name}' was changed meanwhile: try again")
            if old.key != new.key:
                await _drop(db, old.key)
                await db.execute("UPDATE collections SET name = ? WHERE id = ?", (name, new.key))

    async def upsert(self, expected: CollectionInfo, rows: Sequence[PointRow], now: int) -> None:
        """Write points that were made by, and for, what `expected` says; make that collection if it is missing.

        Raises:
            ConflictError: its points were made by another embedder, or it has been made anew in another shape.
        """
        name, embedder = expected.name, expected.embedder
        async with self._change(name, now, missing=expected) as (db, collection):
            info = collection.info
            if (info.dimension, info.metric) != (expected.dimension, expected.metric):
                raise ConflictError(f"collection '{name}' was just made anew in another shape: try again")
            if info.embedder != embedder:
                if await _count(db, collection.key, now):
                    raise ConflictError(
                        f"the vectors of collection '{name}' come from {_origin(info.embedder)}, these from "
                        f"{_origin(embedder)}: they cannot be compared; use another collection"
                    )
                await db.execute("UPDATE collections SET embedder = ? WHERE id = ?", (embedder, collection.key))
            await db.executemany(_PUT, ((collection.key, collection.sequence, *row) for row in rows))

    async def delete(self, name: str, ids: Sequence[str], now: int) -> int:
        async with self._change(name, now) as (db, collection):
            scope = (collection.sequence, collection.key)
            await db.executemany(_LOG_DELETION + "id = ?", ((*scope, point_id) for point_id in ids))
            return await _delete_logged(db, collection)

    async def delete_where(self, name: str, accepts: Predicate, now: int) -> int:
        async with self._change(name, now) as (db, collection):
            await db.create_function("accepts", 1, _on_text(accepts))  # pyright: ignore[reportUnknownMemberType]
            await db.execute(_LOG_DELETION + "accepts(payload)", (collection.sequence, collection.key))
            return await _delete_logged(db, collection)

    @contextlib.asynccontextmanager
    async def _change(
        self, name: str, now: int, missing: CollectionInfo | None = None
    ) -> AsyncGenerator[tuple[aiosqlite.Connection, Collection]]:
        """A transaction that takes the next number of the sequence and buries expired points on the way.

        If there is no such collection, it is made as `missing` says.
        """
        async with self._transaction() as db:
            if missing is not None:
                await _create(db, missing)
            sql = f"UPDATE collections SET sequence = sequence + 1 WHERE name = ? RETURNING {_COLLECTION}"
            collection = _only(name, await db.execute_fetchall(sql, (name,)))
            forgotten = (collection.key, collection.sequence - KEPT_CHANGES)
            await db.execute("DELETE FROM deletions WHERE collection = ? AND sequence <= ?", forgotten)
            await db.execute(_LOG_DELETION + "expires_at <= ?", (collection.sequence, collection.key, now))
            await _delete_logged(db, collection)
            yield db, collection

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[aiosqlite.Connection]:
        with self._explained("write"):
            async with self._writing:
                await self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    await self._writer.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.OperationalError):  # a failed commit may have rolled back itself
                        await self._writer.execute("ROLLBACK")
                    raise

    @contextlib.asynccontextmanager
    async def _snapshot(self) -> AsyncGenerator[aiosqlite.Connection]:
        """All reads in it see the same state."""
        with self._explained("read"):
            async with self._replaying:
                await self._replayer.execute("BEGIN")
                try:
                    yield self._replayer
                finally:
                    await self._replayer.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self, action: str) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageError(f"cannot {action} {self._path}: {exc}") from exc


def _only(name: str, rows: Iterable[Sequence[Any]]) -> Collection:
    for row in rows:
        return Collection(row)
    raise NotFoundError(f"collection '{name}' does not exist")


async def _create(db: aiosqlite.Connection, info: CollectionInfo) -> bool:
    """False if the name is taken."""
    cursor = await db.execute(_CREATE, astuple(info))
    return cursor.rowcount > 0


async def _drop(db: aiosqlite.Connection, key: int) -> None:
    for statement in (
        "DELETE FROM points WHERE collection = ?",
        "DELETE FROM deletions WHERE collection = ?",
        "DELETE FROM collections WHERE id = ?",
    ):
        await db.execute(statement, (key,))


async def _count(db: aiosqlite.Connection, key: int, now: int) -> int:
    [(count,)] = await db.execute_fetchall(_COUNT, {"collection": key, "now": now})
    return int(count)


async def _delete_logged(db: aiosqlite.Connection, collection: Collection) -> int:
    """Remove the points that this change has logged as deleted and are still there."""
    cursor = await db.execute(_DELETE_LOGGED, {"collection": collection.key, "sequence": collection.sequence})
    return cursor.rowcount


def _origin(embedder: str | None) -> str:
    return "its callers" if embedder is None else f"the embedder '{embedder}'"


def _on_text(accepts: Predicate) -> Callable[[str], bool]:
    def accepts_text(payload: str) -> bool:
        return accepts(json.loads(payload))

    return accepts_text
