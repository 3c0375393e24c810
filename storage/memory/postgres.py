"""Memory in PostgreSQL (or what speaks its protocol and dialect), for decks on several machines.

A row is the whole history of a key that can still matter, as in the SQLite backend: its latest value, live or ended,
and the one before it. So a store is one statement, and so is every other change but `restore`.

Search is PostgreSQL's own full text with `ts_rank`, on words that are taken apart here, so that it does not depend on
the locale of the server. A lexeme begins with a tag of its namespace: the index is read for one namespace only.
PostgreSQL keeps 255 places of a word and the first 16,383 of a value: beyond them the parts of a word like `user:42`
may stand apart. Beyond a megabyte of lexemes (some 80,000 different words) the rest of a value's words are not found.
"""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Self

from ..postgres import Postgres, server_version
from .base import Entry, Hit, NamespaceStats, prefix_end, searchable_text, version_conflict
from .words import namespace_tag, snippet, tokens

if TYPE_CHECKING:
    from ..postgres import Connection

INLINE_CHARS = 16_384  # of a value; a larger one is taken apart in a thread
SEARCH_ROWS = 20  # values of hits held at once
MAX_LEXEME = 500  # characters; 2,046 bytes is PostgreSQL's limit
MAX_PLACES = 255  # of one word
MAX_PLACE = 16_383
MAX_VECTOR = 1_000_000  # bytes; 1,048,575 is PostgreSQL's limit
INCOMPLETE = "…"  # the lexeme of a value whose places are not all kept

MIGRATIONS = (
    """
    CREATE TABLE quarterdeck_memory (
        namespace text COLLATE "C" NOT NULL,   -- by code points
        key text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        size integer NOT NULL,                 -- bytes of value
        created_at bigint NOT NULL,            -- milliseconds of the callers' clocks, as all times
        updated_at bigint NOT NULL,
        ttl bigint NOT NULL,                   -- 0: for ever
        expires_at bigint,                     -- of a deleted entry: when that was
        deleted boolean NOT NULL DEFAULT false,
        grace bigint NOT NULL,                 -- how long it stays restorable after its end
        previous_ttl bigint,
        previous_until bigint,                 -- end of the grace of the value before
        value text NOT NULL,
        previous text,
        words tsvector NOT NULL,
        PRIMARY KEY (namespace, key)
    );
    CREATE INDEX quarterdeck_memory_words ON quarterdeck_memory USING gin (words);
    CREATE INDEX quarterdeck_memory_over ON quarterdeck_memory (least(expires_at + grace, previous_until));
    """,
    """
    CREATE TABLE quarterdeck_memory_clock (noted bigint NOT NULL);
    INSERT INTO quarterdeck_memory_clock VALUES (0);
    """,
)

# In every statement on one entry $1 is the namespace, $2 the key, $3 now, and $4 the ttl or the expected version.
_NOW = "$3::bigint"
_TTL = "$4::bigint"
_LIVE = f"(NOT e.deleted AND coalesce(e.expires_at > {_NOW}, true))"
_IS_KEY = "e.namespace = $1 AND e.key = $2"
_STATE = "e.version, e.created_at, e.updated_at, e.expires_at"
_HEAD = f"e.namespace, e.key, '', e.size, {_STATE}"  # the fields of Entry
_ENTRY = _HEAD.replace("''", "e.value")
_ENDED_UNTIL = f"(least(e.expires_at, {_NOW}) + e.grace)"  # end of the grace of a row's value, if it ends now
_KEEP_PREVIOUS = f"""
    previous_ttl = e.ttl,
    previous_until = CASE WHEN {_ENDED_UNTIL} > {_NOW} THEN {_ENDED_UNTIL} END,
    previous = CASE WHEN {_ENDED_UNTIL} > {_NOW} THEN e.value END
""".strip()

_OVERWRITE = f"""
    version = e.version + 1,
    size = $6,
    created_at = CASE WHEN {_LIVE} THEN e.created_at ELSE {_NOW} END,
    updated_at = {_NOW},
    ttl = {_TTL},
    expires_at = {_NOW} + nullif({_TTL}, 0),
    deleted = false,
    grace = $5,
    {_KEEP_PREVIOUS},
    value = $7,
    words = $8::text::tsvector
"""
_PUT = f"""
    INSERT INTO quarterdeck_memory AS e
        (namespace, key, version, size, created_at, updated_at, ttl, expires_at, grace, value, words)
    VALUES ($1, $2, 1, $6, {_NOW}, {_NOW}, {_TTL}, {_NOW} + nullif({_TTL}, 0), $5, $7, $8::text::tsvector)
    ON CONFLICT (namespace, key) DO UPDATE SET {_OVERWRITE}
    WHERE $9::bigint IS NULL OR NOT {_LIVE}
    RETURNING {_STATE}
"""
_REPLACE = f"""
    UPDATE quarterdeck_memory AS e SET {_OVERWRITE} WHERE {_IS_KEY} AND {_LIVE} AND e.version = $9::bigint
    RETURNING {_STATE}
"""
_VERSION = f"SELECT e.version FROM quarterdeck_memory AS e WHERE {_IS_KEY} AND {_LIVE}"
_GET = f"SELECT {_ENTRY} FROM quarterdeck_memory AS e WHERE {_IS_KEY} AND {_LIVE}"
_AMONG = f"FROM quarterdeck_memory AS e WHERE e.namespace = $1 AND e.key = ANY($2::text[]) AND {_LIVE}"
_GET_MANY, _HEADS = f"SELECT {_ENTRY} {_AMONG}", f"SELECT {_HEAD} {_AMONG}"
_PAGE = f"""
    SELECT {_HEAD} FROM quarterdeck_memory AS e
    WHERE e.namespace = $1 AND e.key >= $2 AND ($4::text IS NULL OR e.key > $4) AND {_LIVE} {{}}
    ORDER BY e.key LIMIT $5
"""
_PAGE_TO_END, _PAGE_BELOW = _PAGE.format(""), _PAGE.format("AND e.key < $6")
_SEARCH = f"""
    SELECT {_ENTRY}, ts_rank(e.words, $2::text::tsquery, 1) AS score FROM quarterdeck_memory AS e
    WHERE e.namespace = $1 AND e.words @@ $2::text::tsquery AND {_LIVE}
    ORDER BY score DESC, e.key LIMIT $4 OFFSET $5
"""
_LOAD = f"""
    INSERT INTO quarterdeck_memory AS e
        (namespace, key, version, size, created_at, updated_at, ttl, expires_at, grace, value, words)
    VALUES ($1, $2, $9, $6, $10, $11, {_TTL}, $12, $5, $7, $8::text::tsvector)
    ON CONFLICT (namespace, key) DO UPDATE SET
        version = greatest(e.version + 1, $9),
        size = $6,
        created_at = $10,
        updated_at = $11,
        ttl = {_TTL},
        expires_at = $12,
        deleted = false,
        grace = $5,
        {_KEEP_PREVIOUS},
        value = $7,
        words = $8::text::tsvector
    WHERE NOT {_LIVE} OR e.updated_at < $11
    RETURNING true
"""
_RENEW = f"ttl = coalesce({_TTL}, e.ttl), expires_at = {_NOW} + nullif(coalesce({_TTL}, e.ttl), 0)"
_TOUCH = f"UPDATE quarterdeck_memory AS e SET {_RENEW} WHERE {_IS_KEY} AND {_LIVE} RETURNING {_HEAD}"
_DELETE = f"""
    UPDATE quarterdeck_memory AS e SET expires_at = {_NOW}, deleted = true
    WHERE {_IS_KEY} AND {_LIVE} AND ($4::bigint IS NULL OR e.version = $4)
    RETURNING true
"""
_REVIVE = f"""
    UPDATE quarterdeck_memory AS e SET version = e.version + 1, updated_at = {_NOW}, deleted = false, {_RENEW}
    WHERE {_IS_KEY} AND NOT {_LIVE} AND e.expires_at + e.grace > {_NOW}
    RETURNING {_ENTRY}
"""
_SWAP = f"""
    UPDATE quarterdeck_memory AS e SET
        version = e.version + 1,
        size = octet_length(e.previous),
        updated_at = {_NOW},
        ttl = coalesce({_TTL}, e.previous_ttl),
        expires_at = {_NOW} + nullif(coalesce({_TTL}, e.previous_ttl), 0),
        previous_ttl = e.ttl,
        previous_until = {_NOW} + e.grace,
        value = e.previous,
        previous = e.value
    WHERE {_IS_KEY} AND {_LIVE} AND e.previous_until > {_NOW}
    RETURNING {_ENTRY}
"""
_SET_WORDS = "UPDATE quarterdeck_memory AS e SET words = $3::text::tsvector WHERE e.namespace = $1 AND e.key = $2"
_NAMESPACES = f"""
    SELECT e.namespace, count(*), sum(e.size), min(e.expires_at) FROM quarterdeck_memory AS e
    WHERE e.namespace > $1 AND {_LIVE.replace(_NOW, "$2::bigint")}
    GROUP BY e.namespace ORDER BY e.namespace LIMIT $3
"""
_USAGE = f"""
    SELECT count(*), coalesce(sum(e.size), 0), min(e.expires_at) FROM quarterdeck_memory AS e
    WHERE e.namespace = $1 AND {_LIVE.replace(_NOW, "$2::bigint")}
"""
_OVER = """
    SELECT namespace, key FROM quarterdeck_memory
    WHERE least(expires_at + grace, previous_until) <= $1 AND {} <= $1
    ORDER BY least(expires_at + grace, previous_until) LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_PURGE_ENTRIES = f"""
    DELETE FROM quarterdeck_memory AS e USING ({_OVER.format("expires_at + grace")}) AS over
    WHERE e.namespace = over.namespace AND e.key = over.key
"""
_PURGE_PREVIOUS = f"""
    UPDATE quarterdeck_memory AS e SET previous = NULL, previous_ttl = NULL, previous_until = NULL
    FROM ({_OVER.format("previous_until")}) AS over WHERE e.namespace = over.namespace AND e.key = over.key
"""


class PostgresMemoryStore:
    """A `MemoryStore`. Two stores can be open on one database, in whatever processes."""

    backend = "postgres"
    server_version = staticmethod(server_version)

    def __init__(self, database: Postgres) -> None:
        self._db = database

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to `postgresql://…` and make or migrate the tables.

        Raises:
            StorageError: as `Postgres.open`.
        """
        return cls(await Postgres.open(url, "memory", MIGRATIONS))

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
        words = await _words_of(namespace, key, text)
        async with self._db.connection() as connection:
            while True:
                row = await connection.fetchrow(
                    _REPLACE if if_version else _PUT, namespace, key, now, ttl, grace, size, text, words, if_version
                )
                if row is not None:
                    return Entry(namespace, key, text, size, *row)
                await _check_version(connection, namespace, key, now, if_version or 0)

    async def get(self, namespace: str, key: str, *, now: int) -> Entry | None:
        async with self._db.connection() as connection:
            row = await connection.fetchrow(_GET, namespace, key, now)
        return None if row is None else Entry(*row)

    async def get_many(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        return await self._many(_GET_MANY, namespace, keys, now)

    async def heads(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        return await self._many(_HEADS, namespace, keys, now)

    async def _many(self, statement: str, namespace: str, keys: Sequence[str], now: int) -> dict[str, Entry]:
        async with self._db.connection() as connection:
            rows = await connection.fetch(statement, namespace, keys, now)
        return {entry.key: entry for entry in (Entry(*row) for row in rows)}

    async def page(
        self, namespace: str, *, now: int, limit: int, prefix: str = "", after: str | None = None
    ) -> list[Entry]:
        end = prefix_end(prefix)
        statement, below = (_PAGE_TO_END, ()) if end is None else (_PAGE_BELOW, (end,))
        async with self._db.connection() as connection:
            rows = await connection.fetch(statement, namespace, max(prefix, after or ""), now, after, limit, *below)
        return [Entry(*row) for row in rows]

    async def search(self, namespace: str, words: Sequence[str], *, now: int, limit: int, offset: int = 0) -> list[Hit]:
        query = _query(namespace, words)
        if not query:
            return []
        hits: list[Hit] = []
        async with self._db.connection() as connection, connection.transaction(readonly=True):
            async for row in connection.cursor(_SEARCH, namespace, query, now, limit, offset, prefetch=SEARCH_ROWS):
                *fields, score = row
                entry = Entry(*fields)
                shown = snippet(searchable_text(entry.text), words[0])
                hits.append(Hit(replace(entry, text=""), score, shown))
        return hits

    async def touch(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        async with self._db.connection() as connection:
            row = await connection.fetchrow(_TOUCH, namespace, key, now, ttl)
        return None if row is None else Entry(*row)

    async def delete(self, namespace: str, key: str, *, now: int, if_version: int | None = None) -> bool:
        async with self._db.connection() as connection:
            while not await connection.fetchval(_DELETE, namespace, key, now, if_version):
                if if_version is not None:
                    await _check_version(connection, namespace, key, now, if_version)
                if not if_version:
                    return False
        return True

    async def restore(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        async with self._db.connection() as connection, connection.transaction():
            row = await connection.fetchrow(_SWAP, namespace, key, now, ttl)
            if row is not None:
                entry = Entry(*row)
                await connection.execute(_SET_WORDS, namespace, key, await _words_of(namespace, key, entry.text))
                return entry
            row = await connection.fetchrow(_REVIVE, namespace, key, now, ttl)
        return None if row is None else Entry(*row)

    async def namespaces(self, *, now: int, limit: int, after: str = "") -> list[NamespaceStats]:
        async with self._db.connection() as connection:
            rows = await connection.fetch(_NAMESPACES, after, now, limit)
        return [NamespaceStats(*row) for row in rows]

    async def usage(self, namespace: str, *, now: int) -> NamespaceStats:
        async with self._db.connection() as connection:
            row = await connection.fetchrow(_USAGE, namespace, now)
        assert row is not None  # noqa: S101  an aggregate has one
        return NamespaceStats(namespace, *row)

    async def load(self, entry: Entry, *, now: int, grace: int) -> bool:
        words = await _words_of(entry.namespace, entry.key, entry.text)
        async with self._db.connection() as connection:
            written = await connection.fetchval(
                _LOAD, entry.namespace, entry.key, now, entry.ttl, grace, entry.size, entry.text, words,
                entry.version, entry.created_at, entry.updated_at, entry.expires_at,
            )  # fmt: skip
        return bool(written)

    async def note_time(self, now: int, *, trust: int) -> int:
        async with self._db.connection() as connection, connection.transaction():
            noted: int = await connection.fetchval("SELECT noted FROM quarterdeck_memory_clock FOR UPDATE")
            if not now <= noted <= now + trust:
                await connection.execute("UPDATE quarterdeck_memory_clock SET noted = $1", now)
        return noted

    async def purge(self, *, now: int, limit: int) -> None:
        async with self._db.connection() as connection:
            await connection.execute(_PURGE_ENTRIES, now, limit)
            await connection.execute(_PURGE_PREVIOUS, now, limit)

    async def close(self) -> None:
        await self._db.close()


async def _check_version(connection: Connection, namespace: str, key: str, now: int, expected: int) -> None:
    current = await connection.fetchval(_VERSION, namespace, key, now) or 0
    if current != expected:
        raise version_conflict(namespace, key, current, expected)


async def _words_of(namespace: str, key: str, text: str) -> str:
    if len(text) > INLINE_CHARS:
        return await asyncio.to_thread(_vector, namespace, key, text)
    return _vector(namespace, key, text)


def _vector(namespace: str, key: str, text: str) -> str:
    """The words of an entry with their places, as the text of a tsvector."""
    tag = namespace_tag(namespace)
    places: dict[str, list[int]] = {}
    complete = True
    for place, token in enumerate([*tokens(key), "", *tokens(searchable_text(text))], 1):  # no phrase leaves the key
        kept = places.setdefault(token[:MAX_LEXEME], [])
        if place <= MAX_PLACE and len(kept) < MAX_PLACES:
            kept.append(place)
        else:
            complete = False
    del places[""]
    sizes = [len(tag) + len(token.encode()) for token in places]
    if sum(sizes) + sum(2 * len(kept) + 4 for kept in places.values()) > MAX_VECTOR:
        complete = False
        fitting = bisect(list(accumulate(sizes)), MAX_VECTOR)
        places = {token: [] for token in islice(places, fitting)}
    if not complete:
        places[INCOMPLETE] = []
    return " ".join(f"'{tag}{token}'{':' if kept else ''}{','.join(map(str, kept))}" for token, kept in places.items())


def _query(namespace: str, words: Sequence[str]) -> str:
    """The text of a tsquery for every word; empty if none has a letter or digit."""
    tag = namespace_tag(namespace)
    terms: list[str] = []
    for word in words:
        lexemes = [f"'{tag}{token[:MAX_LEXEME]}'" for token in tokens(word)]
        if lexemes:
            lexemes[-1] += ":*"
            term = " <-> ".join(lexemes)
            if len(lexemes) > 1:
                loose = " & ".join([f"'{tag}{INCOMPLETE}'", *lexemes])
                term = f"({term} | {loose})"
            terms.append(term)
    return " & ".join(terms)
