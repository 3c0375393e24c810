"""What a runner must do: start an agent, hand it work, and act on it truthfully."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from typing_extensions import TypedDict

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.runs.base import ProcessId

Json = Any

MAX_PROMPT = 1 << 20  # characters of one query's prompt

CallDeck = Callable[[str, dict[str, Json]], Awaitable[Json]]
"""How an agent calls a tool of the deck, `(tool, arguments) -> structured answer`; raises DeckError on a refusal."""

OnProgress = Callable[[dict[str, Json]], None]
"""Receives `{done, total, message}` whenever the agent reports."""

OnUsage = Callable[[dict[str, float]], None]
"""Receives what the work has used so far, before a `resumed` one was resumed too: `tokens` and `usd`, as far as the
agent knows them."""

PauseLevel = Literal["hold", "freeze", "interrupt"]
"""hold parks at the next boundary, freeze stops the whole process tree, interrupt aborts the turn (lossy)."""

Control = Literal["pause", "resume", "terminate", "change_model", "change_permissions", "execute_command"]


class WorkError(Exception):
    """The agent could not do the work; the text says why. It lives on."""


class WorkCancelledError(Exception):
    """The agent left the work at a safe point because it was asked to."""


class AgentDiedError(Exception):
    """The agent's process ended, broke the protocol, or never got ready."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What to start. The type is a name from the catalogue: nothing here says what is executed."""

    id: str
    type: str
    name: str
    folder: str  # of the deck's own, 0700, shared by the agents of this type: the one place that is theirs to write to
    capabilities: Sequence[str] = ()
    permission_mode: str = "default"
    model: str | None = None  # as the runner names it; None: the type's own
    cwd: str | None = None  # where it works; None: in `folder`
    session: str | None = None  # of an earlier start, to go on with


class Outcome(TypedDict, total=False):
    """The answer to a control. `applied` means that the effect was observed; `observed` is what was seen."""

    status: Literal["applied", "pending", "queued", "unsupported", "denied", "failed"]
    effectiveAt: Literal["now", "next_boundary", "next_request", "next_turn"]
    level: PauseLevel | None
    lossless: bool
    reason: str | None
    alternatives: list[str]
    observed: dict[str, Json]


def unsupported(reason: str, *alternatives: str) -> Outcome:
    """What a runner answers that cannot do it."""
    return {"status": "unsupported", "reason": reason, "alternatives": list(alternatives)}


def unknown_command(name: str, known: Iterable[str]) -> InvalidArgumentError:
    """What a runner raises that knows no command of that name."""
    return InvalidArgumentError(f"unknown command {name!r} (valid: {', '.join(known) or 'none'})")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the agent's whole process tree uses: CPU seconds so far, resident bytes now; None is unknown."""

    cpu_seconds: float
    memory_bytes: int | None


@dataclass(slots=True)
class Work:
    """One query as a runner sees it. What it calls back may be called from the event loop only."""

    id: str
    prompt: str
    on_progress: OnProgress = field(repr=False)
    on_usage: OnUsage = field(repr=False)
    on_model: Callable[[str], None] = field(repr=False)  # the model that was seen at work
    on_session: Callable[[str], None] = field(repr=False)  # what a later start can go on with
    before_request: Callable[[], Coroutine[Any, Any, None]] = field(repr=False)
    """Awaited before each request that spends; returns once the budget allows it."""
    model: str | None = None
    permission_mode: str = "default"
    resumed: bool = False  # the session has begun it: it is to go on, not to begin anew
    used: Mapping[str, float | None] = field(default_factory=dict[str, float | None])  # before it was resumed


class AgentHandle(Protocol):
    """A started agent."""

    @property
    def process(self) -> ProcessId | None:
        """Its process; None while it has none."""
        ...

    async def run(self, work: Work) -> Json:
        """Do the work and return its result.

        Raises:
            WorkError: it failed.
            WorkCancelledError: `cancel` reached it.
            AgentDiedError: the agent is gone.
        """
        ...

    async def cancel(self, work_id: str) -> None:
        """Ask the agent to leave the work at its next safe point."""
        ...

    @property
    def levels(self) -> Sequence[PauseLevel]:
        """How it can be paused; the first is the default, the strongest that loses nothing."""
        ...

    async def pause(self, level: PauseLevel) -> Outcome:
        """Pause the work at one of `levels`; returns when that was observed, however long it takes, or when it cannot
        be. Without work, before its begin or after its end, it is paused at once: nobody gives it work or takes its
        result before the resume."""
        ...

    async def resume(self) -> Outcome:
        """Let the work go on; a `pause` that still waits for its boundary fails then."""
        ...

    async def set_model(self, model: str) -> Outcome:
        """Change the model of the running work; what was seen of it comes by `Work.on_model`."""
        ...

    async def set_permissions(self, mode: str) -> Outcome:
        """Change what the running work may do. Who may ask for it was checked before."""
        ...

    async def execute_command(self, command: str) -> Outcome:
        """Run a command that the type or the session knows by this name; its output is in `observed`."""
        ...

    async def end(self, grace: float) -> None:
        """End the agent and everything it started; returns when nothing is left."""
        ...

    async def wait(self) -> str:
        """Return when the agent's process has ended, with what is known of the reason."""
        ...

    def usage(self) -> Usage | None:
        """What it uses now; None once it is gone. Any thread may ask: to look takes its time."""
        ...


class Runner(Protocol):
    async def start(self, spec: AgentSpec, call: CallDeck) -> AgentHandle:
        """Start an agent; returns when it is ready.

        Raises:
            AgentDiedError: it ended or did not get ready in time.
        """
        ...
