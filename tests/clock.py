"""A clock that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """A `storage.clock.Clock`; both of its times advance together, and the wall clock can be set."""

    def __init__(self, now: int = 1_750_000_000_000) -> None:
        self._start = now
        self._elapsed = 0  # milliseconds

    def now(self) -> int:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed / 1000

    def advance(self, seconds: float) -> None:
        self._elapsed += round(seconds * 1000)

    def set_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self._start += round(seconds * 1000)
