"""The queries of this server while they live, and their rows on disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import DeckError, NotFoundError
from quarterdeck.storage.runs.base import Query, RunStore
from quarterdeck.storage.tasks import Tasks

from ..agents.budget import Amounts
from ..agents.live import LiveAgent
from ..agents.models import Size, size_of
from ..agents.orchestrator import Orchestrator
from ..agents.runners.base import Outcome, PauseLevel
from ..agents.tracker import Tracker
from .spending import Spending

log = logging.getLogger(__name__)

Json = Any


class Stopwatch:
    """Seconds of work, pauses left out. `now` is monotonic: neither a machine's sleep nor a new wall clock is work."""

    def __init__(self) -> None:
        self._before: float | None = None  # up to the last stop
        self._since: float | None = None  # it runs

    def go(self, now: float) -> None:
        """Start, or go on, also where it runs."""
        self._before, self._since = self.seconds(now) or 0.0, now

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
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # controls of one query never overlap
    released: asyncio.Event = field(default_factory=asyncio.Event)  # cleared while a pause holds it
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    active: Stopwatch = field(default_factory=Stopwatch)
    level: PauseLevel | None = None  # of the pause that it is in
    pausing: asyncio.Task[Outcome] | None = None  # what the agent makes of the last pause
    enforcing: asyncio.Task[Outcome] | None = None  # the last control by its budget
    terminating: bool = False
    resumed: bool = False  # it began on a server that is gone
    settled: bool = False  # its end is decided and charged
    task: asyncio.Task[None] | None = None
    unsaved: bool = False  # progress that is not on disk yet
    held_progress: dict[str, Json] | None = None  # came in while a pause held it

    def used(self, now: float) -> Amounts:
        """What it has used so far; `now` is monotonic."""
        return {**(self.row.usage or {}), "wallSeconds": self.active.seconds(now)}


class LiveQueries:
    """Finds them by id and keeps their rows true to the end.

    What arrives from an agent while its query is held waits for the resume: a paused query does not change.
    """

    def __init__(
        self, *, runs: RunStore, orchestrator: Orchestrator, tracker: Tracker, spending: Spending, clock: Clock
    ) -> None:
        self._runs = runs
        self._orchestrator = orchestrator
        self._tracker = tracker
        self._spending = spending
        self._clock = clock
        self._live: dict[str, LiveQuery] = {}
        self._tasks = Tasks()
        self.on_over_budget: Callable[[LiveQuery], None] = lambda _query: None
        """Told of each query that may not go on; whoever applies controls sets it."""
        spending.ledger.running = self._amounts

    def get(self, query_id: str) -> LiveQuery | None:
        return self._live.get(query_id)

    def all(self) -> list[LiveQuery]:
        return list(self._live.values())

    def rows(self) -> Sequence[Query]:
        """Rows of those that have not ended."""
        return [query.row for query in self._live.values() if not query.ended.is_set()]

    def add(self, query: LiveQuery) -> None:
        query.released.set()
        self._live[query.row.id] = query
        query.agent.waiting += 1

    async def row(self, query_id: str) -> Query:
        """The query's row, of any server. Raises NotFoundError."""
        if query := self._live.get(query_id):
            return query.row
        row = await self._runs.get_query(query_id)
        if row is None:
            raise NotFoundError(f"no query {query_id!r}; query_list with includeHistory shows all")
        return row

    # --- what rules and budgets look at

    def active_seconds(self, query_id: str, now: float) -> float:
        """How long a live query has worked up to the monotonic `now`, pauses left out; 0 of any other."""
        query = self._live.get(query_id)
        return (query.active.seconds(now) or 0.0) if query is not None else 0.0

    def model_size(self, query_id: str) -> Size | None:
        """The size of the model that a live query works with, if it has one that has a size."""
        query = self._live.get(query_id)
        return size_of(query.row.model, query.agent.kind.models) if query is not None else None

    def _amounts(self) -> Sequence[Amounts]:
        now = self._clock.monotonic()
        return [query.used(now) for query in self._live.values() if not query.settled]

    def over_budget(self, query: LiveQuery) -> dict[str, str]:
        """Kind -> figures of what it has used up."""
        return self._spending.over(query.row, query.agent.row, query.used(self._clock.monotonic()))

    async def before_request(self, query: LiveQuery) -> None:
        """See Work.before_request. What was used is on disk before more is: a killed server does not forget it."""
        if query.unsaved:
            await self.save(query)
        while self.over_budget(query):
            query.released.clear()
            self.on_over_budget(query)
            await query.released.wait()

    # --- what its agent tells

    def take_progress(self, query: LiveQuery, report: dict[str, Json]) -> None:
        if query.released.is_set():
            query.row.progress = _storable(report)
            self._told(query)
        else:
            query.held_progress = report

    def take_usage(self, query: LiveQuery, amounts: dict[str, float]) -> None:
        asks = query.agent.row.runner != "process"  # before each request; of a worker, what it tells is all
        was_over = asks or bool(self.over_budget(query))
        query.row.usage = {**(query.row.usage or {}), **amounts}
        self._told(query)
        if not was_over:
            self._enforce(query)

    def take_model(self, query: LiveQuery, model: str) -> None:
        query.row.model = model
        self._told(query)

    def _told(self, query: LiveQuery) -> None:
        query.row.told_at, query.unsaved = self._clock.now(), True

    def take_session(self, query: LiveQuery, session: str) -> None:
        agent = query.agent.row
        if agent.session != session:
            agent.session = session
            self._tasks.start(self._orchestrator.agents.record(agent, "session", query_id=query.row.id))

    def release(self, query: LiveQuery) -> None:
        """Let what came in during a pause take effect."""
        query.released.set()
        if query.held_progress is not None:
            self.take_progress(query, query.held_progress)
            query.held_progress = None

    # --- rows

    async def save(self, query: LiveQuery) -> None:
        """Keep the row. A store that fails is logged: the work goes on, and the next write has it all."""
        query.unsaved = False
        try:
            await self._runs.put_query(query.row)
        except DeckError as exc:
            query.unsaved = True
            log.warning("query %s was not recorded as %s: %s", query.row.id, query.row.status, exc.message)

    async def settle(self, query: LiveQuery) -> None:
        """Write the end, tell the tracker, wake those who wait: once, whoever notices first."""
        if query.settled:
            return
        query.settled = True
        row = query.row
        now = self._clock.now()
        query.active.stop(self._clock.monotonic())
        row.end_pause(now)
        row.ended_at = now
        self._spending.settle(query.agent.row, query.used(self._clock.monotonic()))
        self._orchestrator.telemetry.ended(row, query.active.seconds(self._clock.monotonic()))
        query.agent.waiting -= 1
        try:
            await self._save_end(query)
            if row.started_at is not None:
                await self._orchestrator.set_idle(query.agent, row.id, row.status)
            self._tracker.completed(row)
            await self._tracker.written()
        finally:
            query.ended.set()
            self._forget_if_done(query)

    async def _save_end(self, query: LiveQuery) -> None:
        """As `save`; what no store can hold is left out, so that the query ends all the same."""
        row = query.row
        try:
            await self.save(query)
        except (TypeError, ValueError, RecursionError) as exc:
            row.status, row.error = "failed", f"its result cannot be stored: {exc}".encode("utf-8", "replace").decode()
            row.result = row.progress = None
            await self.save(query)

    def _forget_if_done(self, query: LiveQuery) -> None:
        """Drop an ended query once its row is on disk; until then it is answered from memory."""
        if query.ended.is_set() and not query.unsaved:
            self._live.pop(query.row.id, None)

    def _enforce(self, query: LiveQuery) -> None:
        if query.row.status == "running" and not query.lock.locked() and self.over_budget(query):
            self.on_over_budget(query)

    async def tick(self) -> None:
        """Keep the progress that has come in; hold or end what is over its budget. Called about once a second."""
        queries = self.all()
        for query in queries:  # all of them before the first write, which may take its time
            with _logged(query):
                self._enforce(query)
        for query in queries:
            with _logged(query):
                if query.unsaved:
                    await self.save(query)
            self._forget_if_done(query)

    async def close(self) -> None:
        """Wait for the last rows to be written; call it after the agents have ended."""
        await self._tasks.close()


def _storable(report: dict[str, Json]) -> dict[str, Json]:
    """The report without halves of characters, which no store can hold; a stream may cut its text anywhere."""
    message = report["message"]
    return {**report, "message": message and message.encode("utf-8", "replace").decode()}


@contextmanager
def _logged(query: LiveQuery) -> Generator[None]:
    """The top of a background task for one of many queries: its failure must not hold up the others."""
    try:
        yield
    except Exception:
        log.exception("query %s", query.row.id)
