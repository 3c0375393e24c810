"""What a memory backend does: atomic operations on entries. Policy stands above it; every time comes from the caller.

Times and durations are milliseconds. An entry has ended once it is deleted or `now >= expires_at`; no read finds it
then, but for its `grace` it can be restored, and its version goes on counting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ..errors import ConflictError


@dataclass(frozen=True, slots=True)
class Entry:
    """One remembered value."""

    namespace: str
    key: str
    text: str  # the value as JSON text; empty where a listing left it out
    size: int  # bytes of that text in UTF-8
    version: int
    created_at: int
    updated_at: int
    expires_at: int | None  # None: kept for ever

    @property
    def value(self) -> Any:
        """The JSON value, a fresh copy."""
        return json.loads(self.text)

    @property
    def ttl(self) -> int:
        """From the last update to the end; 0: for ever."""
        return 0 if self.expires_at is None else self.expires_at - self.updated_at


@dataclass(frozen=True, slots=True)
class Hit:
    """An entry (without its value) that a search found; a higher score is better."""

    entry: Entry
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class NamespaceStats:
    namespace: str
    count: int
    size: int  # bytes of all values
    next_expiry: int | None  # None: nothing in it expires


class MemoryStore(Protocol):
    """Raises StorageError where the backend fails; whether a change was kept is unknown only if its text says so."""

    backend: str

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
        """Write the next version; it expires after `ttl` (0: never) and stays restorable for `grace` after its end.

        Raises:
            ConflictError: `if_version` is given and is not the current version (0: there is none).
        """
        ...

    async def get(self, namespace: str, key: str, *, now: int) -> Entry | None: ...

    async def get_many(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        """Those of `keys` that are there, by key."""
        ...

    async def heads(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        """As `get_many`, without values."""
        ...

    async def page(
        self, namespace: str, *, now: int, limit: int, prefix: str = "", after: str | None = None
    ) -> list[Entry]:
        """The next entries after the key `after`, without values, by code points of the key."""
        ...

    async def search(self, namespace: str, words: Sequence[str], *, now: int, limit: int, offset: int = 0) -> list[Hit]:
        """Entries with every word, or a word that begins with it, in key or value; the best first."""
        ...

    async def touch(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        """Start the lifetime again, with another `ttl` if given; the answer is without the value."""
        ...

    async def delete(self, namespace: str, key: str, *, now: int, if_version: int | None = None) -> bool:
        """End an entry; False if there is none.

        Raises:
            ConflictError: as for `put`.
        """
        ...

    async def restore(self, namespace: str, key: str, *, now: int, ttl: int | None) -> Entry | None:
        """Write the value that ended last as a new version, with its own ttl again unless another is given.

        Of a live entry that is the value before the current one, and the two change places. None: nothing is kept.
        """
        ...

    async def namespaces(self, *, now: int, limit: int, after: str = "") -> list[NamespaceStats]:
        """The namespaces that hold entries, by name."""
        ...

    async def usage(self, namespace: str, *, now: int) -> NamespaceStats:
        """What one namespace holds."""
        ...

    async def load(self, entry: Entry, *, now: int, grace: int) -> bool:
        """Write an entry as another deck had it, unless there is one that was updated at the same time or later.

        Its version is kept, or counts on from a higher one here; its own ttl becomes what it had from its last update
        to its end. False if nothing was written.
        """
        ...

    async def note_time(self, now: int, *, trust: int) -> int:
        """Keep the latest time for later decks to compare their clock with; returns what was kept before (0: nothing).

        What is kept gives way to an earlier `now` only if it is more than `trust` ahead of it.
        """
        ...

    async def purge(self, *, now: int, limit: int) -> None:
        """Forget up to `limit` entries and as many earlier values whose grace is over."""
        ...

    async def close(self) -> None: ...


def version_conflict(namespace: str, key: str, current: int, expected: int) -> ConflictError:
    """What `put` and `delete` raise; `current` is 0 where there is no entry."""
    state = f"is at version {current}" if current else "does not exist (version 0)"
    return ConflictError(
        f"'{key}' in namespace '{namespace}' {state}, not at {expected}: retrieve it, merge, "
        f"and try again with ifVersion {current}",
        version=current,
    )


def prefix_end(prefix: str) -> str | None:
    """The first text after all that begin with `prefix`, by code points; None if there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)  # between them UTF-8 has nothing


def searchable_text(text: str) -> str:
    """The words of a JSON text: its strings, names and numbers, without quotes and escapes."""
    return "\n".join(_leaves(json.loads(text)))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            yield name
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _leaves(item)
    else:
        yield json.dumps(value)
