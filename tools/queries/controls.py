"""Controls: pausing, resuming, ending and changing a running query, each with what was observed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import anyio

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, DeckError, DeniedError, InvalidArgumentError
from quarterdeck.storage.runs.base import Audit, Query, QueryStatus, RunStore
from quarterdeck.storage.tasks import Tasks

from ..agents.budget import PAUSES, figures
from ..agents.models import resolve
from ..agents.orchestrator import Orchestrator
from ..agents.rights import is_wider, may_raise
from ..agents.runners.base import Control, Outcome, PauseLevel, unsupported
from .live import LiveQueries, LiveQuery
from .spending import Spending

log = logging.getLogger(__name__)

Json = Any
TERMINATE_GRACE = 2.0  # seconds for an agent to leave its work at a safe point
PAUSE_PATIENCE = 1.0  # seconds that a pause waits for its boundary before it answers `pending`

_CHANGES: Sequence[Control] = ("change_model", "change_permissions")
POSSIBLE: Mapping[QueryStatus, Sequence[Control]] = {
    "queued": ("terminate", *_CHANGES),
    "running": ("pause", "terminate", *_CHANGES, "execute_command"),
    "pausing": ("resume", "terminate", *_CHANGES, "execute_command"),
    "paused": ("resume", "terminate", *_CHANGES, "execute_command"),
    "interrupted": ("resume",),
}
"""The controls that each state allows; an ended query allows none."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a control needs or takes beside its action; None is left out."""

    level: PauseLevel | None = None
    model: str | None = None
    permission_mode: str | None = None
    command: str | None = None
    budget: Mapping[str, Json] | None = None
    evidence: Mapping[str, Json] = field(default_factory=dict[str, Json])  # what an automatic one acts on
    confirmed: bool = False  # a human said yes to it

    def given(self) -> list[str]:
        """The names of those that are there, as clients spell them."""
        return [wire for name, wire in WIRE.items() if getattr(self, name) is not None]


NO_OPTIONS = Options()
WIRE = {
    "level": "level",
    "model": "model",
    "permission_mode": "permissionMode",
    "command": "command",
    "budget": "budget",
}
_TAKES: Mapping[Control, str] = {"pause": "level", "resume": "budget"}
_NEEDS: Mapping[Control, str] = {
    "change_model": "model",
    "change_permissions": "permissionMode",
    "execute_command": "command",
}


def check_options(action: Control, options: Options) -> None:
    """Raises InvalidArgumentError: one is missing, or has no meaning for this action."""
    needed, given = _NEEDS.get(action), options.given()
    if needed is not None and needed not in given:
        raise InvalidArgumentError(f"missing argument '{needed}': {action} needs it")
    if wrong := [name for name in given if name not in (needed, _TAKES.get(action))]:
        valid = needed or _TAKES.get(action) or "none"
        raise InvalidArgumentError(f"{', '.join(wrong)}: no meaning for {action} (its options: {valid})")


class Controls:
    """Applies controls to this server's queries.

    Every control is kept in the audit, refused ones too. Repeating a control that has taken effect is `applied` again,
    with nothing done.
    """

    def __init__(
        self, *, live: LiveQueries, runs: RunStore, orchestrator: Orchestrator, spending: Spending, clock: Clock
    ) -> None:
        self._live = live
        self._runs = runs
        self._orchestrator = orchestrator
        self._spending = spending
        self._clock = clock
        self._tasks = Tasks()
        live.on_over_budget = self._enforce_budget

    async def close(self) -> None:
        """Wait for the controls that go on; call it after the agents have ended."""
        await self._tasks.close()

    def _enforce_budget(self, query: LiveQuery) -> None:
        """Once, however many of its requests wait for it."""
        underway = query.enforcing is not None and not query.enforcing.done()
        if underway or query.terminating or query.row.status != "running":
            return
        over = self._live.over_budget(query)
        action: Control = "pause" if all(kind in PAUSES for kind in over) else "terminate"
        query.enforcing = self._tasks.start(
            self.apply(query, action, actor="budget", options=Options(evidence={"usedUp": over}))
        )

    async def apply(self, query: LiveQuery, action: Control, *, actor: str, options: Options) -> Outcome:
        """Act on a query of this server and say what was observed.

        Once begun it goes on to its end, also when the caller is cancelled: half a pause would hold the query for ever.

        Raises:
            InvalidArgumentError: an option that the action needs is missing, or means nothing to it.
            ConflictError: its state does not allow this; the text says what is possible.
            DeniedError: the type's configuration does not allow this.
            LimitError: a resume of what has used up its budget.
        """
        check_options(action, options)
        return await self._tasks.finish(self._apply(query, action, actor, options))

    async def _apply(self, query: LiveQuery, action: Control, actor: str, options: Options) -> Outcome:
        changes = action != "execute_command"  # that one may take a minute, for which a terminate must not wait
        async with query.lock if changes else nullcontext():
            before, shown = query.row.status, shown_of(query.row) if changes else None
            try:
                if query.ended.is_set():
                    outcome = after_the_end(query.row, action)
                else:
                    outcome = await self._dispatch(query, action, actor, options)
            except DeckError as exc:
                refusal: Outcome = {"status": "denied" if isinstance(exc, DeniedError) else "failed"}
                await self.audit(query.row, actor, action, before, {**refusal, "reason": exc.message}, shown, options)
                raise
        await self.audit(query.row, actor, action, before, outcome, shown, options)
        return outcome

    async def audit(
        self,
        row: Query,
        actor: str,
        action: str,
        before: str,
        outcome: Outcome,
        shown: Mapping[str, Json] | None = None,
        options: Options = NO_OPTIONS,
    ) -> None:
        """Keep who asked for what, the state before and after, and what was observed; `shown` is the row before."""
        entry: dict[str, Json] = {**outcome}
        shown = shown_of(row) if shown is None else shown
        if changed := {name: [old, new] for name, new in shown_of(row).items() if (old := shown[name]) != new}:
            entry["changed"] = changed
        if options.evidence:
            entry["evidence"] = dict(options.evidence)
        for name, wire in WIRE.items():
            if (asked := getattr(options, name)) is not None:
                entry.setdefault("asked", {})[wire] = asked
        try:
            await self._runs.add_audit(Audit(self._clock.now(), row.id, actor, action, before, row.status, entry))
        except DeckError as exc:  # the control has taken effect all the same, and the answer must say so
            log.warning("audit of %s on query %s was not recorded: %s", action, row.id, exc.message)

    async def _dispatch(self, query: LiveQuery, action: Control, actor: str, options: Options) -> Outcome:
        row = query.row
        if action == "pause" and row.status == "paused" and options.level in (None, query.level):
            return {"status": "applied", "effectiveAt": "now", "level": query.level, "reason": "it was paused before"}
        if action == "pause" and row.status == "pausing" and query.level and options.level in (None, query.level):
            return _pending(query, query.level)
        if action == "resume" and row.status == "running":
            row.budget, query.unsaved = {**row.budget, **(options.budget or {})}, True
            return {"status": "applied", "effectiveAt": "now", "reason": "it was running before"}
        possible = POSSIBLE.get(row.status, ())
        if action not in possible:
            raise ConflictError(
                f"query {row.id} is {row.status}; possible now: {', '.join(possible) or 'nothing'}",
                status=row.status,
                possible=list(possible),
            )
        match action:
            case "pause":
                outcome = await self._pause(query, actor, options)
            case "resume":
                outcome = await self._resume(query, {**row.budget, **(options.budget or {})})
            case "terminate":
                self._note_reason(query, action, actor, options)
                outcome = await self._terminate(query)
            case "change_model":
                outcome = await self._change_model(query, options.model or "")
            case "change_permissions":
                outcome = await self._change_permissions(query, options)
            case "execute_command":
                outcome = await query.agent.handle.execute_command(options.command or "")
        return outcome

    def _note_reason(self, query: LiveQuery, action: str, actor: str, options: Options) -> None:
        """An automatic control leaves in the row why it acted; another one takes away what an earlier one left."""
        query.row.error = None
        if options.evidence:
            query.row.error = f"{action}d by the {actor}: {figures(options.evidence.get('usedUp', options.evidence))}"

    # --- pause and resume

    async def _pause(self, query: LiveQuery, actor: str, options: Options) -> Outcome:
        row, handle = query.row, query.agent.handle
        level = options.level or handle.levels[0]
        if level not in handle.levels:
            can = ", ".join(handle.levels)
            return unsupported(
                f"agents on runner {query.agent.row.runner} cannot {level} (possible levels: {can})", *handle.levels
            )
        self._note_reason(query, "pause", actor, options)
        row.status, query.level = "pausing", level
        query.released.clear()  # together with the status: from here on the query cannot complete
        await self._live.save(query)
        pausing = query.pausing = self._tasks.start(handle.pause(level))
        await asyncio.wait([pausing], timeout=PAUSE_PATIENCE)
        if pausing.done():
            return await self._paused(query, _seen(pausing))
        self._tasks.start(self._pause_later(query, pausing, actor, options))
        return _pending(query, level)

    async def _paused(self, query: LiveQuery, outcome: Outcome) -> Outcome:
        row = query.row
        if row.status != "pausing":
            raise _ended_meanwhile(query)
        if outcome.get("status") == "applied":
            row.status, row.paused_at = "paused", self._clock.now()
            query.active.stop(self._clock.monotonic())
            self._orchestrator.telemetry.paused(query.level or "")
        else:
            row.status, row.error, query.level = "running", None, None
            self._live.release(query)
        await self._live.save(query)
        return outcome

    async def _pause_later(
        self, query: LiveQuery, pausing: asyncio.Task[Outcome], actor: str, options: Options
    ) -> None:
        """A pause that had to wait comes to its boundary, unless it was resumed or its query ended before."""
        await asyncio.wait([pausing])
        outcome = _seen(pausing)
        async with query.lock:
            if query.row.status != "pausing" or query.pausing is not pausing or query.ended.is_set():
                return
            before = shown_of(query.row)
            await self._paused(query, outcome)
        await self.audit(query.row, actor, "pause", "pausing", outcome, before, options)

    async def _resume(self, query: LiveQuery, budget: dict[str, Json]) -> Outcome:
        row, before = query.row, query.row.status
        self._spending.check_resume(row, budget, query.agent.row, query.used(self._clock.monotonic()))
        outcome = await query.agent.handle.resume()
        if row.status != before:
            raise _ended_meanwhile(query)
        if outcome.get("status") == "applied":
            row.end_pause(self._clock.now())
            row.status, row.error, row.budget, query.level = "running", None, budget, None
            query.active.go(self._clock.monotonic())
            await self._live.save(query)
            self._live.release(query)
        return outcome

    # --- terminate

    async def _terminate(self, query: LiveQuery) -> Outcome:
        """Ask the agent to leave the work at a safe point; end the agent if it does not within the grace."""
        row, agent = query.row, query.agent
        query.terminating = True
        if row.started_at is None or row.status == "queued":
            row.status = "terminated"
            await self._live.settle(query)
        with anyio.move_on_after(TERMINATE_GRACE):
            if not query.ended.is_set():
                await agent.handle.cancel(row.id)
                if row.status in ("pausing", "paused"):
                    await agent.handle.resume()
                query.released.set()
            await query.ended.wait()
        if not query.ended.is_set():
            await self._orchestrator.stop([agent.row.id], grace=TERMINATE_GRACE)
            await query.ended.wait()
        return {
            "status": "applied",
            "effectiveAt": "now",
            "lossless": False,
            "observed": {"status": row.status, "agent": agent.row.status},
        }

    # --- changes

    async def _change_model(self, query: LiveQuery, name: str) -> Outcome:
        row, kind = query.row, query.agent.kind
        model = resolve(name, kind.models) if kind.models else name
        if row.status == "queued":
            if kind.model is None:
                return unsupported(f"agents of type {kind.name} begin without a model", "terminate")
            row.model = row.wanted_model = model
            await self._live.save(query)
            return {"status": "queued", "effectiveAt": "next_request", "reason": "its work begins with this model"}
        if row.model == model and row.wanted_model in (None, model):
            return {"status": "applied", "effectiveAt": "now", "reason": "it works with it already"}
        outcome = await query.agent.handle.set_model(model)
        if outcome.get("status") in ("applied", "pending", "queued"):
            row.wanted_model, query.unsaved = model, True
        return outcome

    async def _change_permissions(self, query: LiveQuery, options: Options) -> Outcome:
        """Less is always granted; the deck's own doors narrow before the agent hears of it and widen after."""
        row, agent, mode = query.row, query.agent, options.permission_mode or ""
        if row.permission_mode == mode:
            return {"status": "applied", "effectiveAt": "now", "reason": f"it was in mode {mode} before"}
        widens = is_wider(mode, row.permission_mode)
        if widens:
            may_raise(mode, agent.row.permission_mode, agent.kind, confirmed=options.confirmed)
        if row.status == "queued":
            row.permission_mode = mode
            await self._live.save(query)
            return {"status": "queued", "effectiveAt": "next_request", "reason": "its work begins in this mode"}
        before = agent.rights.mode
        if not widens:
            agent.rights.mode = mode
        outcome = await agent.handle.set_permissions(mode)
        match outcome.get("status"):
            case "applied":
                agent.rights.mode = row.permission_mode = mode
                await self._live.save(query)
            case "pending" | "queued":  # until it is seen, the row says what was, and the deck grants the less of both
                pass
            case _:
                agent.rights.mode = before
        return outcome


def after_the_end(row: Query, action: Control) -> Outcome:
    """What to say to a control of a query that has ended. Raises ConflictError: it can take no effect any more."""
    if action == "terminate" and row.status == "terminated":
        return {"status": "applied", "effectiveAt": "now", "reason": "it was terminated before"}
    possible = POSSIBLE.get(row.status, ())
    what = f"possible now: {', '.join(possible)}" if possible else "nothing can be controlled any more"
    raise ConflictError(f"query {row.id} is {row.status}; {what}", status=row.status, possible=list(possible))


def _pending(query: LiveQuery, level: PauseLevel) -> Outcome:
    """The answer to a pause that waits for its boundary."""
    others = [other for other in query.agent.handle.levels if other != level]
    return {
        "status": "pending",
        "effectiveAt": "next_boundary",
        "level": level,
        "lossless": True,
        "reason": "it stands still at its next boundary; query_list shows paused then",
        "alternatives": ["resume", *(f"resume, then pause with level {other}" for other in others)],
    }


def _seen(pausing: asyncio.Task[Outcome]) -> Outcome:
    """What became of a pause that has come to its end; a defect, which the log has, leaves no query half paused."""
    if pausing.exception() is not None:
        return {"status": "failed", "reason": "an internal error; the server's log has the details"}
    return pausing.result()


def _ended_meanwhile(query: LiveQuery) -> ConflictError:
    """A held query ends only if its agent dies."""
    row = query.row
    return ConflictError(f"query {row.id} is {row.status}: its agent has ended meanwhile", status=row.status)


def shown_of(row: Query) -> dict[str, Json]:
    """What a control may change."""
    return {"model": row.model, "permissionMode": row.permission_mode, "budget": dict(row.budget)}
