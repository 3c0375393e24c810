"""An agent of the Agent Client Protocol: one session in one process. A query is its next prompt."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import psutil
from acp import text_block
from acp.schema import (
    AgentCapabilities,
    LoadSessionResponse,
    NewSessionResponse,
    ResumeSessionResponse,
)

from quarterdeck.storage.runs.base import ProcessId

from ... import processes
from .. import levels, trees
from ..base import (
    AgentDiedError,
    AgentSpec,
    Outcome,
    PauseLevel,
    Usage,
    Work,
    WorkCancelledError,
    WorkError,
    unsupported,
)
from ..children import Child
from ..messages import MAX_ERROR
from ..slash import queue_slash_command
from .choices import Category
from .config import AcpType
from .conversation import Conversation, RefusedError
from .permissions import Rules, own_mode
from .session import MAX_ANSWER, Session

ANSWER_TIMEOUT = 5.0  # seconds for the answer to a change
SEEN_TIMEOUT = 1.0  # seconds for a changed mode to be reported
CONTINUE = "Continue where you left off."


class AcpAgent:
    """See AgentHandle.

    The protocol has no boundary but the agent's requests for permission, and many agents seldom ask: a hold may have to
    wait for the end of the turn. So the default is to freeze.
    """

    levels: Sequence[PauseLevel] = ("freeze", "hold", "interrupt")

    def __init__(self, child: Child, kind: AcpType, folder: str) -> None:
        """Raises psutil.NoSuchProcess if the process has ended already."""
        self._identity = processes.identify(child.pid)
        self._root = psutil.Process(child.pid)
        self._child = child
        self._kind = kind
        self._folder = folder
        self._session = Session(Rules(folder, kind.allow))
        self._talk = Conversation(child, self._root, self._session)
        self._connection = self._talk.connection
        self._first_mode: str | None = None  # of the agent's own, before any was chosen
        self._own_mode: str | None = None  # that it was told last
        self._keeps_sessions = False
        self._commands: deque[str] = deque()  # that are to run when the present turn has ended
        self._level: PauseLevel | None = None
        self._aborted = False  # the last interrupt ended a turn
        self._given_up: str | None = None  # the work that was cancelled

    @property
    def process(self) -> ProcessId:
        return self._identity

    async def begin(self, spec: AgentSpec) -> None:
        """Introduce the deck; returns when the session is ready. Raises AgentDiedError."""
        try:
            capabilities = await self._talk.introduce(self._kind.auth_method)
            await self._open(capabilities, spec.session)
            if spec.model is not None:
                await self._set_model(spec.model)
            await self._set_mode(spec.permission_mode)
        except RefusedError as exc:
            raise AgentDiedError(str(exc)) from None

    async def _open(self, capabilities: AgentCapabilities, earlier: str | None) -> None:
        """A new session, or the `earlier` one."""
        sessions = capabilities.session_capabilities
        resumes = sessions is not None and sessions.resume is not None
        loads = bool(capabilities.load_session)
        self._keeps_sessions = resumes or loads
        session = self._session
        opened: NewSessionResponse | ResumeSessionResponse | LoadSessionResponse
        if earlier is None:
            opened = await self._talk.ask(self._connection.new_session(cwd=self._folder, mcp_servers=[]))
            session.id = opened.session_id
        else:
            if not self._keeps_sessions:
                raise RefusedError("the agent does not go on with sessions of an earlier process")
            session.id, session.cost_known = earlier, False
            if resumes:
                resume = self._connection.resume_session(cwd=self._folder, session_id=earlier, mcp_servers=[])
                opened = await self._talk.ask(resume)
            else:
                load = self._connection.load_session(cwd=self._folder, session_id=earlier, mcp_servers=[])
                opened = await self._talk.ask(load)
        session.choices.take_modes(opened.modes)
        session.choices.take_options(opened.config_options)
        if (mode := session.choices.get("mode")) is not None:
            self._first_mode = self._own_mode = mode.current

    # --- work

    async def run(self, work: Work) -> str:
        """See AgentHandle.run. The outputs of commands follow the result, each below its command."""
        if self._talk.ended.done():
            raise AgentDiedError(self._talk.ended.result())
        self._session.begin(work)
        try:
            await self._adopt(work)
            if self._keeps_sessions and self._session.id is not None:
                work.on_session(self._session.id)
            said = [await self._answer(work, CONTINUE if work.resumed else work.prompt)]
            while self._commands:
                command = f"/{self._commands.popleft()}"
                said.append(f"> {command}\n\n{await self._answer(work, command)}")
            return "\n\n".join(said)
        except RefusedError as exc:
            raise WorkError(str(exc)) from None
        finally:
            self._commands.clear()
            self._session.end()

    async def _adopt(self, work: Work) -> None:
        """Take over the model and the permission mode of the query."""
        if work.model is not None and self._current("model") != work.model:
            await self._set_model(work.model)
        if work.permission_mode != self._session.mode:
            await self._set_mode(work.permission_mode)

    async def _answer(self, work: Work, prompt: str) -> str:
        """The text that a prompt leads to, however often it is interrupted on the way."""
        session = self._session
        while True:
            self._check(work)
            if not await session.begin_turn(work):
                raise WorkCancelledError(work.id)
            try:
                request = self._connection.prompt(session_id=session.id or "", prompt=[text_block(prompt)])
                response = await self._talk.ask(request)
            except BaseException:
                session.end_turn(None)
                raise
            session.end_turn(response)
            self._check(work)
            if response.stop_reason != "cancelled" or not session.is_left:
                break
            self._aborted, prompt = True, CONTINUE
        refused = f", after refusals: {'; '.join(session.refusals)}" if session.refusals else ""
        if response.stop_reason != "end_turn":
            raise WorkError(f"the agent stopped before the end: {response.stop_reason}{refused}"[:MAX_ERROR])
        if session.is_too_long:
            raise WorkError(f"its answer is longer than {MAX_ANSWER} characters")
        if refused and session.is_silent:  # many agents end their turn at a refusal
            raise WorkError(f"the agent said nothing more{refused}"[:MAX_ERROR])
        return session.answer

    def _check(self, work: Work) -> None:
        if self._given_up == work.id:
            raise WorkCancelledError(work.id)

    async def cancel(self, work_id: str) -> None:
        """Abort the turn, without waiting: a frozen agent takes nothing from its pipe."""
        self._given_up = work_id
        await self._leave_turn()

    async def _leave_turn(self) -> None:
        self._session.leave()
        if self._session.in_turn and not self._child.exited.done():
            await self._connection.cancel(session_id=self._session.id or "")

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
        working = self._session.steps.agent_works
        outcome = await trees.pause(self._root)
        if working and outcome.get("status") == "applied":
            outcome["lossless"] = False
            outcome["reason"] = "a request to its model may be under way, and its API may drop it"
        return outcome

    async def _interrupt(self) -> Outcome:
        """Abort the turn; what it did stays in the session, and a resume tells it to continue."""
        gate, self._aborted = self._session.steps.gate, False
        outcome, _ = await asyncio.gather(gate.pause(), self._leave_turn())  # the gate closes first
        if outcome.get("status") == "applied":
            await self._session.turn_over()  # it may have stood at the gate with its turn open
        if gate.is_open:
            reason = "it was resumed before the agent left its turn"
            return {"status": "failed", "level": "interrupt", "reason": reason}
        return levels.interrupted(aborted=self._aborted)

    async def resume(self) -> Outcome:
        level, self._level = self._level, None
        return await levels.resume(level, self._session.steps.gate, self._root)

    # --- changes

    async def set_model(self, model: str) -> Outcome:
        """See AgentHandle.set_model; what the agent says is believed from its next turn on."""
        if self._level == "freeze":
            return levels.stopped()
        if self._session.choices.get("model") is None:
            return unsupported("the agent offers no choice of a model", "terminate, and start it on another type")
        try:
            await self._set_model(model)
        except (RefusedError, AgentDiedError) as exc:
            return {"status": "failed", "reason": str(exc)}
        if not self._session.in_turn:
            return {"status": "queued", "effectiveAt": "next_request", "lossless": True}
        return {
            "status": "pending",
            "effectiveAt": "next_turn",
            "lossless": True,
            "reason": "the agent has chosen it, and may end its present turn on the model that it began with",
            "alternatives": ["pause with level interrupt, then resume: that begins a new turn"],
        }

    async def set_permissions(self, mode: str) -> Outcome:
        """The mode binds the answers to what the agent asks, and chooses the agent's own mode of that meaning."""
        if self._level == "freeze":
            return levels.stopped()
        try:
            own = await self._set_mode(mode)
        except (RefusedError, AgentDiedError) as exc:
            return {"status": "failed", "reason": str(exc)}
        observed = {"permissionMode": mode, "agentMode": self._current("mode")}
        if own is None:
            why = "the agent has no mode that is known to mean it: what it does without asking, it goes on doing"
            return {"status": "applied", "effectiveAt": "now", "reason": why, "observed": observed}
        try:
            async with asyncio.timeout(SEEN_TIMEOUT):
                await self._session.choices.is_told("mode", own)
        except TimeoutError:
            why = f"requests are answered by it; the agent took its own mode {own}, but has not said that it is in it"
            return {"status": "pending", "effectiveAt": "next_boundary", "reason": why, "observed": observed}
        return {"status": "applied", "effectiveAt": "now", "observed": {"permissionMode": mode, "agentMode": own}}

    async def _set_model(self, model: str) -> None:
        """Returns once the agent has said that it has the model. Raises RefusedError, AgentDiedError."""
        choice = self._session.choices.get("model")
        if choice is None:
            raise RefusedError(f"model {model}: the agent offers no choice of a model")
        if model not in choice.values:
            raise RefusedError(f"the agent has no model {model!r} (models: {', '.join(choice.values)})")
        if choice.current != model:
            await self._choose("model", model)
        if (current := self._current("model")) != model:
            raise RefusedError(f"model {model}: the agent acknowledged it, and says that it has {current}")

    async def _set_mode(self, mode: str) -> str | None:
        """Returns the agent's own mode for it, if there is one that is known to mean it. Otherwise the agent goes back
        to its first one. Raises RefusedError, AgentDiedError."""
        choice = self._session.choices.get("mode")
        offered = choice.values if choice is not None else ()
        own = own_mode(mode, offered, self._kind.modes)
        if own is not None and own not in offered:
            raise RefusedError(f"the agent has no mode {own!r} (modes: {', '.join(offered) or 'none'})")
        wanted = own or self._first_mode
        if wanted is not None and (self._own_mode, self._current("mode")) != (wanted, wanted):
            await self._choose("mode", wanted)
            self._own_mode = wanted
        self._session.mode = mode
        return own

    async def _choose(self, category: Category, value: str) -> None:
        choice, session_id = self._session.choices.get(category), self._session.id or ""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                if choice is None or choice.option is None:
                    await self._talk.ask(self._connection.set_session_mode(session_id=session_id, mode_id=value))
                    return
                request = self._connection.set_config_option(
                    config_id=choice.option, session_id=session_id, value=value
                )
                self._session.choices.take_options((await self._talk.ask(request)).config_options)
        except TimeoutError:
            raise RefusedError(f"the agent has not answered within {ANSWER_TIMEOUT:g} s") from None

    def _current(self, category: Category) -> str | None:
        choice = self._session.choices.get(category)
        return choice.current if choice is not None else None

    async def execute_command(self, command: str) -> Outcome:
        """Run a slash command of the session when the present turn has ended."""
        return queue_slash_command(command, self._session.commands, self._commands)

    # --- the process

    async def end(self, grace: float) -> None:
        await processes.end(self._root, grace)
        await self.wait()
        await self._child.cleared

    async def wait(self) -> str:
        return await asyncio.shield(self._talk.ended)

    def usage(self) -> Usage | None:
        return None if self._child.exited.done() else trees.usage(self._root)
