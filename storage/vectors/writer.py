"""Changes of the vector store's SQLite file, in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any

from ..errors import ConflictError, NotFoundError
from ..memory.words import tokens
from .base import CollectionInfo
from .filters import Predicate
from .reader import COLLECTION, INFO, KEPT_CHANGES, Collection, PointRow, Reader, on_text, one_of, texts_table

_CREATE = f"INSERT OR IGNORE INTO collections ({INFO}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_PUT = "INSERT INTO points (collection, id, vector, payload, expires_at) VALUES (?, ?, ?, ?, ?)"
_LOG_DELETION = """
    INSERT OR IGNORE INTO deletions SELECT collection, :sequence, key FROM points WHERE collection = :collection AND
"""
_DELETE_LOGGED = """
    DELETE FROM points WHERE key IN (SELECT key FROM deletions WHERE collection = :collection AND sequence = :sequence)
"""


class Writer:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def create(self, info: CollectionInfo) -> None:
        """Raises ConflictError if the name is taken."""
        if not self._create(info):
            raise ConflictError(f"collection '{info.name}' exists already")

    def _create(self, info: CollectionInfo) -> bool:
        """False if the name is taken."""
        return self._connection.execute(_CREATE, astuple(info)).rowcount > 0

    def drop(self, name: str, now: int) -> tuple[Collection, int]:
        """The collection that was there, and how many points it had."""
        reader = Reader(self._connection)
        collection = reader.find(name)
        count = reader.count(collection, now)
        for statement in (
            "DELETE FROM points WHERE collection = ?",
            "DELETE FROM deletions WHERE collection = ?",
            "DELETE FROM collections WHERE id = ?",
        ):
            self._connection.execute(statement, (collection.key,))
        self._connection.execute(f"DROP TABLE IF EXISTS {texts_table(collection.key)}")
        return collection, count

    def replace(self, name: str, successor: str, now: int, change: str | None) -> Collection | None:
        """Give `successor` the name `name` and return what had that; None if they are the same.

        Raises:
            ConflictError: the last change of `name` is not `change`, where one is given.
        """
        reader = Reader(self._connection)
        old, new = reader.find(name), reader.find(successor)
        if change not in (None, old.change):
            raise ConflictError(f"collection '{name}' was changed meanwhile: try again")
        if old.key == new.key:
            return None
        self.drop(name, now)
        self._connection.execute("UPDATE collections SET name = ? WHERE id = ?", (name, new.key))
        return old

    def upsert(self, expected: CollectionInfo, rows: Sequence[PointRow], now: int, *, batched: bool) -> None:
        """Write points that were made by, and for, what `expected` says; make that collection if it is missing.

        Raises:
            ConflictError: its points were made by another embedder, or it has been made anew in another shape.
        """
        name, embedder = expected.name, expected.embedder
        try:
            collection = self._change(name, now)
        except NotFoundError:
            self._create(expected)
            collection = self._change(name, now)
        info = collection.info
        if (info.dimension, info.metric, info.stored) != (expected.dimension, expected.metric, expected.stored):
            raise ConflictError(f"collection '{name}' was just made anew in another shape: try again")
        if info.embedder != embedder:
            if collection.rows:
                raise ConflictError(
                    f"the vectors of collection '{name}' come from {_origin(info.embedder)}, these from "
                    f"{_origin(embedder)}: they cannot be compared; use another collection"
                )
            self._connection.execute("UPDATE collections SET embedder = ? WHERE id = ?", (embedder, collection.key))
        self._remove_ids(collection, [row[0] for row in rows])
        values = [(collection.key, *row) for row in rows]
        if batched:
            self._connection.executemany(_PUT, values)
        else:
            for value in values:
                self._connection.execute(_PUT, value)
        sql = "UPDATE collections SET points = points + ? WHERE id = ?"
        self._connection.execute(sql, (len(rows), collection.key))

    def delete(self, name: str, ids: Sequence[str], now: int) -> int:
        collection = self._change(name, now)
        return self._remove_ids(collection, ids)

    def delete_where(self, name: str, accepts: Predicate, now: int) -> int:
        collection = self._change(name, now)
        self._connection.create_function("accepts", 1, on_text(accepts))
        return self._remove(collection, "accepts(payload)")

    def _change(self, name: str, now: int) -> Collection:
        """Take the next number of the sequence, and bury expired points on the way."""
        sql = f"UPDATE collections SET sequence = sequence + 1 WHERE name = ? RETURNING {COLLECTION}"
        collection = Collection(one_of(name, self._connection.execute(sql, (name,)).fetchall()))
        forgotten = (collection.key, collection.sequence - KEPT_CHANGES)
        self._connection.execute("DELETE FROM deletions WHERE collection = ? AND sequence <= ?", forgotten)
        collection.rows -= self._remove(collection, "expires_at <= :now", now=now)
        return collection

    def _remove_ids(self, collection: Collection, ids: Sequence[str]) -> int:
        listed = json.dumps(ids, ensure_ascii=False)
        return self._remove(collection, "id IN (SELECT value FROM json_each(:ids))", ids=listed)

    def _remove(self, collection: Collection, condition: str, **parameters: Any) -> int:
        """Log and delete the rows for which the condition holds, and return how many."""
        scope = {"collection": collection.key, "sequence": collection.sequence}
        if not self._connection.execute(_LOG_DELETION + condition, {**scope, **parameters}).rowcount:
            return 0
        removed = self._connection.execute(_DELETE_LOGGED, scope).rowcount
        self._connection.execute("UPDATE collections SET points = points - ? WHERE id = ?", (removed, collection.key))
        return removed

    def keep_snapshot(self, key: int, folder: str) -> Collection | None:
        """Name the folder of a collection's kept index; the collection as it was before, None if it is gone."""
        collection = Reader(self._connection).of_key(key)
        self._connection.execute("UPDATE collections SET snapshot = ? WHERE id = ?", (folder, key))
        return collection

    def index_texts(self, name: str) -> None:
        """Bring the full text of a collection up to its last point.

        What a removed point leaves there is not found, for it is joined with the points, and goes with the collection.
        """
        collection = Reader(self._connection).find(name)
        table = texts_table(collection.key)
        if collection.text_key is None:
            self._connection.execute(f"CREATE VIRTUAL TABLE {table} USING fts5 (body, tokenize = 'ascii')")
        rows = self._connection.execute(
            "SELECT key, json_extract(payload, '$.text') FROM points WHERE collection = ? AND key > ? "
            "AND json_type(payload, '$.text') = 'text' ORDER BY key",
            (collection.key, collection.text_key or 0),
        )
        self._connection.executemany(f"INSERT INTO {table} (rowid, body) VALUES (?, ?)", _spelled(rows))
        last = "SELECT ifnull(max(key), 0) FROM points WHERE collection = collections.id"
        self._connection.execute(f"UPDATE collections SET text_key = ({last}) WHERE id = ?", (collection.key,))


def _spelled(rows: Iterable[tuple[int, str]]) -> Iterable[tuple[int, str]]:
    return ((key, " ".join(tokens(text))) for key, text in rows)


def _origin(embedder: str | None) -> str:
    return "its callers" if embedder is None else f"the embedder '{embedder}'"
