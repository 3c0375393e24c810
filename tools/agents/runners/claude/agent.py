"""An agent on Claude Code: one session in one process. A query is its next prompt; the conversation goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, cast

import psutil
from claude_agent_sdk import PermissionMode

from quarterdeck.storage.runs.base import ProcessId

from ... import processes
from .. import levels, trees
from ..base import (
    AgentDiedError,
    Outcome,
    PauseLevel,
    Usage,
    Work,
    WorkCancelledError,
    WorkError,
)
from ..children import Child
from ..messages import MAX_ERROR
from ..slash import queue_slash_command
from .launch import BYPASS, is_root
from .session import Session

SEEN_TIMEOUT = 2.0  # seconds for a changed permission mode to be reported
CONTINUE = "Continue where you left off."
COMPLETED = "completed"  # the reason of a turn's end that is none


class ClaudeAgent:
    """See AgentHandle."""

    levels: Sequence[PauseLevel] = ("hold", "freeze", "interrupt")

    def __init__(self, child: Child, mcp_servers: Mapping[str, Any], model: str | None, *, may_bypass: bool) -> None:
        """Raises psutil.NoSuchProcess if the process has ended already."""
        self._identity = processes.identify(child.pid)
        self._root = psutil.Process(child.pid)
        self._child = child
        self._session = Session(child, mcp_servers)
        self._model = model  # that was asked for
        self._may_bypass = may_bypass
        self._commands: deque[str] = deque()  # that are to run when the present turn has ended
        self._level: PauseLevel | None = None
        self._given_up: str | None = None  # the work that was cancelled
        self._leaving: asyncio.Task[str | None] | None = None  # kept, so that it runs to its end
        self._ended = asyncio.create_task(self._watch())

    @property
    def process(self) -> ProcessId:
        return self._identity

    async def begin(self) -> None:
        """Returns when Claude Code is ready. Raises AgentDiedError."""
        if refusal := await self._refusal(self._session.connect()):
            raise AgentDiedError(refusal)

    # --- work

    async def run(self, work: Work) -> str:
        """See AgentHandle.run. The outputs of commands follow the result, each below its command."""
        if self._ended.done():
            raise AgentDiedError(self._ended.result())
        self._check(work)
        await self._session.begin(work)
        try:
            await self._adopt(work)
            said = [await self._answer(work, CONTINUE if work.resumed else work.prompt, verbatim=True)]
            while self._commands:
                command = f"/{self._commands.popleft()}"
                said.append(f"> {command}\n\n{await self._answer(work, command, verbatim=False)}")
            return "\n\n".join(said)
        finally:
            self._commands.clear()
            self._session.end()

    def _check(self, work: Work) -> None:
        if self._given_up == work.id:
            raise WorkCancelledError(work.id)

    async def _adopt(self, work: Work) -> None:
        """Take over the model and the permission mode of the query. Raises WorkError."""
        if work.model is not None and work.model != self._model:
            outcome = await self.set_model(work.model)
            if outcome.get("status") == "failed":
                raise WorkError(f"model {work.model}: {outcome.get('reason')}")
        if work.permission_mode != self._session.mode:
            outcome = await self.set_permissions(work.permission_mode)
            if outcome.get("status") != "applied":
                raise WorkError(f"permission mode {work.permission_mode}: {outcome.get('reason')}")

    async def _answer(self, work: Work, prompt: str, *, verbatim: bool) -> str:
        """The text that a prompt leads to, however often it is interrupted on the way."""
        while True:
            try:
                result = await self._session.prompt(work, prompt, verbatim=verbatim)
            except asyncio.CancelledError:
                self._check(work)
                raise
            self._check(work)
            reason = result.get("terminal_reason") or COMPLETED  # commands without a request have none
            if not reason.startswith("aborted"):
                break
            prompt, verbatim = CONTINUE, True
        said = result.get("result") or ""
        if result["is_error"] or reason != COMPLETED:
            why = said or "; ".join(result.get("errors") or ()) or f"Claude Code ended the turn: {reason}"
            raise WorkError(why[:MAX_ERROR])
        return said

    async def cancel(self, work_id: str) -> None:
        """Abort the turn, without waiting: a frozen agent takes nothing from its pipe."""
        self._given_up = work_id
        self._session.leave()
        if self._session.in_turn:
            self._leaving = asyncio.create_task(self._refusal(self._session.interrupt()))

    # --- control

    async def pause(self, level: PauseLevel) -> Outcome:
        if level == "freeze":
            outcome = await self._freeze()
        elif level == "interrupt":
            outcome = await self._interrupt()
        else:
            outcome = await self._session.steps.gate.pause()
        if outcome.get("status") == "applied":
            self._level = level
        return outcome

    async def _freeze(self) -> Outcome:
        requests = self._session.steps.requests
        outcome = await trees.pause(self._root)
        if requests and outcome.get("status") == "applied":
            outcome["lossless"] = False
            outcome["reason"] = (
                "a request to the model is under way: the API may drop it, and Claude Code then sends it again"
            )
        return outcome

    async def _interrupt(self) -> Outcome:
        """Abort the turn; what it did stays in the session, and a resume tells it to continue."""
        gate = self._session.steps.gate
        aborted = self._session.in_turn
        # In this order: the gate is closed before the turn can end.
        parked, refusal = await asyncio.gather(gate.pause(), self._refusal(self._session.interrupt()))
        if refusal:
            gate.resume()
            return {"status": "failed", "level": "interrupt", "reason": refusal, "alternatives": ["hold", "terminate"]}
        await self._session.turn_ended()
        if parked.get("status") != "applied" or gate.is_open:  # to close it again would hold the work for ever
            reason = "it was resumed before the turn had ended"
            return {"status": "failed", "level": "interrupt", "lossless": not aborted, "reason": reason}
        outcome = await gate.pause()
        if outcome.get("status") != "applied":
            return {**outcome, "level": "interrupt"}
        return levels.interrupted(aborted=aborted)

    async def resume(self) -> Outcome:
        level, self._level = self._level, None
        return await levels.resume(level, self._session.steps.gate, self._root)

    async def set_model(self, model: str) -> Outcome:
        """See AgentHandle.set_model; a request that is under way ends on the model that it began with."""
        if self._level == "freeze":
            return levels.stopped()
        if refusal := await self._refusal(self._session.client.set_model(model)):
            return {"status": "failed", "reason": refusal}
        self._model = model
        return {"status": "queued", "effectiveAt": "next_request", "lossless": True}

    async def set_permissions(self, mode: str) -> Outcome:
        if mode == BYPASS and not self._may_bypass:
            why = "Claude Code does not do that as root" if is_root() else "it was not started so that it may"
            return {"status": "denied", "reason": why, "alternatives": ["acceptEdits"]}
        if self._level == "freeze":
            return levels.stopped()
        if refusal := await self._refusal(self._session.client.set_permission_mode(cast("PermissionMode", mode))):
            return {"status": "failed", "reason": refusal}
        try:
            async with asyncio.timeout(SEEN_TIMEOUT):
                await self._session.mode_is(mode)
        except TimeoutError:
            return {
                "status": "pending",
                "effectiveAt": "next_boundary",
                "observed": {"permissionMode": self._session.mode},
            }
        return {"status": "applied", "effectiveAt": "now", "observed": {"permissionMode": self._session.mode}}

    async def execute_command(self, command: str) -> Outcome:
        """Run a slash command of the session when the present turn has ended."""
        return queue_slash_command(command, self._session.commands, self._commands)

    # --- the process

    async def end(self, grace: float) -> None:
        await processes.end(self._root, grace)
        await self.wait()
        await self._child.cleared

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    def usage(self) -> Usage | None:
        return None if self._child.exited.done() else trees.usage(self._root)

    async def _watch(self) -> str:
        reason = await self._session.transport.last_words()
        await self._session.close(AgentDiedError(reason))
        return reason

    async def _refusal(self, request: Coroutine[Any, Any, None]) -> str | None:
        """Why Claude Code did not do what was asked for, or how it ended; None: it did."""
        asking = asyncio.create_task(request)
        try:
            await asyncio.wait([asking, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return self._ended.result()
        finally:
            asking.cancel()
        refusal = asking.exception()
        return str(refusal)[:MAX_ERROR] or type(refusal).__name__ if refusal is not None else None
