"""Values kept for a while in two tiers before what makes them: in this process, and in a Redis that several share.

Digests must name what a value stands for so fully (its version included) that it can never be wrong, only too old to be
asked for. Values are bytes: what a caller makes of them is its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from cachetools import TLRUCache

from .clock import Clock
from .tiers import TierMeter

TTL = 300.0  # seconds
MAX_BYTES = 64 << 20  # in this process, of all values together
ENTRY_BYTES = 200  # that an entry takes beside its value, about


class Kept(NamedTuple):
    value: bytes
    seconds: float  # it has left


class Made(NamedTuple):
    values: Sequence[bytes]
    keep: bool  # False: they may be those of another version than the digests name


class SharedCache(Protocol):
    """The second tier. It never raises: without it, everything is a miss."""

    async def get_many(self, digests: Sequence[bytes]) -> list[Kept | None]: ...

    async def put_many(self, values: Mapping[bytes, bytes], seconds: float) -> None: ...


class _Key(NamedTuple):
    group: str
    digest: bytes


class TieredCache:
    """The least recently used goes when there is no room, everything after TTL seconds of the clock.

    `group` is what figures are told by.
    """

    def __init__(self, clock: Clock, shared: SharedCache | None = None, max_bytes: int = MAX_BYTES) -> None:
        self._clock = clock
        self._local = TLRUCache[_Key, Kept](max_bytes, _until, timer=clock.monotonic, getsizeof=_size)
        self._shared = shared
        self._meter = TierMeter()

    async def through(
        self, group: str, digests: Sequence[bytes], make: Callable[[Sequence[int]], Awaitable[Made]]
    ) -> list[bytes]:
        """The values of `digests`; `make` is asked once for those, by their places, that no tier has."""
        began = self._clock.monotonic()
        values: dict[int, bytes] = {}
        for place, digest in enumerate(digests):
            kept = self._local.get(_Key(group, digest))
            if kept is not None:
                values[place] = kept.value
        self._meter.record(group, "l1", len(values), self._clock.monotonic() - began)

        missing = [place for place in range(len(digests)) if place not in values]
        if missing and self._shared is not None:
            found = await self._shared.get_many([digests[place] for place in missing])
            shared = {place: kept for place, kept in zip(missing, found, strict=True) if kept is not None}
            for place, kept in shared.items():
                self._keep(_Key(group, digests[place]), kept)
                values[place] = kept.value
            self._meter.record(group, "l2", len(shared), self._clock.monotonic() - began)
            missing = [place for place in missing if place not in shared]

        if missing:
            made = await make(missing)
            values |= zip(missing, made.values, strict=True)
            self._meter.record(group, "l3", len(missing), self._clock.monotonic() - began)
            if made.keep:
                await self._put(group, {digests[place]: values[place] for place in missing})
        return [values[place] for place in range(len(digests))]

    async def _put(self, group: str, values: Mapping[bytes, bytes]) -> None:
        for digest, value in values.items():
            self._keep(_Key(group, digest), Kept(value, TTL))
        if self._shared is not None:
            await self._shared.put_many(values, TTL)

    def _keep(self, key: _Key, kept: Kept) -> None:
        if _size(kept) <= self._local.maxsize:
            self._local[key] = kept

    def busiest(self, limit: int) -> list[str]:
        """The groups with the most lookups."""
        return self._meter.busiest(limit)

    def report(self, group: str | None = None) -> dict[str, Any]:
        """Entries and bytes in this process; hit rates and times since the start. None: of all groups."""
        self._local.expire()
        sizes = [len(kept.value) for key, kept in self._local.items() if group in (None, key.group)]
        return {"cache_size": len(sizes), "cache_bytes": sum(sizes), "cache_ttl": TTL, **self._meter.report(group)}


def _until(_key: _Key, kept: Kept, now: float) -> float:
    return now + kept.seconds


def _size(kept: Kept) -> int:
    return len(kept.value) + ENTRY_BYTES
