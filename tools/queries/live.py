"""A query while it lives: its row, its agent, and the time that it has worked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.storage.runs.base import Query

from ..agents.budget import Amounts
from ..agents.live import LiveAgent

Json = Any


class Stopwatch:
    """Seconds of work, pauses left out. `now` is monotonic: neither a machine's sleep nor a new wall clock is work."""

    def __init__(self) -> None:
        self._before: float | None = None  # up to the last stop
        self._since: float | None = None  # it runs

    def go(self, now: float) -> None:
        """Start, or go on."""
        self._before, self._since = self._before or 0.0, now

    def stop(self, now: float) -> None:
        """Stand still. Does nothing where it does not run."""
        self._before, self._since = self.seconds(now), None

    def seconds(self, now: float) -> float | None:
        """To the millisecond; None before the first start."""
        running = now - self._since if self._since is not None else 0.0
        return None if self._before is None else round(self._before + running, 3)


@dataclass(slots=True, eq=False)
class LiveQuery:
    """A query of this server that has not ended."""

    row: Query
    agent: LiveAgent
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    released: asyncio.Event = field(default_factory=asyncio.Event)  # cleared while a pause holds it
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    active: Stopwatch = field(default_factory=Stopwatch)
    terminating: bool = False
    settled: bool = False  # its end is decided and charged
    task: asyncio.Task[None] | None = None
    unsaved: bool = False  # progress that is not on disk yet
    held_progress: dict[str, Json] | None = None  # came in while a pause held it

    def used(self, now: float) -> Amounts:
        """What it has used so far; `now` is monotonic."""
        return {**(self.row.usage or {}), "wallSeconds": self.active.seconds(now)}
