"""Answers kept for a while in two tiers: in this process, and in a Redis that several share.

Keys must name what they stand for so fully (its version included) that a value can never be wrong, only too old to be
asked for. Values are bytes: what a caller makes of them is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cachetools import TLRUCache

from .clock import Clock

TTL = 300.0  # seconds
MAX_BYTES = 64 << 20  # in this process, of all values together
ENTRY_BYTES = 200  # that an entry takes beside its value, about


class Key(NamedTuple):
    group: str  # by which sizes are told
    digest: bytes


class Kept(NamedTuple):
    value: bytes
    seconds: float  # it has left


class SharedCache(Protocol):
    """The second tier. It never raises: without it, everything is a miss."""

    async def get_many(self, digests: Sequence[bytes]) -> list[Kept | None]: ...

    async def put_many(self, values: Mapping[bytes, bytes], seconds: float) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Size:
    entries: int = 0
    bytes: int = 0


class TieredCache:
    """The least recently used goes when there is no room, everything after TTL seconds of the clock."""

    def __init__(self, clock: Clock, shared: SharedCache | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._local = TLRUCache[Key, Kept](max_bytes, _until, timer=clock.monotonic, getsizeof=_size)
        self._shared = shared

    @property
    def has_second_tier(self) -> bool:
        return self._shared is not None

    def get(self, key: Key) -> bytes | None:
        """From the first tier."""
        kept = self._local.get(key)
        return None if kept is None else kept.value

    async def get_shared(self, keys: Sequence[Key]) -> list[bytes | None]:
        """From the second tier, by way of which they come into the first."""
        if self._shared is None or not keys:
            return [None] * len(keys)
        found = await self._shared.get_many([key.digest for key in keys])
        for key, kept in zip(keys, found, strict=True):
            if kept is not None:
                self._keep(key, kept)
        return [kept and kept.value for kept in found]

    async def put(self, values: Mapping[Key, bytes]) -> None:
        """Into both."""
        for key, value in values.items():
            self._keep(key, Kept(value, TTL))
        if self._shared is not None and values:
            await self._shared.put_many({key.digest: value for key, value in values.items()}, TTL)

    def _keep(self, key: Key, kept: Kept) -> None:
        if _size(kept) <= self._local.maxsize:
            self._local[key] = kept

    def sizes(self) -> dict[str, Size]:
        """Of the first tier, by group."""
        self._local.expire()
        sizes: dict[str, Size] = {}
        for key, kept in self._local.items():
            size = sizes.setdefault(key.group, Size())
            size.entries += 1
            size.bytes += len(kept.value)
        return sizes


def _until(_key: Key, kept: Kept, now: float) -> float:
    return now + kept.seconds


def _size(kept: Kept) -> int:
    return len(kept.value) + ENTRY_BYTES
