"""Memory as every caller meets it: names and values are checked, lifetimes have a default, answers are bounded."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from quarterdeck.storage.clock import Clock, SteadyClock
from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError, StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import Entry, Hit, MemoryStore, NamespaceStats
from quarterdeck.tools.arguments import read_cursor
from quarterdeck.tools.changes import nobody, tells

from .checks import (
    MAX_KEY,
    MAX_NAMESPACE,
    check_loaded,
    check_names,
    check_text,
    check_version,
    json_text,
    milliseconds,
    words_of,
)
from .limits import LimitGuard, Limits

log = logging.getLogger(__name__)

MAX_TOKENS = 1_000_000  # of one answer
BYTES_PER_TOKEN = 4
ANSWER_BYTES = 700  # the most that an answer has beside its entries and names
ENTRY_BYTES = 350  # the most that an entry has beside its names, value and snippet
PURGE_EVERY = 100  # writes
PURGE_LIMIT = 400  # entries looked at each time: four a write, so the dead stay a small part
NOTE_EVERY = 1_000  # milliseconds
RETRY_TIME = 5_000  # milliseconds
TIME_PATIENCE = 0.5  # seconds
CLOCK_TRUST = 3_600_000  # milliseconds that the clock may have been set back since the last deck noted the time


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing; `next_cursor` continues it."""

    entries: Sequence[Entry]
    next_cursor: str | None
    notice: str | None  # what the token limit left out, and how to get it


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Part of a ranking, the best first. Writes in between can move a hit to another page."""

    hits: Sequence[Hit]
    next_cursor: str | None
    notice: str | None


@dataclass(frozen=True, slots=True)
class NamespacePage:
    namespaces: Sequence[NamespaceStats]
    next_cursor: str | None


class MemoryService:
    """Every method raises InvalidArgumentError for bad names and StorageError where the store fails.

    What has expired does not come back when the clock is set back: time goes on from the latest that this server has
    seen, and from the latest that any has noted if that is at most CLOCK_TRUST ahead of the clock.
    """

    def __init__(
        self,
        store: OnFirstUse[MemoryStore],
        clock: Clock,
        default_ttl: int,
        restore_window: int,
        limits: Limits | None = None,
    ) -> None:
        """`default_ttl` and `restore_window` in seconds; a ttl of 0 keeps for ever, a window of 0 keeps nothing."""
        self.clock = SteadyClock(clock)
        self._wall_clock = clock
        self.on_change: Callable[[], None] = nobody
        self._open_store = store
        self._learn_time_at = 0  # by the clock: when to compare it with what other decks have noted
        self._guard = LimitGuard(limits or Limits(), clock)
        self._default_ttl = milliseconds(default_ttl)
        self._window = restore_window
        self._writes = 0

    @tells
    async def store(
        self,
        namespace: str,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        if_version: int | None = None,
        own_record: bool = False,
    ) -> Entry:
        """Remember a JSON value for `ttl` seconds (None: the default, 0: for ever).

        The deck's own records skip the trash and the limits of namespaces.

        Raises:
            ConflictError: `if_version` is not the current version (0: there is no entry).
            LimitError: the value is too large or too deep, or the namespace would hold too much.
        """
        check_names(namespace, key)
        check_version(if_version)
        text, size = json_text(value)
        lifetime = self._default_ttl if ttl is None else milliseconds(ttl)
        self._guard.check_value(size)
        store, now = await self._begin_write()
        if own_record:
            return await store.put(
                namespace, key, text, size=size, now=now, ttl=lifetime, grace=0, if_version=if_version
            )
        async with self._guard.admitted(store, namespace, key, size, now=now):
            return await store.put(
                namespace, key, text, size=size, now=now, ttl=lifetime, grace=self._window * 1000, if_version=if_version
            )

    @tells
    async def load(self, entry: Entry) -> bool:
        """Take over an entry of another deck with its version and times; False if ours is as new, or it has expired.

        Raises:
            InvalidArgumentError: its version or times are none that a deck writes.
            LimitError: as `store`.
        """
        check_names(entry.namespace, entry.key)
        self._guard.check_value(entry.size)
        store, now = await self._begin_write()
        check_loaded(entry, now)
        if entry.expires_at is not None and entry.expires_at <= now:
            return False
        async with self._guard.admitted(store, entry.namespace, entry.key, entry.size, now=now):
            return await store.load(entry, now=now, grace=self._window * 1000)

    async def retrieve(self, namespace: str, key: str) -> Entry | None:
        check_names(namespace, key)
        store, now = await self.begin()
        return await store.get(namespace, key, now=now)

    @tells
    async def delete(self, namespace: str, key: str, *, if_version: int | None = None) -> bool:
        """Forget an entry; False if there is none.

        Raises:
            ConflictError: `if_version` is not the current version.
        """
        check_names(namespace, key)
        check_version(if_version)
        store, now = await self.begin()
        return await store.delete(namespace, key, now=now, if_version=if_version)

    @tells
    async def touch(self, namespace: str, key: str, *, ttl: float | None = None) -> Entry:
        """Start the entry's lifetime again: `ttl` seconds, or its own if None. The answer is without the value.

        Raises:
            NotFoundError: there is no such entry.
        """
        check_names(namespace, key)
        lifetime = None if ttl is None else milliseconds(ttl)
        store, now = await self.begin()
        entry = await store.touch(namespace, key, now=now, ttl=lifetime)
        if entry is None:
            raise NotFoundError(f"no '{key}' in namespace '{namespace}' to touch: list shows the keys, store makes one")
        return entry

    @tells
    async def restore(self, namespace: str, key: str, *, ttl: float | None = None) -> Entry:
        """Bring back what was deleted, expired or overwritten last: a new version, with its own ttl if `ttl` is None.

        Restoring a live entry swaps it with its earlier value, so a second restore undoes the first.

        Raises:
            NotFoundError: nothing (more) is kept.
            LimitError: the namespace is full.
        """
        check_names(namespace, key)
        lifetime = None if ttl is None else milliseconds(ttl)
        entry = None
        if self._window:
            store, now = await self.begin()
            # The size of what comes back is not known: a namespace that is full takes nothing.
            async with self._guard.admitted(store, namespace, key, 1, now=now):
                entry = await store.restore(namespace, key, now=now, ttl=lifetime)
        if entry is None:
            raise NotFoundError(
                f"nothing to restore for '{key}' in namespace '{namespace}': what was deleted, replaced or expired "
                f"is kept for {self._window} s, and only where the writer asked for it"
            )
        return entry

    async def list(
        self,
        namespace: str,
        *,
        prefix: str = "",
        include_values: bool = True,
        limit: int = 50,
        cursor: str | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> Page:
        """The entries whose key begins with `prefix`, by key. Entries that change in between do not move the others.

        At least one entry comes, so that paging advances, but without its value (`text` is empty) if that alone is
        beyond `max_tokens` (4 bytes each, of the whole answer).
        """
        check_text("namespace", namespace, MAX_NAMESPACE)
        if prefix:
            check_text("prefix", prefix, MAX_KEY)
        after = None if cursor is None else _text_of(cursor)
        store, now = await self.begin()
        heads = await store.page(namespace, now=now, limit=limit + 1, prefix=prefix, after=after)
        chosen = heads[:limit]
        budget = max_tokens * BYTES_PER_TOKEN - ANSWER_BYTES
        costs = [_cost(head, include_values) for head in chosen]
        fitting = _fitting(costs, budget)
        taken = max(fitting, 1)
        entries: Sequence[Entry] = chosen[:taken]
        if include_values and fitting:
            entries = await _with_values(store, entries, now)
        return Page(
            entries,
            next_cursor=_cursor_of(chosen[taken - 1].key) if taken < len(heads) else None,
            notice=_notice(chosen, costs, fitting),
        )

    async def search(
        self,
        namespace: str,
        query: str,
        *,
        include_values: bool = True,
        limit: int = 50,
        cursor: str | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> SearchPage:
        """The entries that hold every word of `query`, or a word beginning with it, in key or value; best first."""
        check_text("namespace", namespace, MAX_NAMESPACE)
        words = words_of(query)
        offset = read_cursor(cursor) or 0
        store, now = await self.begin()
        found = await store.search(namespace, words, now=now, limit=limit + 1, offset=offset)
        chosen = found[:limit]
        budget = max_tokens * BYTES_PER_TOKEN - ANSWER_BYTES - json_text(query)[1]
        costs = [_cost(hit.entry, include_values) + json_text(hit.snippet)[1] for hit in chosen]
        fitting = _fitting(costs, budget)
        taken = max(fitting, 1)
        hits: Sequence[Hit] = chosen[:taken]
        if include_values and fitting:
            entries = {entry.key: entry for entry in await _with_values(store, [hit.entry for hit in hits], now)}
            hits = [replace(hit, entry=entries[hit.entry.key]) for hit in hits if hit.entry.key in entries]
        return SearchPage(
            hits,
            next_cursor=str(offset + taken) if taken < len(found) else None,
            notice=_notice([hit.entry for hit in chosen], costs, fitting),
        )

    async def namespaces(self, *, limit: int = 50, cursor: str | None = None) -> NamespacePage:
        """The namespaces that hold entries, by name."""
        after = "" if cursor is None else _text_of(cursor)
        store, now = await self.begin()
        found = await store.namespaces(now=now, limit=limit + 1, after=after)
        chosen = found[:limit]
        return NamespacePage(chosen, _cursor_of(chosen[-1].namespace) if len(found) > limit else None)

    async def begin(self) -> tuple[MemoryStore, int]:
        """The store, opened, and the time of one call. Raises StorageError."""
        store = await self._open_store()
        if self.clock.now() >= self._learn_time_at:
            await self._learn_time(store)
        return store, self.clock.now()

    async def close(self) -> None:
        """Note the time for the next deck."""
        if self._open_store.opened is not None:
            await self._learn_time(self._open_store.opened)

    async def _begin_write(self) -> tuple[MemoryStore, int]:
        """As `begin`; every now and then, writes clear away what is over."""
        store, now = await self.begin()
        self._writes += 1
        if self._writes % PURGE_EVERY == 1:
            try:
                # Not by a time ahead of the wall clock, which may have been wrong once: what is forgotten is gone.
                await store.purge(now=min(now, self._wall_clock.now()), limit=PURGE_LIMIT)
            except StorageError as exc:  # the write itself may do all the same
                log.warning("what is over was not cleared away: %s", exc.message)
        return store, now

    async def _learn_time(self, store: MemoryStore) -> None:
        """Compare the clock with what other decks have noted, and note it."""
        now = self.clock.now()
        self._learn_time_at = now + RETRY_TIME
        try:
            async with asyncio.timeout(TIME_PATIENCE):  # reads go on beside a lock that somebody holds
                latest = await store.note_time(now, trust=CLOCK_TRUST)
        except (StorageError, TimeoutError) as exc:  # a full disk, say: what can be read is read
            log.warning("the time was not noted: %s", exc)
            return
        if now < latest <= now + CLOCK_TRUST:
            self.clock.go_on_from(latest)
        elif latest > now:
            ahead = (latest - now) // 1000
            log.warning("memory was last used %d s in the future: what has expired since then is there again", ahead)
        self._learn_time_at = self.clock.now() + NOTE_EVERY


async def _with_values(store: MemoryStore, heads: Sequence[Entry], now: int) -> Sequence[Entry]:
    """The same with their values; what has gone meanwhile is left out."""
    filled = await store.get_many(heads[0].namespace, [head.key for head in heads], now=now)
    return [filled[head.key] for head in heads if head.key in filled]


def _cost(entry: Entry, with_value: bool) -> int:
    """The most bytes that the entry takes in an answer: names can be escaped, and the last key is the cursor too."""
    names = len(entry.namespace.encode()) + len(entry.key.encode())
    return ENTRY_BYTES + 4 * names + (entry.size if with_value else 0)


def _fitting(costs: Sequence[int], budget: int) -> int:
    """How many of the first fit into so many bytes."""
    return sum(total <= budget for total in accumulate(costs))


def _notice(chosen: Sequence[Entry], costs: Sequence[int], fitting: int) -> str | None:
    """What the token limit left out, and how to get it."""
    if fitting == len(chosen):
        return None
    if fitting == 0:
        tokens = math.ceil((costs[0] + ANSWER_BYTES) / BYTES_PER_TOKEN)
        return f"'{chosen[0].key}' alone needs about {tokens} tokens: raise maxTokens, or retrieve it by its key"
    return f"{fitting} of {len(chosen)} fit maxTokens: pass nextCursor as cursor for the rest"


def _cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _text_of(cursor: str) -> str:
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
        if text:
            check_text("cursor", text, MAX_KEY)
    except (binascii.Error, UnicodeError, InvalidArgumentError):
        raise InvalidArgumentError("cursor: pass the nextCursor of the page before, unchanged, or none") from None
    return text
