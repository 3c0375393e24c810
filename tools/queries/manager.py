"""The query manager: gives agents work, keeps every query's row true, and applies controls.

Controls of one query never overlap (its lock). What arrives from the agent while the query is held waits for the
resume, so a paused query does not change.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, DeckError, LimitError, NotFoundError
from quarterdeck.storage.runs.base import LIVE_QUERY, Audit, Query, QueryStatus, RunStore

from ..agents import processes
from ..agents.budget import PAUSES, Amounts, Ledger, figures
from ..agents.live import LiveAgent
from ..agents.orchestrator import Orchestrator
from ..agents.rights import lower
from ..agents.runners.base import AgentDiedError, Outcome, Work, WorkCancelledError, WorkError
from ..agents.tracker import Tracker
from ..tasks import Tasks
from .live import LiveQuery
from .spending import Spending

log = logging.getLogger(__name__)

Json = Any
LOOK_EVERY = 0.25  # seconds between two looks of a wait at progress and at queries of other servers
TERMINATE_GRACE = 2.0  # seconds for an agent to leave its work at a safe point

POSSIBLE: Mapping[QueryStatus, Sequence[str]] = {
    "queued": ("terminate",),
    "running": ("pause", "terminate"),
    "pausing": ("terminate",),
    "paused": ("resume", "terminate"),
}
"""The controls that each state allows; an ended query allows none."""


class QueryManager:
    """Owns the queries of this server's agents and reads everybody's."""

    def __init__(
        self, *, runs: RunStore, orchestrator: Orchestrator, tracker: Tracker, ledger: Ledger, clock: Clock
    ) -> None:
        self._runs = runs
        self._orchestrator = orchestrator
        self._tracker = tracker
        self._clock = clock
        self._spending = Spending(ledger)
        self._live: dict[str, LiveQuery] = {}
        ledger.running = self._running
        self._tasks = Tasks()

    @property
    def live(self) -> Sequence[Query]:
        """Rows of this server's queries that have not ended."""
        return [query.row for query in self._live.values() if not query.ended.is_set()]

    def active_seconds(self, query_id: str, now: float) -> float:
        """How long a live query has worked up to the monotonic `now`, pauses left out; 0 of any other."""
        query = self._live.get(query_id)
        return (query.active.seconds(now) or 0.0) if query is not None else 0.0

    def _running(self) -> Sequence[Amounts]:
        now = self._clock.monotonic()
        return [query.used(now) for query in self._live.values() if not query.settled]

    # --- work

    async def start(
        self,
        agent_id: str,
        prompt: str,
        *,
        query_id: str | None = None,
        permission_mode: str | None = None,
        budget: Mapping[str, Json] | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> Query:
        """Give a live agent work; returns once it is on disk. Queries of one agent run one after another.

        Raises:
            NotFoundError, ConflictError: no such live agent here; the query id is taken.
            DeniedError: the permission mode is wider than the agent's.
            LimitError: the budget of the agent or of the deck is used up.
            StorageError: it could not be kept; nothing was started.
        """
        agent = await self._orchestrator.get(agent_id)
        self._spending.check_start(agent.row)
        row = Query(
            id=query_id or f"query-{secrets.token_hex(6)}",
            agent_id=agent_id,
            agent_type=agent.row.type,
            prompt=prompt,
            owner=agent.row.owner,
            created_at=self._clock.now(),
            model=agent.row.model,
            permission_mode=lower(permission_mode, agent.row.permission_mode),
            budget=dict(budget or {}),
            metadata=dict(metadata or {}),
        )
        return await self._tasks.finish(self._begin(agent, row))

    async def _begin(self, agent: LiveAgent, row: Query) -> Query:
        if not await self._runs.add_query(row):
            raise ConflictError(f"query id {row.id!r} is taken; leave queryId out to get a fresh one")
        query = LiveQuery(row, agent)
        query.released.set()
        self._live[row.id] = query
        agent.waiting += 1
        query.task = self._tasks.start(self._serve(query))
        return row

    async def _serve(self, query: LiveQuery) -> None:
        async with query.agent.turn:
            if query.terminating:
                return  # whoever terminated it in the queue settles it
            row = query.row
            try:
                await self._run(query)
            except (WorkCancelledError, AgentDiedError) as exc:
                stopped = query.terminating or query.agent.row.status in ("stopping", "stopped")
                row.status = "terminated" if stopped else "failed"
                cancelled = isinstance(exc, WorkCancelledError)
                reason = "the worker cancelled it" if cancelled else f"its agent has ended: {exc}"
                row.error = row.error or (None if query.terminating else reason)
            except WorkError as exc:
                row.status, row.error = "failed", str(exc)
            except LimitError as exc:
                row.status, row.error = "failed", exc.message
            except Exception:  # the top of a background task: the query must end whatever happens
                log.exception("query %s", row.id)
                row.status, row.error = "failed", "an internal error ended it; the server's log has the details"
            await self._settle(query)

    async def _run(self, query: LiveQuery) -> None:
        row, agent = query.row, query.agent
        await agent.ready.wait()
        if query.terminating:
            raise WorkCancelledError(row.id)
        if agent.row.status not in ("idle", "busy"):
            raise AgentDiedError(agent.row.error or f"agent {agent.row.id} is {agent.row.status}")
        self._spending.check_start(agent.row)  # what ran before it may have left nothing
        row.status, row.started_at = "running", self._clock.now()
        query.active.go(self._clock.monotonic())
        await self._save(query)
        await self._orchestrator.set_busy(agent, row.id)
        agent.rights.mode = row.permission_mode
        before = agent.handle.usage()
        try:
            if query.terminating:  # asked for while the start was written
                raise WorkCancelledError(row.id)
            work = Work(
                row.id,
                row.prompt,
                lambda report: self._take_progress(query, report),
                lambda amounts: self._take_usage(query, amounts),
            )
            result, error = None, None
            try:
                result = await agent.handle.run(work)
            except WorkError as exc:
                error = exc
            await self._until_released(query)  # a held query does not change
            if query.terminating:
                raise WorkCancelledError(row.id)
            if error is not None:
                raise error
            self._spending.take_result(row, agent.row, result)
            row.status = "completed"
        finally:
            agent.rights.mode = agent.row.permission_mode
            after = agent.handle.usage()
            row.usage = {
                "tokens": None,
                "usd": None,
                "outputBytes": None,
                **(row.usage or {}),
                "cpuSeconds": round(max(0.0, after.cpu_seconds - before.cpu_seconds), 3) if before and after else None,
                "memoryBytes": after.memory_bytes if after else None,
            }

    async def _until_released(self, query: LiveQuery) -> None:
        """Raises AgentDiedError if the agent ends first."""
        while not query.released.is_set():
            released = asyncio.create_task(query.released.wait())
            died = asyncio.create_task(query.agent.handle.wait())
            await asyncio.wait([released, died], return_when=asyncio.FIRST_COMPLETED)
            released.cancel()
            died.cancel()
            if died.done() and not query.released.is_set():
                raise AgentDiedError(died.result())

    async def _settle(self, query: LiveQuery) -> None:
        """Write the end, tell the tracker, wake those who wait: once, whoever notices first."""
        if query.settled:
            return
        query.settled = True
        row = query.row
        now = self._clock.now()
        query.active.stop(self._clock.monotonic())
        if row.paused_at is not None:
            row.paused_ms, row.paused_at = row.paused_ms + now - row.paused_at, None
        row.ended_at = now
        self._spending.settle(query.agent.row, query.used(self._clock.monotonic()))
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
        """As `_save`; what no store can hold is left out, so that the query ends all the same."""
        row = query.row
        try:
            await self._save(query)
        except (TypeError, ValueError, RecursionError) as exc:
            row.status, row.error = "failed", f"its result cannot be stored: {exc}".encode("utf-8", "replace").decode()
            row.result = row.progress = None
            await self._save(query)

    def _forget_if_done(self, query: LiveQuery) -> None:
        """Drop an ended query once its row is on disk; until then it is answered from memory."""
        if query.ended.is_set() and not query.unsaved:
            self._live.pop(query.row.id, None)

    def _take_progress(self, query: LiveQuery, report: dict[str, Json]) -> None:
        if query.released.is_set():
            query.row.progress, query.unsaved = report, True
        else:
            query.held_progress = report

    def _take_usage(self, query: LiveQuery, amounts: dict[str, float]) -> None:
        query.row.usage, query.unsaved = {**(query.row.usage or {}), **amounts}, True

    def _release(self, query: LiveQuery) -> None:
        """Let what came in during a pause take effect."""
        query.released.set()
        if query.held_progress is not None:
            self._take_progress(query, query.held_progress)
            query.held_progress = None

    async def tick(self) -> None:
        """Keep the progress that has come in; hold or end what is over its budget. Called about once a second."""
        queries = list(self._live.values())
        for query in queries:  # all of them before the first write, which may take its time
            with _logged(query):
                self._enforce_budget(query)
        for query in queries:
            with _logged(query):
                if query.unsaved:
                    await self._save(query)
            self._forget_if_done(query)

    def _enforce_budget(self, query: LiveQuery) -> None:
        if query.row.status != "running" or query.lock.locked():
            return
        over = self._spending.over(query.row, query.agent.row, query.used(self._clock.monotonic()))
        if over:
            action = "pause" if all(kind in PAUSES for kind in over) else "terminate"
            evidence = {"usedUp": over}
            self._tasks.start(self.control(query.row.id, action, actor="budget", evidence=evidence))

    async def _save(self, query: LiveQuery) -> None:
        """Keep the row. A store that fails is logged: the work goes on, and the next write has it all."""
        query.unsaved = False
        try:
            await self._runs.put_query(query.row)
        except DeckError as exc:
            query.unsaved = True
            log.warning("query %s was not recorded as %s: %s", query.row.id, query.row.status, exc.message)

    # --- look

    async def row(self, query_id: str) -> Query:
        """The query's row. Raises NotFoundError."""
        if query := self._live.get(query_id):
            return query.row
        row = await self._runs.get_query(query_id)
        if row is None:
            raise NotFoundError(f"no query {query_id!r}; query_list with includeHistory shows all")
        return row

    async def list(
        self, *, statuses: Sequence[QueryStatus], before: int | None, limit: int
    ) -> tuple[Sequence[Query], int | None]:
        """Queries of every server, newest first, and where the next page starts."""
        page = await self._runs.list_queries(statuses=statuses, before=before, limit=limit)
        return [self._live[row.id].row if row.id in self._live else row for row in page.rows], page.next

    async def count(self) -> dict[QueryStatus, int]:
        """How many queries are in each state."""
        return await self._runs.count_queries()

    async def audit(self, query_id: str) -> Sequence[Audit]:
        """Every control of the query, oldest first. Raises NotFoundError."""
        await self.row(query_id)
        return await self._runs.list_audit(query_id)

    async def wait(
        self, query_ids: Sequence[str], seconds: float, on_look: Callable[[Sequence[Query]], Awaitable[None]]
    ) -> Sequence[Query]:
        """Wait until all have ended or `seconds` are over; returns their rows as they are then.

        `on_look` gets the rows every quarter of a second. Raises NotFoundError for the first unknown id.
        """
        rows: dict[str, Query] = {}
        pending: Sequence[str] = query_ids

        async def look() -> None:
            nonlocal pending
            for query_id in pending:  # an ended row does not change, and reading it again may cost megabytes
                rows[query_id] = await self.row(query_id)
                await asyncio.sleep(0)
            pending = self.pending([rows[query_id] for query_id in pending])

        await look()
        with anyio.move_on_after(seconds):
            while pending:
                await on_look([rows[query_id] for query_id in query_ids])
                await self._sleep_until_one_ends(pending)
                await look()
        return [rows[query_id] for query_id in query_ids]

    def pending(self, rows: Sequence[Query]) -> Sequence[str]:
        """The ids of those that have not ended, or whose end is not on disk yet."""
        return [
            row.id
            for row in rows
            if row.status in LIVE_QUERY or ((query := self._live.get(row.id)) is not None and not query.ended.is_set())
        ]

    async def _sleep_until_one_ends(self, query_ids: Sequence[str]) -> None:
        tasks = [query.task for query_id in query_ids if (query := self._live.get(query_id)) and query.task]
        if tasks:
            await asyncio.wait(tasks, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(LOOK_EVERY)

    async def close(self) -> None:
        """Wait for the last rows to be written; call it after the agents have ended."""
        await self._tasks.close()

    # --- control

    async def control(
        self,
        query_id: str,
        action: str,
        *,
        actor: str,
        evidence: Mapping[str, Json] | None = None,
        budget: Mapping[str, Json] | None = None,
    ) -> Outcome:
        """Pause, resume or terminate a query and say what was observed.

        Every control is kept in the audit, with the `evidence` that an automatic one acted on. Repeating a control
        that has taken effect is `applied` again, with nothing done. A resume can bring a new `budget`. Once begun it
        goes on to its end, also when the caller is cancelled: half a pause would hold the query for ever.

        Raises:
            NotFoundError: no such query.
            ConflictError: its state does not allow this, or another server owns it; the text says what is possible.
            LimitError: a resume of what has used up its budget.
        """
        query = self._live.get(query_id)
        if query is None:
            return self._control_ended(await self.row(query_id), action)
        return await self._tasks.finish(self._control(query, action, actor, evidence, budget))

    async def _control(
        self,
        query: LiveQuery,
        action: str,
        actor: str,
        evidence: Mapping[str, Json] | None,
        budget: Mapping[str, Json] | None,
    ) -> Outcome:
        query_id, before = query.row.id, query.row.status
        async with query.lock:
            if query.ended.is_set():
                return self._control_ended(query.row, action)
            if evidence:
                query.row.error = f"{action}d by the {actor}: {figures(evidence.get('usedUp', evidence))}"
            outcome = await self._apply(query, action, budget or {})
        entry = {**outcome, "evidence": dict(evidence)} if evidence else dict(outcome)
        try:
            await self._runs.add_audit(
                Audit(self._clock.now(), query_id, actor, action, before, query.row.status, entry)
            )
        except DeckError as exc:  # the control has taken effect all the same, and the answer must say so
            log.warning("audit of %s on query %s was not recorded: %s", action, query_id, exc.message)
        return outcome

    def _control_ended(self, row: Query, action: str) -> Outcome:
        if row.status in LIVE_QUERY:
            if processes.has_ended(row.owner):
                raise ConflictError(
                    f"query {row.id} lost its server (pid {row.owner.pid}); nothing of it runs any more"
                )
            raise ConflictError(f"query {row.id} belongs to the server with pid {row.owner.pid}; control it there")
        if action == "terminate" and row.status == "terminated":
            return {"status": "applied", "effectiveAt": "now", "reason": "it was terminated before"}
        raise ConflictError(f"query {row.id} is {row.status}; nothing can be controlled any more", status=row.status)

    async def _apply(self, query: LiveQuery, action: str, budget: Mapping[str, Json]) -> Outcome:
        row = query.row
        if action == "pause" and row.status == "paused":
            return {"status": "applied", "effectiveAt": "now", "level": "freeze", "reason": "it was paused before"}
        if action == "resume" and row.status == "running":
            row.budget, query.unsaved = {**row.budget, **budget}, True
            return {"status": "applied", "effectiveAt": "now", "reason": "it was running before"}
        possible = POSSIBLE.get(row.status, ())
        if action not in possible:
            raise ConflictError(
                f"query {row.id} is {row.status}; possible now: {', '.join(possible) or 'nothing'}",
                status=row.status,
                possible=list(possible),
            )
        if action == "pause":
            return await self._pause(query)
        if action == "resume":
            return await self._resume(query, {**row.budget, **budget})
        return await self._terminate(query)

    async def _pause(self, query: LiveQuery) -> Outcome:
        row = query.row
        row.status = "pausing"
        query.released.clear()  # together with the status: from here on the query cannot complete
        await self._save(query)
        outcome = await query.agent.handle.pause()
        if row.status != "pausing":
            raise self._ended_meanwhile(query)
        if outcome.get("status") == "applied":
            row.status, row.paused_at = "paused", self._clock.now()
            query.active.stop(self._clock.monotonic())
        else:
            row.status = "running"
            self._release(query)
        await self._save(query)
        return outcome

    async def _resume(self, query: LiveQuery, budget: dict[str, Json]) -> Outcome:
        row = query.row
        self._spending.check_resume(row, budget, query.agent.row, query.used(self._clock.monotonic()))
        outcome = await query.agent.handle.resume()
        if row.status != "paused":
            raise self._ended_meanwhile(query)
        if outcome.get("status") == "applied":
            now = self._clock.now()
            if row.paused_at is not None:
                row.paused_ms, row.paused_at = row.paused_ms + now - row.paused_at, None
            row.status, row.error, row.budget = "running", None, budget
            query.active.go(self._clock.monotonic())
            await self._save(query)
            self._release(query)
        return outcome

    def _ended_meanwhile(self, query: LiveQuery) -> ConflictError:
        """A held query ends only if its agent dies."""
        row = query.row
        return ConflictError(f"query {row.id} is {row.status}: its agent has ended meanwhile", status=row.status)

    async def _terminate(self, query: LiveQuery) -> Outcome:
        """Ask the agent to leave the work at a safe point; end the agent if it does not within the grace."""
        row, agent = query.row, query.agent
        query.terminating = True
        if row.started_at is None:
            row.status = "terminated"
            await self._settle(query)
        with anyio.move_on_after(TERMINATE_GRACE):
            if not query.ended.is_set():
                await agent.handle.cancel(row.id)
                if row.status == "paused":
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


@contextmanager
def _logged(query: LiveQuery) -> Generator[None]:
    """The top of a background task for one of many queries: its failure must not hold up the others."""
    try:
        yield
    except Exception:
        log.exception("query %s", query.row.id)
