"""What changed in a data directory, whichever server process changed it, for those who look on."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from quarterdeck.storage.runs.base import RunStore

log = logging.getLogger(__name__)

LOOK_EVERY = 0.25  # seconds, while anybody looks on: no client hears more often
TELL_AFTER = 0.05  # seconds in which the changes of one process become one
TAKEN_AT_ONCE = 5_000  # changes of agents and queries
KEPT = ("memory", "uploads", "vectors")
CHANGES = "changes"  # the folder of the board, in the data directory


class ChangeBoard:
    """Where the processes of a data directory tell each other what they changed: a file each, by its time stamp.

    Backends differ in whether and how they tell of changes; this costs a writer one system call every now and then.
    Agents and queries are not on it: their store names the rows that changed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due: dict[str, asyncio.TimerHandle] = {}

    def noted(self, what: str) -> Callable[[], None]:
        """What the service of that kind is to call after each change."""
        return partial(self._note, what)

    def _note(self, what: str) -> None:
        if what not in self._due:
            self._due[what] = asyncio.get_running_loop().call_later(TELL_AFTER, self._tell, what)

    def _tell(self, what: str) -> None:
        del self._due[what]
        path, now = self._folder / what, time.time_ns()
        try:
            try:
                os.utime(path, ns=(now, now))
            except FileNotFoundError:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as exc:  # a full disk: pages that look on learn of it with the next change
            log.warning("nobody was told that %s changed: %s", what, exc)

    def stamps(self) -> dict[str, int]:
        """What differs from an earlier look has changed since."""
        found: dict[str, int] = {}
        for what in KEPT:
            with suppress(OSError):
                found[what] = (self._folder / what).stat().st_mtime_ns
        return found

    def close(self) -> None:
        """Tell what is still to be told."""
        for what, due in list(self._due.items()):
            due.cancel()
            self._tell(what)


@dataclass(slots=True)
class Change:
    """What changed between two looks."""

    what: set[str] = field(default_factory=set[str])
    agents: set[str] = field(default_factory=set[str])
    queries: set[str] = field(default_factory=set[str])

    def add(self, other: Change) -> None:
        self.what |= other.what
        self.agents |= other.agents
        self.queries |= other.queries


class Onlooker:
    """One who looks on. What it does not collect becomes one change: it never holds more than the ids there are."""

    def __init__(self) -> None:
        self._change = Change()
        self._ready = asyncio.Event()

    def tell(self, change: Change) -> None:
        self._change.add(change)
        self._ready.set()

    async def next(self) -> Change:
        """What changed since the last call, once anything has."""
        await self._ready.wait()
        self._ready.clear()
        change, self._change = self._change, Change()
        return change


class ChangeFeed:
    """Looks for changes while anybody looks on, once for all of them; nothing runs while nobody does."""

    def __init__(self, runs: RunStore, board: ChangeBoard) -> None:
        self._runs = runs
        self._board = board
        self._onlookers: list[Onlooker] = []
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def looking_on(self) -> AsyncGenerator[Onlooker]:
        """Everything that changes from now to the end of the block. Raises StorageError."""
        onlooker = Onlooker()
        start = await self._runs.last_change(), self._board.stamps()
        self._onlookers.append(onlooker)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on(*start))
        try:
            yield onlooker
        finally:
            self._onlookers.remove(onlooker)
            if not self._onlookers:
                self._looking.cancel()
                self._looking = None

    async def _look_on(self, last: int, stamps: dict[str, int]) -> None:
        failed = False
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                runs = await self._runs.changes(last, TAKEN_AT_ONCE)
                now = self._board.stamps()
            except Exception:  # the top of a background task; once the store can be read again, no change is lost
                if not failed:
                    log.exception("cannot see what changes")
                failed = True
                continue
            change = Change(agents=set(runs.agents), queries=set(runs.queries))
            change.what = {what for what in ("agents", "queries") if getattr(change, what)}
            change.what |= {what for what in now if now[what] != stamps.get(what)}
            last, stamps, failed = runs.last, now, False
            if change.what:
                for onlooker in self._onlookers:
                    onlooker.tell(change)
