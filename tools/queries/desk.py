"""The control desk: acts on a query wherever it runs. What another server owns, that server is asked to do.

Requests go through the run store: the owner looks for its own every few milliseconds, applies each and writes the
outcome beside it. Whoever asked withdraws what nobody took, so that nothing happens long after it was given up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from pydantic import TypeAdapter

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, DeckError
from quarterdeck.storage.runs.base import LIVE_QUERY, ProcessId, Query, Request, RunStore

from ..agents import processes
from ..agents.orchestrator import Orchestrator
from ..agents.rights import needs_consent, question
from ..agents.runners.base import Control, Outcome
from ..contract import Call
from ..tasks import Tasks
from .controls import NO_OPTIONS, Controls, Options, check_options, ended
from .live import LiveQueries
from .manager import QueryManager

log = logging.getLogger(__name__)

Json = Any
SERVE_EVERY = 0.03  # seconds between two looks for what others ask; one look is one indexed read
LOOK_EVERY = 0.01  # seconds between two looks for the answer
TAKE_PATIENCE = 10.0  # seconds in which a server that lives takes what it is asked
ANSWER_PATIENCE = 60.0  # seconds in which it answers what it took

OPTIONS = TypeAdapter(Options)


class ControlDesk:
    """The one door to controls, for tools, budgets, rules and other servers."""

    def __init__(
        self,
        *,
        live: LiveQueries,
        controls: Controls,
        manager: QueryManager,
        orchestrator: Orchestrator,
        runs: RunStore,
        owner: ProcessId,
        clock: Clock,
    ) -> None:
        self._live = live
        self._controls = controls
        self._manager = manager
        self._orchestrator = orchestrator
        self._runs = runs
        self._owner = owner
        self._clock = clock
        self._tasks = Tasks()

    async def control(self, query_id: str, action: Control, *, actor: str, options: Options = NO_OPTIONS) -> Outcome:
        """Act on a query and say what was observed.

        Raises:
            NotFoundError: no such query.
            ConflictError: it has ended, or its server is gone or does not answer; the text says what can be done.
            DeckError: as `Controls.apply`.
        """
        query = self._live.get(query_id)
        if query is not None and not query.ended.is_set():
            return await self._controls.apply(query, action, actor=actor, options=options)
        check_options(action, options)
        row = await self._live.row(query_id)
        if row.status in LIVE_QUERY:
            return await self._ask(row, action, actor, options)
        if action == "terminate" and row.status == "terminated":
            return {"status": "applied", "effectiveAt": "now", "reason": "it was terminated before"}
        if action == "resume" and row.status == "interrupted":
            return await self._tasks.finish(self._go_on(row, actor))
        raise ended(row)

    async def consent(self, query_id: str, mode: str | None, call: Call) -> bool:
        """Whether a human says yes to that permission mode; asked only where it matters. Raises NotFoundError."""
        if mode is None:
            return False
        row = await self._live.row(query_id)
        kind = self._orchestrator.kind(row.agent_type)
        needed = kind is not None and needs_consent(mode, kind)
        return needed and await call.confirm(question([f"query {query_id} of agent {row.agent_id}"]))

    async def _go_on(self, row: Query, actor: str) -> Outcome:
        row = await self._manager.go_on(row)
        outcome: Outcome = {
            "status": "queued",
            "effectiveAt": "next_turn",
            "reason": "its agent was brought back from its session and goes on with it",
            "observed": {"agentId": row.agent_id},
        }
        await self._controls.audit(row, actor, "resume", "interrupted", outcome)
        return outcome

    # --- asking

    async def _ask(self, row: Query, action: Control, actor: str, options: Options) -> Outcome:
        self._refuse_if_gone(row)
        control = {"action": action, "actor": actor, "options": asdict(options)}
        request = Request(f"request-{secrets.token_hex(8)}", row.id, row.owner, self._clock.now(), control)
        await self._runs.add_request(request)
        try:
            async with asyncio.timeout(TAKE_PATIENCE):
                request = await self._until(request, "asked")
        except TimeoutError:
            request.status = "withdrawn"
            if await self._runs.put_request(request, expected="asked"):
                raise ConflictError(
                    f"the server of query {row.id} (pid {row.owner.pid}) lives but took nothing in {TAKE_PATIENCE:g} "
                    "s; the request was withdrawn: ask again, or end that server"
                ) from None
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                request = await self._until(request, "taken")
        except TimeoutError:
            pid = row.owner.pid
            return {
                "status": "pending",
                "reason": f"the server with pid {pid} works on it; query_list shows the effect",
            }
        answer = request.answer or {}
        if "error" in answer:
            raise _error(answer)
        return cast("Outcome", answer["outcome"])

    async def _until(self, request: Request, status: str) -> Request:
        """Wait until the request has left a status. Raises ConflictError if its server ends."""
        looks = 0
        while True:
            now = await self._runs.get_request(request.id)
            if now is not None and now.status not in ("asked", status):
                return now
            looks += 1
            if looks % 50 == 0 and processes.has_ended(request.owner):
                self._refuse_if_gone(await self._live.row(request.query_id))
            await asyncio.sleep(LOOK_EVERY)

    def _refuse_if_gone(self, row: Query) -> None:
        if processes.has_ended(row.owner):
            raise ConflictError(
                f"query {row.id} lost its server (pid {row.owner.pid}), and its agent ends with that. Within seconds "
                "it is marked interrupted: resume then goes on with it if its agent kept a session, else start it again"
            )

    # --- serving

    async def serve(self) -> None:
        """Apply what other servers ask of this one, for ever."""
        while True:
            try:
                for request in await self._runs.requests_of(self._owner):
                    request.status = "taken"
                    if await self._runs.put_request(request, expected="asked"):
                        self._tasks.start(self._answer(request))
            except DeckError as exc:
                log.warning("requests of other servers cannot be read: %s", exc.message)
                await asyncio.sleep(1)
            await asyncio.sleep(SERVE_EVERY)

    async def _answer(self, request: Request) -> None:
        control = request.control
        answer: dict[str, Json]
        try:
            query = self._live.get(request.query_id)
            if query is None:
                raise ended(await self._live.row(request.query_id))
            options = OPTIONS.validate_python(control["options"])
            outcome = await self._controls.apply(query, control["action"], actor=control["actor"], options=options)
            answer = {"outcome": outcome}
        except DeckError as exc:
            answer = {"error": exc.message, "code": exc.code, "details": exc.details}
        request.status, request.answer = "answered", answer
        await self._runs.put_request(request, expected="taken")

    async def close(self) -> None:
        """Wait for the answers that are being written."""
        await self._tasks.close()


def _error(answer: Mapping[str, Json]) -> DeckError:
    """The error that another server raised."""
    kinds = {kind.code: kind for kind in DeckError.__subclasses__()}
    return kinds.get(answer["code"], DeckError)(answer["error"], **answer["details"])
