"""The adaptive optimizer: rules over running queries, looked at every few seconds, the most urgent match acts once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.runs.base import Query

from ..agents.runners.base import Control
from .controls import Options
from .desk import ControlDesk
from .live import LiveQueries

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_MS = 5000


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do with a running query: `evidence` returns the figures that match, or None.

    It gets the query and its active seconds, in which paused time does not count.
    """

    name: str
    priority: int
    action: Control
    evidence: Callable[[Query, float], dict[str, Any] | None]


def _runaway(query: Query, active: float) -> dict[str, Any] | None:
    limit = float(query.budget.get("wallSeconds", 300))
    return {"activeSeconds": round(active, 3), "limitSeconds": limit} if active > limit else None


RULES = (Rule("runaway-query-termination", 10, "terminate", _runaway),)


class Optimizer:
    """Applies the rules to this server's queries."""

    def __init__(
        self, live: LiveQueries, desk: ControlDesk, clock: Clock, rules: Sequence[Rule] = RULES, *, enabled: bool
    ) -> None:
        self.rules = sorted(rules, key=lambda rule: -rule.priority)
        self.enabled = enabled
        self.interval_ms = DEFAULT_INTERVAL_MS
        self.dry_run = False
        self._live = live
        self._desk = desk
        self._clock = clock
        self._acted: set[tuple[str, str]] = set()
        self._loop: asyncio.Task[None] | None = None

    @property
    def is_monitoring(self) -> bool:
        return self._loop is not None and not self._loop.done()

    async def start(self, interval_ms: int = DEFAULT_INTERVAL_MS, *, dry_run: bool = False) -> None:
        """Look every `interval_ms` from now on, with these options."""
        await self.stop()
        self.interval_ms, self.dry_run = interval_ms, dry_run
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
            self._loop = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.interval_ms / 1000)
            try:
                await self.tick()
            except Exception:  # the top of a background task: one bad look must not be the last
                log.exception("optimizer")

    async def tick(self) -> None:
        """Look at every running query once."""
        live = self._live.rows()
        self._acted &= {(query.id, rule.name) for query in live for rule in self.rules}
        for query in live:
            if query.status == "running":
                await self._optimize(query)

    async def _optimize(self, query: Query) -> None:
        active = self._live.active_seconds(query.id, self._clock.monotonic())
        for rule in self.rules:
            if (query.id, rule.name) in self._acted:
                continue
            try:
                evidence = rule.evidence(query, active)
            except (ArithmeticError, LookupError, TypeError, ValueError):
                log.exception("rule %s failed on query %s; trying the next one", rule.name, query.id)
                continue
            if evidence is None:
                continue
            self._acted.add((query.id, rule.name))
            if self.dry_run:
                log.info("rule %s would %s query %s: %s", rule.name, rule.action, query.id, evidence)
                return
            try:
                options = Options(evidence={"rule": rule.name, **evidence})
                await self._desk.control(query.id, rule.action, actor="optimizer", options=options)
            except DeckError as exc:  # it ended or changed its state in this very moment
                log.info("rule %s could not %s query %s: %s", rule.name, rule.action, query.id, exc.message)
            return
