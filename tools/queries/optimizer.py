"""The adaptive optimizer: looks at the running queries every few seconds; of the rules that hold on one, the highest
acts on it, once.

Once: a rule that has acted on a query, or was refused, acts on it again only after a look in which it did not hold.
Meanwhile lower ones may act. What failed in that moment is tried a few times. A paused query is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import DeckError, DeniedError, InvalidArgumentError
from quarterdeck.storage.runs.base import Query
from quarterdeck.storage.tasks import Tasks

from ..agents.models import Size
from ..agents.runners.base import Control, Outcome
from .controls import Options
from .rules import Facts, Rule

log = logging.getLogger(__name__)

DEFAULT_INTERVAL_MS = 5000
MAX_ACTIONS = 20  # shown as the last ones
MAX_TRIES = 3  # of what failed
TAKEN = ("applied", "pending", "queued")  # outcomes that have or get their effect


class Watched(Protocol):
    """The queries of this server, as LiveQueries has them."""

    def rows(self) -> Sequence[Query]:
        """Of those that have not ended."""
        ...

    def active_seconds(self, query_id: str, now: float) -> float: ...

    def model_size(self, query_id: str) -> Size | None: ...


class Desk(Protocol):
    """Who applies controls, as the ControlDesk does."""

    async def control(self, query_id: str, action: Control, *, actor: str, options: Options) -> Outcome:
        """Raises DeckError."""
        ...


@dataclass(slots=True)
class Action:
    """What a rule did to a query, or in a dry run would have done; `at` is the wall clock in milliseconds."""

    at: int
    query_id: str
    rule: Rule
    evidence: Mapping[str, str]
    status: str | None = None  # the outcome's or `dryRun`; None until it is known
    reason: str | None = None


class Optimizer:
    """Applies the rules to this server's queries."""

    def __init__(
        self,
        live: Watched,
        desk: Desk,
        clock: Clock,
        rules: Sequence[Rule],
        *,
        cores: int,
        enabled: bool,
    ) -> None:
        """`rules` come with the highest priority first."""
        self.rules = rules
        self.enabled = enabled
        self.interval_ms = DEFAULT_INTERVAL_MS
        self.dry_run = False
        self.actions: deque[Action] = deque(maxlen=MAX_ACTIONS)  # the newest first
        self._live = live
        self._desk = desk
        self._clock = clock
        self._cores = cores
        self._acted: set[tuple[str, str]] = set()  # query id, rule name
        self._failures: Counter[tuple[str, str]] = Counter()
        self._broken: set[tuple[str, str]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    @property
    def is_monitoring(self) -> bool:
        return self._loop is not None

    def start(self, interval_ms: int = DEFAULT_INTERVAL_MS, *, dry_run: bool = False) -> None:
        """Look every `interval_ms` from now on, with these options.

        Raises:
            DeniedError: the feature flag is off.
        """
        if not self.enabled:
            raise DeniedError("FEATURE_ADAPTIVE_OPT=false: no rule acts on this server; unset it and restart")
        if self._loop is not None:
            if (interval_ms, dry_run) == (self.interval_ms, self.dry_run):
                return  # it looks as it is asked to; a new loop would begin with a wait
            self._loop.cancel()
        if self.dry_run:
            self._acted.clear()  # nothing was done
        self.interval_ms, self.dry_run = interval_ms, dry_run
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more; returns when what a rule has begun is done."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()
            await asyncio.wait([loop])
        await self._tasks.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self.interval_ms / 1000)
            try:
                await self.tick()
            except Exception:  # the top of a background task: one bad look must not be the last
                log.exception("optimizer")

    async def tick(self) -> None:
        """Look at every running query once, then act on all of them together."""
        live = self._live.rows()
        known = {row.id for row in live}
        self._acted = {key for key in self._acted if key[0] in known}
        self._failures = Counter({key: count for key, count in self._failures.items() if key[0] in known})
        self._broken = {key for key in self._broken if key[0] in known}
        running = [row for row in live if row.status == "running"]
        load = len(running)
        begun: list[asyncio.Task[None]] = []
        for row in running:
            action = self._decide(row, self._facts(row, load / self._cores))
            if action is None:
                continue
            if action.rule.action != "change_model":
                load -= 1  # so that a rule over the load holds no more queries than it must
            self.actions.appendleft(action)
            if self.dry_run:
                log.info("rule %s would %s query %s: %s", action.rule.name, action.rule.action, row.id, action.evidence)
            else:
                begun.append(self._tasks.start(self._act(action)))
        if begun:
            await asyncio.wait(begun)

    def _facts(self, row: Query, load: float) -> Facts:
        usage = row.usage or {}
        facts = {
            "activeSeconds": self._live.active_seconds(row.id, self._clock.monotonic()),
            "tokens": usage.get("tokens"),
            "usd": usage.get("usd"),
            "load": load,
            "model": self._live.model_size(row.id),
            "permissionMode": row.permission_mode,
            "agentType": row.agent_type,
            "budget": row.budget,
            "metadata": row.metadata,
        }
        return {field: value for field, value in facts.items() if value is not None}

    def _decide(self, row: Query, facts: Facts) -> Action | None:
        """The highest rule that holds and has not acted yet; those that no longer hold may act again."""
        chosen: Action | None = None
        for rule in self.rules:
            key = row.id, rule.name
            try:
                evidence = rule.evidence(facts)
            except (DeckError, RecursionError) as exc:  # of the query's metadata, which may hold anything
                if key not in self._broken:
                    self._broken.add(key)
                    log.warning("rule %s failed on query %s, the next is tried: %s", rule.name, row.id, exc)
                continue
            if evidence is None:
                self._acted.discard(key)
                self._failures.pop(key, None)
            elif chosen is None and key not in self._acted:
                self._acted.add(key)
                chosen = Action(self._clock.now(), row.id, rule, evidence, "dryRun" if self.dry_run else None)
        return chosen

    async def _act(self, action: Action) -> None:
        rule = action.rule
        try:
            options = Options(model=rule.model, evidence={"rule": rule.name, **action.evidence})
            outcome = await self._desk.control(action.query_id, rule.action, actor="optimizer", options=options)
            action.status, action.reason = outcome.get("status"), outcome.get("reason")
        except (InvalidArgumentError, DeniedError) as exc:  # such as that its agent has no such model
            action.status, action.reason = "denied", exc.message
        except DeckError as exc:  # such as that it has ended in this very moment
            action.status, action.reason = "failed", exc.message
        if action.status == "failed":
            key = action.query_id, rule.name
            self._failures[key] += 1
            if self._failures[key] < MAX_TRIES:
                self._acted.discard(key)
        if action.status not in TAKEN:
            log.warning("rule %s could not %s query %s: %s", rule.name, rule.action, action.query_id, action.reason)
