"""Reads of the vector store's SQLite file."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

from ..errors import NotFoundError
from .base import CollectionInfo, Hit
from .filters import Predicate

PointRow = tuple[str, bytes, str, int | None]  # id, vector, payload as JSON, expiry
SlotRow = tuple[int, bytes, int | None, str]  # key, vector, expiry, payload as JSON
FoundRow = tuple[int, str, str, bytes]  # key, id, payload as JSON, vector

KEPT_CHANGES = 1000  # deletions are remembered for so many changes
CHUNK_ROWS = 2048
CHUNK_IDS = 1000  # in one statement
MEASURED_ROWS = 10_000  # whose sizes stand for all: to read a million takes a second

INFO = "name, dimension, metric, embedder, created_at, index_kind, quantization, stored"
COLLECTION = f"id, sequence, points, text_key, snapshot, {INFO}"
LIVE = "collection = :collection AND ifnull(expires_at > :now, 1)"
_POINT = "id, vector, payload, expires_at"


class OutdatedError(Exception):
    """The collection has been changed since it was read."""


class Collection:
    """A row of `collections`: its key, the number of its last change, its rows, and what the world sees of it."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.key: int = row[0]
        self.sequence: int = row[1]
        self.rows: int = row[2]
        self.text_key: int | None = row[3]
        self.snapshot: str | None = row[4]
        self.info = CollectionInfo(*row[5:])

    @property
    def change(self) -> str:
        """Names the last change, of whichever collection has had this name."""
        return f"{self.key}.{self.sequence}"


class Reader:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("COMMIT")

    def _rows(self, sql: str, parameters: Any) -> list[Any]:
        return self.connection.execute(sql, parameters).fetchall()

    def find(self, name: str) -> Collection:
        """Raises NotFoundError if there is no such collection."""
        return Collection(one_of(name, self._rows(f"SELECT {COLLECTION} FROM collections WHERE name = ?", (name,))))

    def of_key(self, key: int) -> Collection | None:
        rows = self._rows(f"SELECT {COLLECTION} FROM collections WHERE id = ?", (key,))
        return Collection(rows[0]) if rows else None

    def collections(self, limit: int, after: str) -> list[Collection]:
        sql = f"SELECT {COLLECTION} FROM collections WHERE name > ? ORDER BY name LIMIT ?"
        return [Collection(row) for row in self._rows(sql, (after, limit))]

    def count(self, collection: Collection, now: int) -> int:
        sql = "SELECT count(*) FROM points WHERE collection = ? AND expires_at <= ?"
        [(ended,)] = self._rows(sql, (collection.key, now))
        return collection.rows - int(ended)

    def count_where(self, key: int, accepts: Predicate, now: int) -> int:
        self.connection.create_function("accepts", 1, on_text(accepts))
        sql = f"SELECT count(*) FROM points WHERE {LIVE} AND accepts(payload)"
        [(count,)] = self._rows(sql, {"collection": key, "now": now})
        return int(count)

    def token(self, name: str, now: int) -> str:
        """The collection's last change, and when the last of its points ended that is still in the table (0: none is).

        Raises NotFoundError if there is no such collection.
        """
        ended = "SELECT ifnull(max(expires_at), 0) FROM points WHERE collection = collections.id AND expires_at <= :now"
        sql = f"SELECT id || '.' || sequence || '.' || ({ended}) FROM collections WHERE name = :name"
        return str(one_of(name, self._rows(sql, {"now": now, "name": name}))[0])

    def size(self, collection: Collection) -> int:
        """Bytes of the points' rows, about: of many, as if all were like those at ten places."""
        key = collection.key
        places, count = [0], -1
        if collection.rows > MEASURED_ROWS:
            [(first,)] = self._rows("SELECT min(key) FROM points WHERE collection = ?", (key,))
            [(last,)] = self._rows("SELECT max(key) FROM points WHERE collection = ?", (key,))
            places, count = [first + (last - first) * place // 10 for place in range(10)], MEASURED_ROWS // 10
        sql = """
            SELECT length(vector) + length(CAST(payload AS BLOB)) + length(CAST(id AS BLOB))
            FROM points WHERE collection = ? AND key >= ? ORDER BY key LIMIT ?
        """
        sizes: list[int] = [row[0] for place in places for row in self._rows(sql, (key, place, count))]
        return round(sum(sizes) / max(1, len(sizes)) * collection.rows)

    def get(self, key: int, ids: Sequence[str], now: int) -> dict[str, PointRow]:
        sql = f"SELECT {_POINT} FROM points WHERE {LIVE} AND id IN (SELECT value FROM json_each(:ids))"
        rows = self._rows(sql, {"collection": key, "now": now, "ids": json.dumps(ids, ensure_ascii=False)})
        return {row[0]: row for row in rows}

    def page(self, key: int, after: str, limit: int, now: int) -> list[PointRow]:
        sql = f"SELECT {_POINT} FROM points WHERE {LIVE} AND id > :after ORDER BY id LIMIT :limit"
        parameters = {"collection": key, "now": now, "after": after, "limit": limit}
        return cast("list[PointRow]", self._rows(sql, parameters))

    # ---- what a derived index needs

    def keys(self, key: int) -> list[int]:
        """Of all rows, ascending."""
        return [row[0] for row in self._rows("SELECT key FROM points WHERE collection = ? ORDER BY key", (key,))]

    def deleted_since(self, collection: Collection, sequence: int) -> list[int] | None:
        """The keys deleted after that change; None if that is no more known."""
        if sequence < collection.sequence - KEPT_CHANGES:
            return None
        sql = "SELECT key FROM deletions WHERE collection = ? AND sequence > ?"
        return [row[0] for row in self._rows(sql, (collection.key, sequence))]

    def count_after(self, collection: Collection, key: int) -> int:
        sql = "SELECT count(*) FROM points WHERE collection = ? AND key > ?"
        [(count,)] = self._rows(sql, (collection.key, key))
        return int(count)

    def has_more(self, collection: Collection, sequence: int, key: int, count: int) -> bool:
        """Whether more than `count` points have been written with a greater key, or deleted after that change."""
        if sequence < collection.sequence - KEPT_CHANGES:
            return True
        sql = """
            SELECT (SELECT count(*) FROM (SELECT 1 FROM points WHERE collection = :key AND key > :last LIMIT :most))
                 + (SELECT count(*) FROM (SELECT 1 FROM deletions WHERE collection = :key AND sequence > :change
                                          LIMIT :most))
        """
        parameters = {"key": collection.key, "last": key, "change": sequence, "most": count + 1}
        [(found,)] = self._rows(sql, parameters)
        return int(found) > count

    def rows_after(self, collection: Collection, key: int, *, payloads: bool) -> Iterator[list[SlotRow]]:
        """The rows with greater keys, in chunks, ascending; without `payloads` those are empty."""
        payload = "payload" if payloads else "''"
        sql = f"SELECT key, vector, expires_at, {payload} FROM points WHERE collection = ? AND key > ? ORDER BY key"
        cursor = self.connection.execute(sql, (collection.key, key))
        while chunk := cursor.fetchmany(CHUNK_ROWS):
            yield cast("list[SlotRow]", chunk)

    def sample(self, collection: Collection, size: int) -> list[bytes]:
        """Vectors of up to `size` points, taken at random, but the same ones each time."""
        keys = self.keys(collection.key)
        chosen = keys if len(keys) <= size else random.Random(0).sample(keys, size)  # noqa: S311  no secret
        rows = self.found(collection, sorted(chosen))
        return [row[3] for row in rows.values()]

    def found(self, collection: Collection, keys: Sequence[int], *, vectors: bool = True) -> dict[int, FoundRow]:
        """The rows with these keys, by key; without `vectors` those are empty.

        Raises OutdatedError if the collection is no longer `collection`, which cannot be in the transaction that read
        that: each statement looks, so all of them see one state.
        """
        vector = "vector" if vectors else "x''"
        was = (collection.info.name, collection.key, collection.sequence)
        rows: list[Any] = []
        for start in range(0, len(keys) or 1, CHUNK_IDS):
            chunk = keys[start : start + CHUNK_IDS]
            marks = ", ".join("?" * len(chunk))
            sql = f"""
                SELECT key, points.id, payload, {vector} FROM collections LEFT JOIN points ON key IN ({marks})
                WHERE name = ? AND collections.id = ? AND collections.sequence = ?
            """
            some = self._rows(sql, (*chunk, *was))
            if not some:
                raise OutdatedError
            rows += some
        return {row[0]: row for row in rows if row[0] is not None}

    def search_text(
        self, collection: Collection, words: Sequence[str], limit: int, accepts: Predicate | None, now: int
    ) -> list[Hit]:
        """The points with any of the words, ranked by BM25."""
        if not words:
            return []
        table = texts_table(collection.key)
        sql = f"""
            SELECT points.id, -bm25({table}), points.payload FROM {table} JOIN points ON points.key = {table}.rowid
            WHERE {table} MATCH :match AND {LIVE} ORDER BY 2 DESC, points.key
        """
        match = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
        rows = self.connection.execute(sql, {"match": match, "collection": collection.key, "now": now})
        hits = (Hit(point_id, score, json.loads(payload)) for point_id, score, payload in rows)
        return list(islice((hit for hit in hits if accepts is None or accepts(hit.payload)), limit))


def one_of(name: str, rows: Iterable[Sequence[Any]]) -> Sequence[Any]:
    for row in rows:
        return row
    raise NotFoundError(f"collection '{name}' does not exist")


def texts_table(key: int) -> str:
    return f"texts_{key}"


def on_text(accepts: Predicate) -> Any:
    def accepts_text(payload: str) -> bool:
        return accepts(json.loads(payload))

    return accepts_text
