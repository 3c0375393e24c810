"""Time, injected wherever it decides something."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Wall clock: milliseconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for durations."""
        ...


class SteadyClock:
    """A clock that never goes back: when the wall clock is set back, time goes on at the pace of the monotonic one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now() - self._elapsed()  # the latest wall clock time of monotonic zero

    def _elapsed(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def now(self) -> int:
        elapsed = self._elapsed()
        self._start = max(self._start, self._clock.now() - elapsed)
        return self._start + elapsed

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def go_on_from(self, latest: int) -> None:
        """Never be earlier than `latest` again."""
        self._start = max(self._start, latest - self._elapsed())


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


def iso(milliseconds: int) -> str:
    """A wall clock time as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds_of(moment: datetime) -> int:
    """The wall clock time that `iso` showed; `moment` knows its zone."""
    return round(moment.timestamp() * 1000)
