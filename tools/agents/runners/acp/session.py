"""The client's side of a session: what the agent tells of its work, and what it asks permission for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from acp.schema import (
    AgentMessageChunk,
    AgentPlanUpdate,
    AgentThoughtChunk,
    AllowedOutcome,
    AvailableCommandsUpdate,
    ConfigOptionUpdate,
    CurrentModeUpdate,
    DeniedOutcome,
    FileEditToolCallContent,
    PermissionOption,
    PermissionOptionKind,
    PromptResponse,
    RequestPermissionResponse,
    TextContentBlock,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
    UsageUpdate,
)

from ..base import Work
from .choices import Choices
from .permissions import Rules, ToolCall
from .steps import TURN, Steps

PROGRESS = 200  # characters of a line of progress
MAX_ANSWER = 16 << 20  # characters


class Session:
    """A `Client` of the library, for one session. `begin` and `end` frame the work that what comes in belongs to."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.id: str | None = None  # None: the agent has not named it yet
        self.mode = "default"  # permission mode
        self.choices = Choices()
        self.commands: Sequence[str] = ()
        self.steps = Steps()
        self.cost_known = True  # what the session had cost before this process, if anything
        self._cost = self._cost_before = 0.0  # US dollars of the session: now, and before this work
        self._work: Work | None = None
        self._tokens = 0
        self._turn_over = asyncio.Event()  # every prompt that was sent has its answer
        self._turn_over.set()
        self._left = asyncio.Event()  # the turn is not to go on
        self._model: str | None = None  # that the turn began with
        self._tools: dict[str, ToolCall] = {}
        self.refusals: list[str] = []  # of the turn
        self._answer: list[str] = []
        self._length = 0  # characters of the answer, kept or not
        self._tail = ""  # of the answer
        self._tool_since = False  # a tool was called since the last text

    # --- work

    def begin(self, work: Work) -> None:
        """What comes from now on belongs to `work`."""
        self._work, self._tokens, self._cost_before = work, 0, self._cost

    def end(self) -> None:
        """The work has ended."""
        self._work = None
        self.steps.clear()
        self.steps = Steps()  # whoever still waits at the old one's gate was given up

    async def begin_turn(self, work: Work) -> bool:
        """Returns once the gate and the budget allow a turn; False: the work was left before."""
        self._left.clear()
        if not await self._unless_left(self.steps.boundary(work, TURN)):
            return False
        model = self.choices.get("model")
        self._model = model.current if model is not None else None
        self._tools.clear()
        self.refusals.clear()
        self._clear_answer()
        self._turn_over.clear()
        return True

    def end_turn(self, response: PromptResponse | None) -> None:
        """The turn has ended; None: in an error."""
        usage = response.usage if response is not None else None
        if self._work is not None and usage is not None and usage.total_tokens:  # 0 is what some tell of an aborted one
            self._tokens += usage.total_tokens
            self._work.on_usage({"tokens": float(self._tokens)})
        self._turn_over.set()
        self.steps.clear()

    def leave(self) -> None:
        """Nothing of the turn is to pass a boundary any more."""
        self._left.set()

    @property
    def is_left(self) -> bool:
        return self._left.is_set()

    @property
    def in_turn(self) -> bool:
        """Whether a prompt was sent whose answer has not come."""
        return not self._turn_over.is_set()

    async def turn_over(self) -> None:
        """Returns when no turn is open."""
        await self._turn_over.wait()

    @property
    def answer(self) -> str:
        """What the agent said last, after its last tool."""
        return "".join(self._answer)

    @property
    def is_silent(self) -> bool:
        """Whether it has said nothing since it called a tool."""
        return self._tool_since

    @property
    def is_too_long(self) -> bool:
        """Whether the answer is not kept whole."""
        return self._length > MAX_ANSWER

    # --- what the agent tells

    async def session_update(self, session_id: str, update: object, **_meta: Any) -> None:
        """One of the library's updates; the end of a method's name is the protocol's."""
        if self.id not in (None, session_id):
            return
        match update:
            case CurrentModeUpdate():
                self.choices.take_mode(update.current_mode_id)
            case ConfigOptionUpdate():
                self.choices.take_options(update.config_options)
            case AvailableCommandsUpdate():
                self.commands = [command.name for command in update.available_commands]
            case UsageUpdate():
                self._take_cost(update)
            case _ if self._work is not None:
                self._take_work(update, self._work)
            case _:
                pass

    def _take_cost(self, update: UsageUpdate) -> None:
        if update.cost is None or update.cost.currency != "USD":
            return
        if not self.cost_known:  # a session of an earlier process: what it had cost is told now
            self._cost_before, self.cost_known = update.cost.amount, True
        self._cost = update.cost.amount
        if self._work is not None:
            self._work.on_usage({"usd": max(0.0, self._cost - self._cost_before)})

    def _take_work(self, update: object, work: Work) -> None:
        if isinstance(update, (AgentMessageChunk, AgentThoughtChunk, ToolCallStart)) and self._model is not None:
            work.on_model(self._model)  # it is at work, with what it said before the turn that it has
            self._model = None
        match update:
            case AgentMessageChunk(content=TextContentBlock(text=text)):
                self._take_text(text, work)
            case ToolCallStart() | ToolCallProgress():
                self._take_tool(update)
                if isinstance(update, ToolCallStart):
                    self._tool_since = True
                    self._report(work, update.title)
            case AgentPlanUpdate(entries=entries):
                done = sum(entry.status == "completed" for entry in entries)
                now = next((entry.content for entry in entries if entry.status == "in_progress"), None)
                work.on_progress({"done": done, "total": len(entries), "message": now and now[:PROGRESS]})
            case _:
                pass

    def _take_text(self, text: str, work: Work) -> None:
        if self._tool_since:
            self._clear_answer()
        self._length += len(text)
        if not self.is_too_long:
            self._answer.append(text)
        self._tail = (self._tail + text)[-PROGRESS:]
        self._report(work, self._tail.strip())

    def _clear_answer(self) -> None:
        self._answer.clear()
        self._length, self._tail, self._tool_since = 0, "", False

    def _take_tool(self, update: ToolCallUpdate | ToolCallStart) -> ToolCall:
        """Keep what is told of a tool's call; it counts as a step while it runs."""
        call = self._tools.setdefault(update.tool_call_id, ToolCall(update.tool_call_id))
        call.title = update.title or call.title
        call.kind = update.kind or call.kind
        diffs = [part.path for part in update.content or () if isinstance(part, FileEditToolCallContent)]
        call.paths = call.paths.union(diffs, (place.path for place in update.locations or ()))
        if update.status == "in_progress":
            self.steps.begin(update.tool_call_id)
        elif update.status in ("completed", "failed"):
            self.steps.end(update.tool_call_id)
        return call

    def _report(self, work: Work, message: str) -> None:
        work.on_progress({"done": None, "total": None, "message": message[:PROGRESS]})

    # --- what it asks

    async def request_permission(
        self, session_id: str, tool_call: ToolCallUpdate, options: Sequence[PermissionOption], **_meta: Any
    ) -> RequestPermissionResponse:
        """Hold it while the gate is closed, then answer by the permission mode that holds then."""
        work = self._work
        if work is None or session_id != self.id or self._left.is_set():
            return _CANCELLED
        call = self._take_tool(tool_call)
        if not await self._unless_left(self.steps.boundary(work, tool_call.tool_call_id)):
            return _CANCELLED
        objection = self._rules.objection(self.mode, call)
        option = _option(options, "allow_once") if objection is None else None
        if option is not None:
            self._report(work, f"allowed: {call.title}")
        else:
            refusal = f"{call.title}: {objection or 'only a lasting permission was asked for'}"
            self.refusals.append(refusal)
            self._tool_since = True
            self._report(work, f"refused: {refusal}")
            option = _option(options, "reject_once")
        if option is None:
            return _CANCELLED
        return RequestPermissionResponse(outcome=AllowedOutcome(outcome="selected", option_id=option.option_id))

    async def _unless_left(self, passing: Coroutine[Any, Any, None]) -> bool:
        """Whether the boundary was passed; False: the turn was left first, and what stood there never goes on."""
        waiting = asyncio.create_task(passing)
        left = asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait([waiting, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            waiting.cancel()
        if self._left.is_set():
            return False
        await waiting
        return True


_CANCELLED = RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))


def _option(options: Sequence[PermissionOption], kind: PermissionOptionKind) -> PermissionOption | None:
    """What lasts is never chosen: the permission mode may be another one at the next request."""
    return next((option for option in options if option.kind == kind), None)
