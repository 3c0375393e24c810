"""query_start, query_control, query_list, query_wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from quarterdeck.storage.clock import Clock, iso
from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.storage.runs.base import LIVE_QUERY, Query, QueryStatus

from ..agents.budget import Budget
from ..agents.rights import PermissionMode
from ..agents.runners.base import MAX_PROMPT, Control, Outcome, PauseLevel
from ..arguments import Arguments, FromJsonText, Limit, read_cursor
from ..contract import Call, DeckTool, deck_tool
from .controls import Options
from .desk import ControlDesk
from .manager import QueryManager
from .results import ResultPart, result_part

NOTICE = "a part is JSON text: query_wait that queryId alone with its nextOffset as offset, and join the parts"
MAX_TOKENS = 20_000  # of a result


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what JSON cannot say: some clients send NaN, and no answer could show it again."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("holds NaN or Infinity, which JSON cannot say") from None
    return value


class StartArguments(Arguments):
    agent_id: str
    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT, description='JSON {"do": capability, …}; other text goes to the first one'
    )
    query_id: str | None = Field(None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    model: str | None = Field(None, min_length=1, max_length=200)
    permission_mode: PermissionMode | None = Field(None, description="at most the agent's own")
    budget: Annotated[Budget | None, FromJsonText] = None
    metadata: Annotated[dict[str, Any], FromJsonText, AfterValidator(_finite)] = Field(default_factory=dict[str, Any])


class ControlArguments(Arguments):
    action: Control
    query_id: str
    level: PauseLevel | None = Field(None, description="pause: hold at the next step, freeze the processes, interrupt")
    model: str | None = Field(None, min_length=1, max_length=200, description="change_model: small, medium, large, …")
    permission_mode: PermissionMode | None = None
    command: str | None = Field(None, min_length=1, max_length=200, description="execute_command: its configured name")
    budget: Annotated[Budget | None, FromJsonText] = Field(None, description="resume: new limits")


class ListArguments(Arguments):
    include_history: bool = Field(False, description="ended queries too")
    status: QueryStatus | None = None
    limit: Limit = 50
    cursor: str | None = None


class WaitArguments(Arguments):
    query_ids: Annotated[list[str], FromJsonText] = Field(min_length=1, max_length=500)
    timeout: float = Field(30, ge=0, le=3600, description="seconds")
    max_tokens: int = Field(MAX_TOKENS, ge=200, le=1_000_000, description="of each result; a larger one comes in parts")
    offset: int | None = Field(None, ge=0, description="go on with one large result: its nextOffset")


class StartAnswer(TypedDict):
    success: bool
    queryId: str
    agentId: str
    status: QueryStatus


class ControlAnswer(Outcome, total=False):
    success: bool
    action: str
    queryId: str
    result: str | None
    timestamp: str


class QueryEntry(TypedDict):
    queryId: str
    agentId: str
    status: QueryStatus
    model: str | None
    permissionMode: str
    createdAt: int
    startTime: int | None
    duration: int | None
    lastActivity: int
    usage: dict[str, Any] | None
    metadata: dict[str, Any]
    progress: dict[str, Any] | None
    error: str | None


class Stats(TypedDict):
    total: int
    queued: int
    running: int
    paused: int
    completed: int
    terminated: int
    failed: int
    interrupted: int


class ListAnswer(TypedDict):
    success: bool
    queries: list[QueryEntry]
    stats: Stats
    nextCursor: str | None
    timestamp: str


class QueryResult(ResultPart, total=False):
    queryId: str
    status: QueryStatus
    error: str | None
    usage: dict[str, Any] | None
    duration: int | None


class WaitAnswer(TypedDict, total=False):
    success: bool
    results: list[QueryResult]
    pending: list[str]
    notice: str


class QueryTools:
    """Handlers of the query family."""

    def __init__(self, manager: QueryManager, desk: ControlDesk, clock: Clock) -> None:
        self._manager = manager
        self._desk = desk
        self._clock = clock

    async def start(self, arguments: StartArguments, _call: Call) -> StartAnswer:
        query = await self._manager.start(
            arguments.agent_id,
            arguments.prompt,
            query_id=arguments.query_id,
            model=arguments.model,
            permission_mode=arguments.permission_mode,
            budget=arguments.budget.amounts() if arguments.budget else None,
            metadata=arguments.metadata,
        )
        return {"success": True, "queryId": query.id, "agentId": query.agent_id, "status": query.status}

    async def control(self, arguments: ControlArguments, call: Call) -> ControlAnswer:
        options = Options(
            level=arguments.level,
            model=arguments.model,
            permission_mode=arguments.permission_mode,
            command=arguments.command,
            budget=arguments.budget.amounts() if arguments.budget else None,
            confirmed=await self._desk.consent(arguments.query_id, arguments.permission_mode, call),
        )
        outcome = await self._desk.control(arguments.query_id, arguments.action, actor=call.actor, options=options)
        status = outcome.get("status")
        answer: ControlAnswer = {
            "success": status in ("applied", "pending", "queued"),
            "action": arguments.action,
            "queryId": arguments.query_id,
            "result": status,
            "timestamp": iso(self._clock.now()),
            **outcome,
        }
        if not answer["success"]:
            instead = ", ".join(outcome.get("alternatives", ())) or "nothing else"
            reason = outcome.get("reason") or "no reason was given"
            raise DeckError(f"{arguments.action}: {status}: {reason}; possible instead: {instead}", **answer)
        return answer

    async def report(self, query_id: str) -> dict[str, Any]:
        """One query with its prompt, result (or its beginning) and audit. Raises NotFoundError."""
        audit = await self._manager.audit(query_id)
        row = await self._manager.row(query_id)
        return {
            **self._entry(row),
            "prompt": row.prompt,
            "budget": row.budget,
            **result_part(row, MAX_TOKENS),
            "audit": [
                {
                    "at": iso(entry.at),
                    "actor": entry.actor,
                    "action": entry.action,
                    "before": entry.before,
                    "after": entry.after,
                    **entry.outcome,
                }
                for entry in audit
            ],
        }

    async def list(self, arguments: ListArguments, _call: Call) -> ListAnswer:
        statuses: Sequence[QueryStatus] = ()
        if arguments.status is not None:
            statuses = (arguments.status,)
        elif not arguments.include_history:
            statuses = sorted(LIVE_QUERY)
        rows, following = await self._manager.list(
            statuses=statuses, before=read_cursor(arguments.cursor), limit=arguments.limit
        )
        return {
            "success": True,
            "queries": [self._entry(row) for row in rows],
            "stats": await self._stats(),
            "nextCursor": str(following) if following is not None else None,
            "timestamp": iso(self._clock.now()),
        }

    def _entry(self, row: Query) -> QueryEntry:
        return {
            "queryId": row.id,
            "agentId": row.agent_id,
            "status": row.status,
            "model": row.model,
            "permissionMode": row.permission_mode,
            "createdAt": row.created_at,
            "startTime": row.started_at,
            "duration": row.active_ms(self._clock.now()),
            "lastActivity": row.last_activity(),
            "usage": row.usage,
            "metadata": row.metadata,
            "progress": row.progress,
            "error": row.error,
        }

    async def _stats(self) -> Stats:
        count = await self._manager.count()
        return {
            "total": sum(count.values()),
            "queued": count.get("queued", 0),
            "running": count.get("running", 0) + count.get("pausing", 0),
            "paused": count.get("paused", 0),
            "completed": count.get("completed", 0),
            "terminated": count.get("terminated", 0),
            "failed": count.get("failed", 0),
            "interrupted": count.get("interrupted", 0),
        }

    async def wait(self, arguments: WaitArguments, call: Call) -> WaitAnswer:
        ids = list(dict.fromkeys(arguments.query_ids))
        if arguments.offset is not None and len(ids) > 1:
            raise InvalidArgumentError("offset: goes on with the result of one query: let queryIds be that one alone")
        last: tuple[float, str] | None = None

        async def tell(rows: Sequence[Query]) -> None:
            nonlocal last
            done = sum(1.0 if row.status not in LIVE_QUERY else _share(row) for row in rows)
            message = next(
                (str(row.progress["message"]) for row in rows if row.progress and row.progress["message"]), ""
            )
            if last is None or done > last[0]:  # progress may only grow
                last = (done, message)
                await call.report_progress(round(done, 3), len(rows), message or None)

        rows = await self._manager.wait(ids, arguments.timeout, tell)
        pending = self._manager.pending(rows)
        ended = [row for row in rows if row.id not in pending]
        parts = [result_part(row, arguments.max_tokens, arguments.offset) for row in ended]
        answer: WaitAnswer = {
            "success": True,
            "results": [self._result(row, part) for row, part in zip(ended, parts, strict=True)],
            "pending": [*pending],
        }
        if any(part.get("nextOffset") is not None for part in parts):
            answer["notice"] = NOTICE
        return answer

    def _result(self, row: Query, part: ResultPart) -> QueryResult:
        return {
            "queryId": row.id,
            "status": row.status,
            **part,
            "error": row.error,
            "usage": row.usage,
            "duration": row.active_ms(self._clock.now()),
        }


def _share(row: Query) -> float:
    """How much of a running query is done, 0 to 1, as far as it says."""
    report = row.progress or {}
    done, total = report.get("done"), report.get("total")
    return min(1.0, done / total) if done and total else 0.0


def query_tools(tools: QueryTools, *, control: bool) -> list[DeckTool]:
    """The family; without `query_control` where the flag switches it off."""
    family = [
        deck_tool(
            "query_start",
            "Give an agent work and return at once with the queryId. Collect the result with query_wait.",
            StartArguments,
            StartAnswer,
            tools.start,
            title="Start a query",
        ),
        deck_tool(
            "query_control",
            "Pause, resume, terminate or change a running query, of any server; applied means that the effect was "
            "observed.",
            ControlArguments,
            ControlAnswer,
            tools.control,
            title="Control a query",
            destructive=True,
            idempotent=True,
        ),
        deck_tool(
            "query_list",
            "List the queries that have not ended, or all, and count them by state.",
            ListArguments,
            ListAnswer,
            tools.list,
            title="List queries",
            read_only=True,
            idempotent=True,
        ),
        deck_tool(
            "query_wait",
            "Wait for queries to end and return their results; what is still running stays pending and goes on.",
            WaitArguments,
            WaitAnswer,
            tools.wait,
            title="Wait for queries",
            read_only=True,
            idempotent=True,
        ),
    ]
    return family if control else [tool for tool in family if tool.name != "query_control"]
