"""What a runner must do: start an agent, hand it work, and act on it truthfully."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from typing_extensions import TypedDict

from quarterdeck.storage.runs.base import ProcessId

Json = Any

MAX_PROMPT = 1 << 20  # characters of one query's prompt

CallDeck = Callable[[str, dict[str, Json]], Awaitable[Json]]
"""How an agent calls a tool of the deck, `(tool, arguments) -> structured answer`; raises DeckError on a refusal."""

OnProgress = Callable[[dict[str, Json]], None]
"""Receives `{done, total, message}` whenever the agent reports."""

OnUsage = Callable[[dict[str, float]], None]
"""Receives what the work has used so far: `tokens` and `usd`, as far as the agent knows them."""


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


class Outcome(TypedDict, total=False):
    """The answer to a control. `applied` means that the effect was observed; `observed` is what was seen."""

    status: Literal["applied", "pending", "queued", "unsupported", "denied", "failed"]
    effectiveAt: Literal["now", "next_boundary", "next_request", "next_turn"]
    level: Literal["hold", "freeze", "interrupt"] | None
    lossless: bool
    reason: str | None
    alternatives: list[str]
    observed: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the agent's whole process tree uses: CPU seconds so far, resident bytes now; None is unknown."""

    cpu_seconds: float
    memory_bytes: int | None


@dataclass(slots=True)
class Work:
    """One query as a runner sees it."""

    id: str
    prompt: str
    on_progress: OnProgress = field(repr=False)
    on_usage: OnUsage = field(repr=False)


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

    async def pause(self) -> Outcome: ...

    async def resume(self) -> Outcome: ...

    async def end(self, grace: float) -> None:
        """End the agent and everything it started; returns when nothing is left."""
        ...

    async def wait(self) -> str:
        """Return when the agent's process has ended, with what is known of the reason."""
        ...

    def usage(self) -> Usage | None:
        """What it uses now; None once it is gone."""
        ...


class Runner(Protocol):
    async def start(self, spec: AgentSpec, call: CallDeck) -> AgentHandle:
        """Start an agent; returns when it is ready.

        Raises:
            AgentDiedError: it ended or did not get ready in time.
        """
        ...
