"""Memory in one SQLite file.

A row is the whole history of a key that can still matter: its latest value, live or ended, and the one before it. So
an overwrite that can be undone is still one statement.

Every page that a commit touches costs some microseconds, so a store maintains no index but the key. A changed value
moves its row to the highest `id`: what the full-text index lacks is what lies above its own highest row, and the
search that needs it adds that first. Purging walks the table in turns instead of asking an index for what has ended.

An indexed word begins with a tag of its namespace: a search reads, and ranks by, the words of its own only.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from ..errors import StorageError
from ..sqlite import Database, Durability
from .base import Entry, Hit, NamespaceStats, prefix_end, searchable_text, version_conflict
from .words import namespace_tag, snippet, tokens

INDEX_ROWS = 100  # entries indexed in one transaction: some milliseconds of the event loop
INDEX_BYTES = 200_000
PURGE_BYTES = 200_000

MIGRATIONS = (
    """
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY,            -- above all of `words` while the value is not in it
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        version INTEGER NOT NULL,
        size INTEGER NOT NULL,             -- bytes of value
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        ttl INTEGER NOT NULL,              -- 0: for ever
        expires_at INTEGER,                -- of a deleted entry: when that was
        deleted INTEGER NOT NULL DEFAULT 0,
        grace INTEGER NOT NULL,            -- how long it stays restorable after its end
        words_id INTEGER,                  -- row of `words` for this key, of an earlier value if not equal to id
        previous_ttl INTEGER,
        previous_until INTEGER,            -- end of the grace of the value before
        value TEXT NOT NULL,
        previous TEXT,
        UNIQUE (namespace, key)
    );
    CREATE VIRTUAL TABLE words USING fts5 (key, body, tokenize = 'unicode61 remove_diacritics 2');
    """,
    """
    CREATE TABLE clock (noted INTEGER NOT NULL);
    INSERT INTO clock VALUES (0);
    DROP TABLE words;  -- its words had no tag; the first search makes it again
    CREATE VIRTUAL TABLE words USING fts5 (key, body, tokenize = 'ascii');
    """,
)

_LIVE = "NOT deleted AND ifnull(expires_at > :now, 1)"
_IS_KEY = "namespace = :namespace AND key = :key"
_HEAD = "namespace, key, '', size, version, created_at, updated_at, expires_at"  # the fields of Entry
_ENTRY = _HEAD.replace("''", "value")
_ENDED_UNTIL = "min(ifnull(expires_at, :now), :now) + grace"  # end of the grace of a row's value, if it ends now
_CHANGED_ID = "iif(words_id = id, (SELECT max(id) + 1 FROM entries), id)"
_INDEXED_TO = "ifnull((SELECT rowid FROM words ORDER BY rowid DESC LIMIT 1), 0)"
_KEEP_PREVIOUS = f"""
        previous_ttl = ttl,
        previous_until = iif({_ENDED_UNTIL} > :now, {_ENDED_UNTIL}, NULL),
        previous = iif({_ENDED_UNTIL} > :now, value, NULL)
""".strip()

_PUT = f"""
    INSERT INTO entries (namespace, key, version, size, created_at, updated_at, ttl, expires_at, grace, value)
    VALUES (:namespace, :key, 1, :size, :now, :now, :ttl, :now + nullif(:ttl, 0), :grace, :text)
    ON CONFLICT (namespace, key) DO UPDATE SET
        id = {_CHANGED_ID},
        version = version + 1,
        size = :size,
        created_at = iif({_LIVE}, created_at, :now),
        updated_at = :now,
        ttl = :ttl,
        expires_at = :now + nullif(:ttl, 0),
        deleted = 0,
        grace = :grace,
        {_KEEP_PREVIOUS},
        value = :text
    RETURNING version, created_at, expires_at
"""
_LOAD = f"""
    INSERT INTO entries (namespace, key, version, size, created_at, updated_at, ttl, expires_at, grace, value)
    VALUES (:namespace, :key, :version, :size, :created_at, :updated_at, :ttl, :expires_at, :grace, :text)
    ON CONFLICT (namespace, key) DO UPDATE SET
        id = {_CHANGED_ID},
        version = max(version + 1, :version),
        size = :size,
        created_at = :created_at,
        updated_at = :updated_at,
        ttl = :ttl,
        expires_at = :expires_at,
        deleted = 0,
        grace = :grace,
        {_KEEP_PREVIOUS},
        value = :text
    WHERE NOT ({_LIVE}) OR updated_at < :updated_at
"""
_RENEW = "ttl = ifnull(:ttl, ttl), expires_at = :now + nullif(ifnull(:ttl, ttl), 0)"
_REVIVE = f"""
    UPDATE entries SET version = version + 1, updated_at = :now, deleted = 0, {_RENEW}
    WHERE {_IS_KEY} AND NOT ({_LIVE}) AND expires_at + grace > :now
    RETURNING {_ENTRY}
"""
_SWAP = f"""
    UPDATE entries SET
        id = {_CHANGED_ID},
        version = version + 1,
        size = length(CAST(previous AS BLOB)),
        updated_at = :now,
        ttl = ifnull(:ttl, previous_ttl),
        expires_at = :now + nullif(ifnull(:ttl, previous_ttl), 0),
        previous_ttl = ttl,
        previous_until = :now + grace,
        value = previous,
        previous = value
    WHERE {_IS_KEY} AND {_LIVE} AND previous_until > :now
    RETURNING {_ENTRY}
"""
_UNINDEXED = f"SELECT id, namespace, key, value, words_id FROM entries WHERE id > {_INDEXED_TO} ORDER BY id LIMIT ?"
_LOOK = """
    SELECT id, words_id, size, expires_at + grace <= :now, previous_until <= :now
    FROM entries WHERE id > :after ORDER BY id LIMIT :limit
"""


class SqliteMemoryStore:
    """A `MemoryStore`. Point operations run inline, searches in a thread."""

    backend = "sqlite"

    def __init__(self, path: Path, durability: Durability = "process") -> None:
        """Raises StorageError: the file cannot be opened, is damaged or too new."""
        self._db = Database(path, MIGRATIONS, durability, functions={"snippet": _snippet})
        newest = self._db.read("SELECT ifnull(max(id), 0) FROM entries")[0][0]
        self._purged_to: int = random.randint(0, newest)  # noqa: S311  short sessions too reach every row in time

    async def put(
        self,
        namespace: str,
        key: str,
        text: str,
        *,
        size: int,
        now: int,
        ttl: int,
        grace: int,
        if_version: int | None = None,
    ) -> Entry:
        def change(connection: sqlite3.Connection) -> Entry:
            if if_version is not None:
                _check_version(connection, namespace, key, now, if_version)
            parameters = {
                "namespace": namespace,
                "key": key,
                "text": text,
                "size": size,
                "now": now,
                "ttl": ttl,
                "grace": grace,
            }
            [(version, created_at, expires_at)] = connection.execute(_PUT, parameters).fetchall()
            return Entry(namespace, key, text, size, version, created_at, now, expires_at)

        return await self._db.write(change)

    async def get(self, namespace: str, key: str, *, now: int) -> Entry | None:
        rows = self._db.read(
            f"SELECT {_ENTRY} FROM entries WHERE {_IS_KEY} AND {_LIVE}",
            {"namespace": namespace, "key": key, "now": now},
        )
        return Entry(*rows[0]) if rows else None

    async def get_many(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        return await self._many(_ENTRY, namespace, keys, now)

    async def heads(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        return await self._many(_HEAD, namespace, keys, now)

    async def _many(self, fields: str, namespace: str, keys: Sequence[str], now: int) -> dict[str, Entry]:
        rows = await self._db.scan(
            f"""
            SELECT {fields} FROM entries
            WHERE namespace = :namespace AND key IN (SELECT value FROM json_each(:keys)) AND {_LIVE}
            """,
            {"namespace": namespace, "keys": json.dumps(keys), "now": now},
        )
        return {entry.key: entry for entry in (Entry(*row) for row in rows)}

    async def page(
        self, namespace: str, *, now: int, limit: int, prefix: str = "", after: str | None = None
    ) -> list[Entry]:
        end = prefix_end(prefix)
        rows = await self._db.scan(
            f"""
            SELECT {_HEAD} FROM entries
            WHERE namespace = :namespace AND key >= :first {"" if end is None else "AND key < :end"}
                AND (:after IS NULL OR key > :after) AND {_LIVE}
            ORDER BY key LIMIT :limit
            """,
            {
                "namespace": namespace,
                "first": max(prefix, after or ""),
                "end": end,
                "after": after,
                "now": now,
                "limit": limit,
            },
        )
        return [Entry(*row) for row in rows]

    async def search(self, namespace: str, words: Sequence[str], *, now: int, limit: int, offset: int = 0) -> list[Hit]:
        while self._db.read(f"SELECT 1 FROM entries WHERE id > {_INDEXED_TO} LIMIT 1"):
            try:
                await self._db.write_aside(_index_some)
            except StorageError as exc:
                raise StorageError(
                    f"cannot search: what was stored lately could not be indexed: {exc.message}"
                ) from exc
        match = _match(namespace, words)
        if not match:
            return []
        rows = await self._db.scan(
            f"""
            SELECT namespace, entries.key, '', size, version, created_at, updated_at, expires_at,
                -rank, snippet(value, :word)
            FROM words JOIN entries ON entries.id = words.rowid
            WHERE words MATCH :match AND namespace = :namespace AND {_LIVE}
            ORDER BY rank LIMIT :limit OFFSET :offset
            """,
            {
                "match": match,
                "word": words[0],
                "namespace": namespace,
                "now": now,
                "limit": limit,
                "offset": offset,
            },
        )
        return [Hit(Entry(*row[:8]), score=row[8], snippet=row[9]) for row in rows]

    async def touch(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        def change(connection: sqlite3.Connection) -> Entry | None:
            rows = connection.execute(
                f"UPDATE entries SET {_RENEW} WHERE {_IS_KEY} AND {_LIVE} RETURNING {_HEAD}",
                {"namespace": namespace, "key": key, "now": now, "ttl": ttl},
            ).fetchall()
            return Entry(*rows[0]) if rows else None

        return await self._db.write(change)

    async def delete(self, namespace: str, key: str, *, now: int, if_version: int | None = None) -> bool:
        def change(connection: sqlite3.Connection) -> bool:
            if if_version is not None:
                _check_version(connection, namespace, key, now, if_version)
            cursor = connection.execute(
                f"UPDATE entries SET expires_at = :now, deleted = 1 WHERE {_IS_KEY} AND {_LIVE}",
                {"namespace": namespace, "key": key, "now": now},
            )
            return cursor.rowcount > 0

        return await self._db.write(change)

    async def restore(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        parameters = {"namespace": namespace, "key": key, "now": now, "ttl": ttl}

        def change(connection: sqlite3.Connection) -> Entry | None:
            rows = (
                connection.execute(_SWAP, parameters).fetchall() or connection.execute(_REVIVE, parameters).fetchall()
            )
            return Entry(*rows[0]) if rows else None

        return await self._db.write(change)

    async def namespaces(self, *, now: int, limit: int, after: str = "") -> list[NamespaceStats]:
        rows = await self._db.scan(
            f"""
            SELECT namespace, count(*), sum(size), min(expires_at) FROM entries
            WHERE namespace > :after AND {_LIVE} GROUP BY namespace ORDER BY namespace LIMIT :limit
            """,
            {"after": after, "now": now, "limit": limit},
        )
        return [NamespaceStats(*row) for row in rows]

    async def usage(self, namespace: str, *, now: int) -> NamespaceStats:
        [row] = await self._db.scan(
            f"""
            SELECT count(*), ifnull(sum(size), 0), min(expires_at) FROM entries
            WHERE namespace = :namespace AND {_LIVE}
            """,
            {"namespace": namespace, "now": now},
        )
        return NamespaceStats(namespace, *row)

    async def load(self, entry: Entry, *, now: int, grace: int) -> bool:
        parameters = {name: getattr(entry, name) for name in (*Entry.__slots__, "ttl")} | {"now": now, "grace": grace}
        return await self._db.write(lambda connection: connection.execute(_LOAD, parameters).rowcount > 0)

    async def note_time(self, now: int, *, trust: int) -> int:
        def change(connection: sqlite3.Connection) -> int:
            noted = int(connection.execute("SELECT noted FROM clock").fetchone()[0])
            if not now <= noted <= now + trust:
                connection.execute("UPDATE clock SET noted = ?", (now,))
            return noted

        return await self._db.write(change)

    async def purge(self, *, now: int, limit: int) -> None:
        def change(connection: sqlite3.Connection) -> None:
            newest = int(connection.execute("SELECT ifnull(max(id), 0) FROM entries").fetchone()[0])
            looked = connection.execute(_LOOK, {"after": self._purged_to, "now": now, "limit": limit}).fetchall()
            # Their words are taken apart once more when they leave the index.
            sizes = accumulate(row[2] if row[3] else 0 for row in looked)
            seen = [row for row, size in zip(looked, sizes, strict=True) if size <= PURGE_BYTES] or looked[:1]
            self._purged_to = 0 if len(seen) == len(looked) < limit else seen[-1][0]
            # The newest row stays, so that ids never start again below what `words` has.
            ended = [(number, words_id) for number, words_id, _, is_over, _ in seen if is_over and number < newest]
            connection.executemany("DELETE FROM words WHERE rowid = ?", [(words_id,) for _, words_id in ended])
            connection.executemany("DELETE FROM entries WHERE id = ?", [(number,) for number, _ in ended])
            connection.executemany(
                "UPDATE entries SET previous = NULL, previous_ttl = NULL, previous_until = NULL WHERE id = ?",
                [(number,) for number, _, _, _, previous_is_over in seen if previous_is_over],
            )

        await self._db.write_aside(change)

    async def close(self) -> None:
        await self._db.close()


def _check_version(connection: sqlite3.Connection, namespace: str, key: str, now: int, expected: int) -> None:
    rows = connection.execute(
        f"SELECT version FROM entries WHERE {_IS_KEY} AND {_LIVE}", {"namespace": namespace, "key": key, "now": now}
    ).fetchall()
    current = int(rows[0][0]) if rows else 0
    if current != expected:
        raise version_conflict(namespace, key, current, expected)


def _index_some(connection: sqlite3.Connection) -> None:
    """Bring the full-text index up to date for a bounded number of entries, in the order of their ids."""
    chosen: list[tuple[int, str, str, str, int | None]] = []
    size = 0
    for row in connection.execute(_UNINDEXED, (INDEX_ROWS,)):
        chosen.append(row)
        size += len(row[3])
        if size > INDEX_BYTES:
            break
    connection.executemany("DELETE FROM words WHERE rowid = ?", [(row[4],) for row in chosen if row[4] is not None])
    connection.executemany(
        "INSERT INTO words (rowid, key, body) VALUES (?, ?, ?)",
        [
            (number, _tagged(tag, key), _tagged(tag, searchable_text(text)))
            for number, namespace, key, text, _ in chosen
            for tag in [namespace_tag(namespace)]
        ],
    )
    connection.executemany("UPDATE entries SET words_id = id WHERE id = ?", [(row[0],) for row in chosen])


def _tagged(tag: str, text: str) -> str:
    """The words of `text` as they are indexed: all that FTS5 has to do is to split them at the blanks."""
    return " ".join([tag + token for token in tokens(text)])


def _match(namespace: str, words: Sequence[str]) -> str:
    """An FTS5 expression for every word, each a phrase whose last part is a prefix; empty if no word has a part."""
    tag = namespace_tag(namespace)
    return " ".join(f'"{phrase}"*' for phrase in (_tagged(tag, word) for word in words) if phrase)


def _snippet(text: str, word: str) -> str:
    return snippet(searchable_text(text), word)
