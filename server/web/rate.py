"""How many requests a caller may make: a bucket each, which fills at a steady rate."""

from __future__ import annotations

from cachetools import LRUCache

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import LimitError

CALLERS = 10_000  # that are remembered; who was not seen for so long has a full bucket
BURST_SECONDS = 5  # of the rate, at once


class RateLimit:
    def __init__(self, per_second: float, clock: Clock) -> None:
        """`per_second` 0 limits nobody."""
        self._rate = per_second
        self._clock = clock
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(CALLERS)  # what was left, and when

    def take(self, caller: str) -> None:
        """Count a request. Raises LimitError if it is one too many."""
        if not self._rate:
            return
        now, full = self._clock.monotonic(), self._rate * BURST_SECONDS
        left, then = self._buckets.get(caller, (full, now))
        left = min(full, left + (now - then) * self._rate)
        if left < 1:
            raise LimitError(f"more than {self._rate:g} requests a second: wait, then try again", status=429)
        self._buckets[caller] = left - 1, now
