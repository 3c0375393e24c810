"""The query manager: gives agents work and sees it to its end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, LimitError
from quarterdeck.storage.runs.base import LIVE_QUERY, Audit, Query, QueryStatus, RunStore
from quarterdeck.storage.tasks import Tasks

from ..agents.live import LiveAgent
from ..agents.models import resolve
from ..agents.orchestrator import Orchestrator
from ..agents.rights import lower, may_raise
from ..agents.runners.base import AgentDiedError, Work, WorkCancelledError, WorkError
from .live import LiveQueries, LiveQuery
from .spending import Spending

log = logging.getLogger(__name__)

Json = Any
LOOK_EVERY = 0.25  # seconds between two looks of a wait at progress and at queries of other servers


class QueryManager:
    """Runs the queries of this server's agents and reads everybody's."""

    def __init__(
        self, *, live: LiveQueries, runs: RunStore, orchestrator: Orchestrator, spending: Spending, clock: Clock
    ) -> None:
        self._live = live
        self._runs = runs
        self._orchestrator = orchestrator
        self._spending = spending
        self._clock = clock
        self._tasks = Tasks()

    # --- work

    async def start(
        self,
        agent_id: str,
        prompt: str,
        *,
        query_id: str | None = None,
        model: str | None = None,
        permission_mode: str | None = None,
        budget: Mapping[str, Json] | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> Query:
        """Give a live agent work; returns once it is on disk. Queries of one agent run one after another.

        Raises:
            NotFoundError, ConflictError: no such live agent here; the query id is taken.
            InvalidArgumentError, DeniedError: agents of this type have no such model; the permission mode is wider than
                the agent's.
            LimitError: the budget of the agent or of the deck is used up.
            StorageError: it could not be kept; nothing was started.
        """
        agent = await self._orchestrator.get(agent_id)
        self._spending.check_start(agent.row)
        begin_with = resolve(model, agent.kind.models) if model is not None else agent.row.model
        row = Query(
            id=query_id or f"query-{secrets.token_hex(6)}",
            agent_id=agent_id,
            agent_type=agent.row.type,
            prompt=prompt,
            owner=agent.row.owner,
            created_at=self._clock.now(),
            model=begin_with,
            wanted_model=begin_with,
            permission_mode=lower(permission_mode, agent.row.permission_mode),
            budget=dict(budget or {}),
            metadata=dict(metadata or {}),
        )
        return await self._tasks.finish(self._begin(agent, row))

    async def _begin(self, agent: LiveAgent, row: Query) -> Query:
        if not await self._runs.add_query(row):
            raise ConflictError(f"query id {row.id!r} is taken; leave queryId out to get a fresh one")
        self._take(LiveQuery(row, agent))
        return row

    def _take(self, query: LiveQuery) -> None:
        self._live.add(query)
        query.task = self._tasks.start(self._serve(query))

    async def go_on(self, row: Query, budget: Mapping[str, Json]) -> Query:
        """Go on with a query that lost its server, from the session of its agent; nothing does that by itself. `budget`
        replaces limits of its own.

        Raises:
            ConflictError: it is not interrupted, it never began, or its agent kept no session.
            DeniedError: the configuration allows its permission mode no more.
            LimitError: what it may spend is used up.
        """
        if row.status != "interrupted":
            raise ConflictError(f"query {row.id} is {row.status}; only an interrupted one goes on", status=row.status)
        agent_row = await self._orchestrator.agents.row(row.agent_id)
        wanted = {**row.budget, **budget}
        self._spending.check_resume(row, wanted, agent_row, row.usage or {})
        if (kind := self._orchestrator.kind(row.agent_type)) is not None:
            may_raise(row.permission_mode, agent_row.permission_mode, kind, confirmed=True)  # a human said so then
        live = self._orchestrator.agents.get(row.agent_id)
        agent = live or await self._orchestrator.revive(row.agent_id)
        if row.started_at is not None:
            row.paused_at = row.paused_at or row.ended_at  # it stands still until its turn comes
        row.owner, row.status, row.ended_at, row.error, row.budget = agent.row.owner, "queued", None, None, wanted
        if not await self._runs.put_query(row, expected="interrupted"):
            raise ConflictError(f"query {row.id} was taken on by another server in this moment")
        self._take(LiveQuery(row, agent, resumed=row.started_at is not None))
        return row

    async def _serve(self, query: LiveQuery) -> None:
        async with query.agent.turn:
            if query.terminating:
                return  # whoever terminated it in the queue settles it
            row = query.row
            try:
                with self._orchestrator.telemetry.invoke_agent(row, query.agent.row):
                    await self._run(query)
            except (WorkCancelledError, AgentDiedError) as exc:
                stopped = query.terminating or query.agent.row.status in ("stopping", "stopped")
                row.status = "terminated" if stopped else "failed"
                cancelled = isinstance(exc, WorkCancelledError)
                reason = "the worker cancelled it" if cancelled else f"its agent has ended: {exc}"
                if not query.terminating:  # whose reason it has
                    row.error = reason
            except WorkError as exc:
                row.status, row.error = "failed", str(exc)
            except LimitError as exc:
                row.status, row.error = "failed", exc.message
            except Exception:  # the top of a background task: the query must end whatever happens
                log.exception("query %s", row.id)
                row.status, row.error = "failed", "an internal error ended it; the server's log has the details"
            await self._live.settle(query)

    async def _run(self, query: LiveQuery) -> None:
        row, agent = query.row, query.agent
        await agent.ready.wait()
        if query.terminating:
            raise WorkCancelledError(row.id)
        if agent.row.status not in ("idle", "busy"):
            raise AgentDiedError(agent.row.error or f"agent {agent.row.id} is {agent.row.status}")
        self._spending.check_start(agent.row)  # what ran before it may have left nothing
        row.status, row.started_at = "running", row.started_at or self._clock.now()
        row.end_pause(self._clock.now())
        query.active.go(self._clock.monotonic())
        await self._live.save(query)
        await self._orchestrator.set_busy(agent, row.id)
        agent.rights.mode = row.permission_mode
        before = agent.handle.usage()
        try:
            await self._until_released(query)  # a pause or a terminate that came while the start was written
            if query.terminating:
                raise WorkCancelledError(row.id)
            work = Work(
                row.id,
                row.prompt,
                on_progress=lambda report: self._live.take_progress(query, report),
                on_usage=lambda amounts: self._live.take_usage(query, amounts),
                on_model=lambda model: self._live.take_model(query, model),
                on_session=lambda session: self._live.take_session(query, session),
                before_request=lambda: self._live.before_request(query),
                model=row.wanted_model,
                permission_mode=row.permission_mode,
                resumed=query.resumed,
                used=row.usage or {},
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

    # --- look

    async def list(
        self, *, statuses: Sequence[QueryStatus], before: int | None, limit: int
    ) -> tuple[Sequence[Query], int | None]:
        """Queries of every server, newest first, and where the next page starts."""
        page = await self._runs.list_queries(statuses=statuses, before=before, limit=limit)
        return [live.row if (live := self._live.get(row.id)) else row for row in page.rows], page.next

    async def count(self) -> dict[QueryStatus, int]:
        """How many queries are in each state."""
        return await self._runs.count_queries()

    async def audit(self, query_id: str) -> Sequence[Audit]:
        """Every control of the query, oldest first. Raises NotFoundError."""
        await self.row(query_id)
        return await self._runs.list_audit(query_id)

    async def row(self, query_id: str) -> Query:
        """The query as it is now. Raises NotFoundError."""
        return await self._live.row(query_id)

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
                rows[query_id] = await self._live.row(query_id)
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
