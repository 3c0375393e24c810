"""Memory in Redis 7 or newer, or Valkey: one server, no Cluster.

Every change is one Lua script, so other decks see all of it or nothing. Reads go by the caller's time, to the
millisecond. What Redis acknowledges it keeps as its own settings say: `appendonly` and `noeviction`, or less.

Redis has no full text. A search reads the whole namespace in bounded batches and finds words by the same rules as the
other backends; the score grows with the places of the words and shrinks with the length of the value.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from heapq import nsmallest
from typing import Any, Self, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswerError

from ..errors import StorageError
from ..remote import CONNECT_TIMEOUT, TIMEOUT, UNCERTAIN, check_schema, malformed, one_line, without_password
from . import redis_scripts as scripts
from .base import Entry, Hit, NamespaceStats, searchable_text, version_conflict
from .words import snippet, tokens

CONNECTIONS = 8  # at most, of one process
SCHEMA = 1  # of what is kept under the prefix
SEARCH_ENTRIES = 500  # that are held and searched in one step
SEARCH_BYTES = 1 << 20  # of their values, about


class RedisMemoryStore:
    """A `MemoryStore`. Two stores can be open on one server, in whatever processes."""

    backend = "redis"

    def __init__(self, client: Redis, address: str) -> None:
        self._client = client
        self._address = address
        self._get = client.register_script(scripts.GET)
        self._heads = client.register_script(scripts.HEADS)
        self._put = client.register_script(scripts.PUT)
        self._load = client.register_script(scripts.LOAD)
        self._note_time = client.register_script(scripts.NOTE_TIME)
        self._touch = client.register_script(scripts.TOUCH)
        self._delete = client.register_script(scripts.DELETE)
        self._restore = client.register_script(scripts.RESTORE)
        self._page = client.register_script(scripts.PAGE)
        self._count = client.register_script(scripts.COUNT)
        self._purge = client.register_script(scripts.PURGE)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to `redis://…`, `rediss://…` (TLS) or `unix:///path/of.sock`.

        Raises:
            StorageError: the server cannot be reached or used, or a newer program has written there.
        """
        address = without_password(url)
        client = _client(url)
        try:
            with _connecting(address):
                await client.set(scripts.SCHEMA_KEY, SCHEMA, nx=True)
                found = int(await client.get(scripts.SCHEMA_KEY) or 0)
            check_schema(address, "memory", found, SCHEMA)
        except BaseException:
            await client.aclose()
            raise
        return cls(client, address)

    @staticmethod
    async def server_version(url: str) -> str:
        """Name and version of the server, without changing anything on it.

        Raises:
            StorageError: it cannot be reached.
        """
        client = _client(url)
        with _connecting(without_password(url)):
            try:
                about: dict[str, Any] = await client.info("server")  # pyright: ignore[reportUnknownMemberType]
            finally:
                await client.aclose()
        if "valkey_version" in about:
            return f"Valkey {about['valkey_version']}"
        return f"Redis {about['redis_version']}"

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
        with self._explained():
            version, detail = await self._put(args=[now, namespace, key, _or_empty(if_version), ttl, grace, size, text])
        if version < 0:
            raise version_conflict(namespace, key, current=detail, expected=if_version or 0)
        return Entry(namespace, key, text, size, version, detail, now, now + ttl if ttl else None)

    async def get(self, namespace: str, key: str, *, now: int) -> Entry | None:
        return (await self.get_many(namespace, [key], now=now)).get(key)

    async def get_many(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        return await self._many(self._get, namespace, keys, now)

    async def heads(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        return await self._many(self._heads, namespace, keys, now)

    async def _many(self, script: AsyncScript, namespace: str, keys: Sequence[str], now: int) -> dict[str, Entry]:
        with self._explained():
            rows = json.loads(await script(args=[now, namespace, *keys]))
        return {row[0]: _entry(namespace, *row) for row in rows}

    async def page(
        self, namespace: str, *, now: int, limit: int, prefix: str = "", after: str | None = None
    ) -> list[Entry]:
        high = b"[" + prefix.encode() + b"\xff" if prefix else "+"
        low: str | None = f"[{prefix}" if after is None or after < prefix else f"({after}"
        found: list[Entry] = []
        while low is not None and len(found) < limit:
            low, entries = await self._walk(namespace, now, low, high, limit - len(found), 0)
            found += entries
        return found

    async def search(self, namespace: str, words: Sequence[str], *, now: int, limit: int, offset: int = 0) -> list[Hit]:
        phrases = [" " + " ".join(parts) for word in words if (parts := tokens(word))]
        best: list[Hit] = []
        low: str | None = "-" if phrases else None
        while low is not None:
            low, entries = await self._walk(namespace, now, low, "+", SEARCH_ENTRIES, SEARCH_BYTES)
            best += await asyncio.to_thread(_hits, entries, phrases, words[0])
            best = nsmallest(limit + offset, best, key=lambda hit: (-hit.score, hit.entry.key))
        return best[offset:]

    async def touch(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        with self._explained():
            head = await self._touch(args=[now, namespace, key, _or_empty(ttl)])
        return None if head is None else _entry(namespace, key, "", *head)

    async def delete(self, namespace: str, key: str, *, now: int, if_version: int | None = None) -> bool:
        with self._explained():
            deleted, current = await self._delete(args=[now, namespace, key, _or_empty(if_version)])
        if deleted < 0:
            raise version_conflict(namespace, key, current, if_version or 0)
        return bool(deleted)

    async def restore(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        with self._explained():
            row = await self._restore(args=[now, namespace, key, _or_empty(ttl)])
        return None if row is None else _entry(namespace, key, *row)

    async def namespaces(self, *, now: int, limit: int, after: str = "") -> list[NamespaceStats]:
        found: list[NamespaceStats] = []
        while len(found) < limit:
            with self._explained():
                names = cast(
                    "list[str]",
                    await self._client.zrangebylex(scripts.NAMESPACES, f"({after}", "+", 0, limit - len(found)),
                )
            if not names:
                break
            counted = [await self.usage(name, now=now) for name in names]
            found += [stats for stats in counted if stats.count]
            after = names[-1]
        return found

    async def usage(self, namespace: str, *, now: int) -> NamespaceStats:
        count, size = 0, 0
        expiries: list[int] = []
        low: str | None = "-"
        while low is not None:
            with self._explained():
                low, more, bytes_more, expiry = await self._count(args=[now, namespace, low])
            count += more
            size += bytes_more
            if expiry is not None:
                expiries.append(expiry)
        return NamespaceStats(namespace, count, size, min(expiries, default=None))

    async def load(self, entry: Entry, *, now: int, grace: int) -> bool:
        with self._explained():
            written = await self._load(
                args=[
                    now, entry.namespace, entry.key, entry.version, entry.size, entry.created_at, entry.updated_at,
                    entry.ttl, _or_empty(entry.expires_at), grace, entry.text,
                ]
            )  # fmt: skip
        return bool(written)

    async def note_time(self, now: int, *, trust: int) -> int:
        with self._explained():
            return int(await self._note_time(keys=[scripts.CLOCK], args=[now, trust]))

    async def purge(self, *, now: int, limit: int) -> None:
        with self._explained():
            await self._purge(args=[now, limit])

    async def close(self) -> None:
        await self._client.aclose()

    async def _walk(
        self, namespace: str, now: int, low: str, high: str | bytes, limit: int, size: int
    ) -> tuple[str | None, list[Entry]]:
        """Where to go on (None: nowhere) and the next entries: at most `limit`, with about `size` bytes of values."""
        with self._explained():
            following, rows = json.loads(await self._page(args=[now, namespace, low, high, limit, size]))
        return following or None, [_entry(namespace, *row) for row in rows]

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (NoConnectionError, NoAnswerError, OSError) as exc:
            raise StorageError(f"lost {self._address}: {one_line(exc)}; {UNCERTAIN}") from exc
        except RedisError as exc:
            raise StorageError(f"{self._address}: {one_line(exc)}") from exc


def _client(url: str) -> Redis:
    """A client that tries each command once: a change must not be made twice.

    Raises:
        StorageError: the URL is malformed.
    """
    try:
        pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=CONNECT_TIMEOUT,
            decode_responses=True,
            protocol=2,
        )
    except ValueError:
        raise StorageError(malformed(without_password(url))) from None
    return Redis.from_pool(pool)


@contextmanager
def _connecting(address: str) -> Generator[None]:
    try:
        yield
    except (RedisError, OSError) as exc:
        raise StorageError(f"cannot connect to {address}: {one_line(exc)}") from exc


def _or_empty(number: int | None) -> int | str:
    return "" if number is None else number


def _entry(namespace: str, key: str, text: str, *head: str) -> Entry:
    size, version, created_at, updated_at, expires_at, _ = head
    return Entry(
        namespace,
        key,
        text,
        int(size),
        int(version),
        int(created_at),
        int(updated_at),
        int(expires_at) if expires_at else None,
    )


def _hits(entries: Iterable[Entry], phrases: Sequence[str], word: str) -> list[Hit]:
    """The entries that hold all phrases (words with a blank before each) or words that begin with them."""
    hits: list[Hit] = []
    for entry in entries:
        body = searchable_text(entry.text)
        words = f" {' '.join(tokens(entry.key))}\n {' '.join(tokens(body))}"
        counts = [words.count(phrase) for phrase in phrases]
        if all(counts):
            score = sum(count / (count + 1) for count in counts) / math.log(len(words) + math.e)
            hits.append(Hit(replace(entry, text=""), score, snippet(body, word)))
    return hits
