"""What a value and a namespace may take, by the user's settings.

With a limit on namespaces, this server writes one entry after the other, so that it never passes the limit itself. Far
from the limit a count is used for a second; in the last tenth every write that adds something is counted anew. So
several servers can pass a limit together only by what they write in the same second, or in the same moment near it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import LimitError
from quarterdeck.storage.memory.base import MemoryStore

from .checks import MAX_VALUE_BYTES

COUNT_LIFETIME = 1.0  # seconds
NEAR = 0.9  # of a limit
MAX_COUNTS = 1000  # namespaces whose counts are held


@dataclass(frozen=True, slots=True)
class Limits:
    """0: no limit."""

    value_bytes: int = MAX_VALUE_BYTES
    namespace_entries: int = 0
    namespace_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Count:
    at: float
    entries: int
    size: int


class LimitGuard:
    """Refuses writes beyond the limits before they are made."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._writing = asyncio.Lock()
        self._counts: dict[str, _Count] = {}

    def check_value(self, size: int) -> None:
        """Raises LimitError if a value of `size` bytes is too large."""
        if size > self._limits.value_bytes:
            raise LimitError(
                f"value: {size} bytes of JSON, at most {self._limits.value_bytes} "
                "(QUARTERDECK_MEMORY_MAX_VALUE_BYTES): split it over several keys"
            )

    @asynccontextmanager
    async def admitted(
        self, store: MemoryStore, namespace: str, key: str, size: int, *, now: int
    ) -> AsyncGenerator[None]:
        """Write one entry of `size` bytes inside.

        Raises:
            LimitError: the namespace would hold too much.
        """
        if not (self._limits.namespace_entries or self._limits.namespace_bytes):
            yield
            return
        async with self._writing:
            if not self._is_far_from_limits(namespace, size):
                await self._check(store, namespace, key, size, now)
            yield

    def _is_far_from_limits(self, namespace: str, size: int) -> bool:
        """Whether one more entry surely fits; counts it if so."""
        count = self._counts.get(namespace)
        if count is None or self._clock.monotonic() - count.at > COUNT_LIFETIME:
            return False
        after = replace(count, entries=count.entries + 1, size=count.size + size)
        limits = self._limits
        for limit, wanted in ((limits.namespace_entries, after.entries), (limits.namespace_bytes, after.size)):
            if limit and wanted > NEAR * limit:
                return False
        self._counts[namespace] = after
        return True

    async def _check(self, store: MemoryStore, namespace: str, key: str, size: int, now: int) -> None:
        usage = await store.usage(namespace, now=now)
        present = await store.get(namespace, key, now=now)
        more_entries, more_bytes = (1, size) if present is None else (0, size - present.size)
        for what, setting, limit, held, more in (
            ("entries", "ENTRIES", self._limits.namespace_entries, usage.count, more_entries),
            ("bytes", "BYTES", self._limits.namespace_bytes, usage.size, more_bytes),
        ):
            if limit and more > 0 and held + more > limit:
                raise LimitError(
                    f"namespace '{namespace}' holds {held} {what}, {more} more would pass its limit of {limit} "
                    f"(QUARTERDECK_MEMORY_MAX_NAMESPACE_{setting}): delete something, or use another namespace"
                )
        if len(self._counts) >= MAX_COUNTS:
            self._counts.clear()
        self._counts[namespace] = _Count(self._clock.monotonic(), usage.count + more_entries, usage.size + more_bytes)
