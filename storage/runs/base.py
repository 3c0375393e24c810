"""Agents and queries as they are kept: rows, their history, and the store's contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

AgentStatus = Literal["queued", "starting", "idle", "busy", "stopping", "stopped", "failed", "interrupted"]
QueryStatus = Literal["queued", "running", "pausing", "paused", "completed", "failed", "terminated", "interrupted"]

LIVE_AGENT: frozenset[AgentStatus] = frozenset({"queued", "starting", "idle", "busy", "stopping"})
LIVE_QUERY: frozenset[QueryStatus] = frozenset({"queued", "running", "pausing", "paused"})

Json = Any
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, told apart from a later one that got the same number.

    `started` is in seconds since the machine's start, which `boot` names: no change of the clock touches them.
    """

    host: str
    boot: str
    pid: int
    started: float


@dataclass(slots=True)
class Agent:
    """A worker. Times are milliseconds since the epoch; unknown is None."""

    id: str
    type: str
    name: str
    runner: str
    owner: ProcessId  # the server that started it
    created_at: int
    capabilities: list[str] = field(default_factory=list[str])
    priority: str = "medium"
    model: str | None = None
    permission_mode: str = "default"
    status: AgentStatus = "queued"
    process: ProcessId | None = None
    ready_at: int | None = None
    ended_at: int | None = None
    spawn_ms: float | None = None  # from start to ready
    budget: dict[str, Json] = field(default_factory=dict[str, Json])
    spent: dict[str, Json] = field(default_factory=dict[str, Json])  # by its ended queries
    error: str | None = None
    cwd: str | None = None
    session: str | None = None  # what its runner can bring it back from


@dataclass(slots=True)
class Query:
    """One piece of work of an agent. Times are milliseconds since the epoch; unknown is None."""

    id: str
    agent_id: str
    agent_type: str
    prompt: str
    owner: ProcessId
    created_at: int
    model: str | None = None  # seen at work; until then the one that it is to begin with
    wanted_model: str | None = None  # what its agent was told last
    permission_mode: str = "default"
    budget: dict[str, Json] = field(default_factory=dict[str, Json])
    metadata: dict[str, Json] = field(default_factory=dict[str, Json])
    status: QueryStatus = "queued"
    started_at: int | None = None
    ended_at: int | None = None
    paused_at: int | None = None  # start of the present pause
    paused_ms: int = 0  # earlier pauses
    told_at: int | None = None  # when its agent last told of its progress, its model or what it has used
    progress: dict[str, Json] | None = None
    result: Json = None
    error: str | None = None
    usage: dict[str, Json] | None = None

    def end_pause(self, now: int) -> None:
        """Count the present pause, if there is one, to the earlier ones."""
        if self.paused_at is not None:
            self.paused_ms, self.paused_at = self.paused_ms + now - self.paused_at, None

    def last_activity(self) -> int:
        """When anything of it last changed."""
        moments = (self.started_at, self.told_at, self.paused_at, self.ended_at)
        return max([self.created_at, *filter(None, moments)])

    def active_ms(self, now: int) -> int | None:
        """Time it has worked, pauses left out; None before its start."""
        if self.started_at is None:
            return None
        end = self.ended_at or now
        paused = self.paused_ms + (end - self.paused_at if self.paused_at is not None else 0)
        return max(0, end - self.started_at - paused)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an agent or one of its queries; never changed afterwards."""

    at: int
    agent_id: str
    kind: str
    query_id: str | None = None
    data: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True)
class Audit:
    """One control of a query: who asked for what, the state before and after, and what was observed."""

    at: int
    query_id: str
    actor: str
    action: str
    before: str
    after: str
    outcome: Mapping[str, Json]


RequestStatus = Literal["asked", "taken", "answered", "withdrawn"]


@dataclass(slots=True)
class Request:
    """A control that one server asks of another, which owns the query. `answer` is what became of it."""

    id: str
    query_id: str
    owner: ProcessId
    asked_at: int
    control: dict[str, Json]
    status: RequestStatus = "asked"
    answer: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, newest first; `next` continues after them and is None at the end."""

    rows: Sequence[T]
    next: int | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Ids of agents and queries that were written, or had something added to their history or audit."""

    agents: Sequence[str]
    queries: Sequence[str]
    last: int  # where the next look goes on


class RunStore(Protocol):
    """Whole rows in, whole rows out. Every method may raise StorageError."""

    async def put_agent(self, agent: Agent, *, expected: AgentStatus | None = None) -> bool:
        """Insert or replace the agent's row; with `expected` only if it is there in that status. False if it was not
        written."""
        ...

    async def get_agent(self, agent_id: str) -> Agent | None: ...

    async def list_agents(
        self, *, statuses: Sequence[AgentStatus] = (), before: int | None = None, limit: int = 50
    ) -> Page[Agent]:
        """Agents in one of `statuses` (any if empty), newest first, from where `before` (a page's `next`) ended."""
        ...

    async def add_query(self, query: Query) -> bool:
        """Insert the query's row; False if its id is taken."""
        ...

    async def put_query(self, query: Query, *, expected: QueryStatus | None = None) -> bool:
        """Replace the query's row; with `expected` only if it has that status. False if it was not written."""
        ...

    async def get_query(self, query_id: str) -> Query | None: ...

    async def list_queries(
        self, *, statuses: Sequence[QueryStatus] = (), before: int | None = None, limit: int = 50
    ) -> Page[Query]:
        """As `list_agents`."""
        ...

    async def count_queries(self) -> dict[QueryStatus, int]:
        """How many queries are in each state that has any."""
        ...

    async def add_event(self, event: Event) -> None: ...

    async def list_events(self, agent_id: str) -> list[Event]:
        """One agent's history, oldest first."""
        ...

    async def add_audit(self, audit: Audit) -> None: ...

    async def list_audit(self, query_id: str) -> list[Audit]:
        """One query's controls, oldest first."""
        ...

    async def add_request(self, request: Request) -> None: ...

    async def put_request(self, request: Request, *, expected: RequestStatus) -> bool:
        """Replace the request if it has that status; False if it has not, and nothing was written."""
        ...

    async def get_request(self, request_id: str) -> Request | None: ...

    async def requests_of(self, owner: ProcessId) -> list[Request]:
        """What was asked of a server and not taken yet, oldest first. Asked many times a second: must be cheap."""
        ...

    async def last_change(self) -> int:
        """The number of the last change that any process made: where `changes` begins."""
        ...

    async def changes(self, after: int, limit: int) -> Changes:
        """The next changes after that number, whichever process made them. Asked several times a second: must be
        cheap."""
        ...

    async def purge(self, *, before: int, limit: int) -> int:
        """Forget what is older than `before`: events, audit, requests, and agents and queries that ended by then. Live
        ones stay.

        Looks at the oldest `limit` of each kind; returns how many are gone.
        """
        ...

    async def close(self) -> None: ...
