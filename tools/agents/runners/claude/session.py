"""A session of Claude Code: prompts go in, results come out, and hooks stop it at every boundary in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, HookMatcher

from ..base import Work
from ..children import Child
from ..gate import Gate
from .progress import Progress
from .spent import Spent
from .steps import MAIN, Steps
from .transport import CliTransport

HOOK_TIMEOUT = 24 * 86_400.0  # seconds that a hold may last: what the timers of Claude Code can count
SUBAGENT_TOOLS = ("Agent", "Task")
SYNTHETIC = "<synthetic>"  # the "model" of messages that Claude Code writes itself

Json = Any
HookInput = Mapping[str, Json]
Answer = dict[str, Json]


class Session:
    """What Claude Code says is taken account of as it comes in; `begin` and `end` frame the work that it belongs to."""

    def __init__(self, child: Child, mcp_servers: Mapping[str, Any]) -> None:
        self.transport = CliTransport(child, self._take)
        hooks: Mapping[str, Callable[[HookInput, Work], Awaitable[None]]] = {
            "PreToolUse": self._before_tool,
            "PostToolUse": self._after_tool,
            "PostToolUseFailure": self._after_tool,
            "PostToolBatch": self._before_request,  # all tools of an answer have run: the next request is due
            "PreCompact": self._before_request,
            "SubagentStart": self._before_request,
            "SubagentStop": self._after_subagent,
        }
        matchers: dict[Any, list[HookMatcher]] = {
            event: [HookMatcher(hooks=[self._hook(hook)], timeout=HOOK_TIMEOUT, on_failure="block")]
            for event, hook in hooks.items()
        }
        self.client = ClaudeSDKClient(ClaudeAgentOptions(hooks=matchers, mcp_servers=dict(mcp_servers)), self.transport)
        self.steps = Steps(Gate())
        self.commands: Sequence[str] = ()
        self.mode = ""  # permission mode, as it was last seen
        self._mode_seen = asyncio.Event()
        self._work: Work | None = None
        self._left = asyncio.Event()  # the work is not to go on
        self._spent = self._spent_before = Spent()  # of the session: now, and before this work
        self._progress = Progress()
        self._turn: asyncio.Future[dict[str, Json]] | None = None
        self._drain: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Introduce the deck; returns when Claude Code is ready. Raises what the SDK raises, bare Exceptions too."""
        await self.client.connect()
        info = await self.client.get_server_info() or {}
        self.commands = [command["name"] for command in info.get("commands", ())]
        self.mode = info.get("current_permission_mode", "")
        self._drain = asyncio.create_task(self._read())

    async def close(self, reason: BaseException) -> None:
        """The process has ended: whoever waits for the turn gets the reason."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(reason)
        await self.client.disconnect()
        if self._drain is not None:
            await asyncio.wait([self._drain])

    # --- work

    async def begin(self, work: Work) -> None:
        """What comes from now on belongs to `work`."""
        self._work = work
        self._left.clear()
        if (spent := await self._measure()) is not None:
            self._spent = spent
        self._spent_before = self._spent

    def end(self) -> None:
        """The work has ended."""
        self._work = None
        self.steps.clear()
        self.steps = Steps(Gate())  # whoever still waits at the old one was given up

    def leave(self) -> None:
        """Nothing of the work is to pass a boundary any more."""
        self._left.set()

    @property
    def in_turn(self) -> bool:
        """Whether a prompt has been sent whose result has not come."""
        return self._turn is not None and not self._turn.done()

    async def prompt(self, work: Work, text: str, *, verbatim: bool) -> dict[str, Json]:
        """Send a prompt as soon as the gate and the budget allow it; returns the message that ends the turn.

        Args:
            verbatim: `/` and `@` in it mean nothing.

        Raises:
            asyncio.CancelledError: the work was left before the prompt was sent.
            AgentDiedError: the process ended.
        """
        await self._boundary(self.steps.request(work, MAIN))
        self._turn = asyncio.get_running_loop().create_future()
        message = {"role": "user", "content": text}
        await self.client.query(_one({"type": "user", "message": message, "client_composed": verbatim}))
        try:
            return await self._turn
        finally:
            self._turn = None
            self.steps.clear()

    async def interrupt(self) -> None:
        """Abort the turn. Raises what the SDK raises."""
        await self.client.interrupt()

    async def turn_ended(self) -> None:
        """Returns when no turn is under way."""
        if self._turn is not None:
            await asyncio.wait([self._turn])

    async def mode_is(self, mode: str) -> None:
        """Returns once the permission mode was seen to be this one."""
        while self.mode != mode:
            self._mode_seen.clear()
            await self._mode_seen.wait()

    # --- boundaries

    def _hook(self, step: Callable[[HookInput, Work], Awaitable[None]]) -> Callable[..., Awaitable[Any]]:
        async def hook(given: HookInput, _tool_use_id: str | None, _context: object) -> Answer:
            if "agent_id" not in given:  # a subagent may have a mode of its own
                self._see_mode(given.get("permission_mode"))
            if self._work is not None:
                await step(given, self._work)
            return {}

        return hook

    async def _before_tool(self, given: HookInput, work: Work) -> None:
        if thread := given.get("agent_id"):
            self.steps.requested(thread)  # no stream tells when the answer to a subagent has come
        waits = given["tool_name"] in SUBAGENT_TOOLS
        await self._boundary(self.steps.tool(work, given["tool_use_id"], waits=waits))

    async def _after_tool(self, given: HookInput, _work: Work) -> None:
        self.steps.ran(given["tool_use_id"])

    async def _before_request(self, given: HookInput, work: Work) -> None:
        if (spent := await self._measure()) is not None:
            self._spend(work, spent)
        await self._boundary(self.steps.request(work, given.get("agent_id", MAIN)))

    async def _after_subagent(self, given: HookInput, _work: Work) -> None:
        self.steps.requested(given["agent_id"])

    async def _boundary(self, passing: Awaitable[None]) -> None:
        """Pass it, unless the work is left first: then what stands there is cancelled and never goes on."""
        waiting = asyncio.ensure_future(passing)
        left = asyncio.create_task(self._left.wait())
        try:
            await asyncio.wait([waiting, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not waiting.done():
                waiting.cancel()
        if self._left.is_set():
            raise asyncio.CancelledError
        await waiting

    # --- what Claude Code says

    async def _read(self) -> None:
        """Keep the SDK's own queue empty; `_take` has seen it all."""
        async for _ in self.client.receive_messages():
            pass

    def _take(self, message: dict[str, Json]) -> None:
        work = self._work
        kind = message.get("type")
        if kind == "control_response":
            answer: dict[str, Json] = message["response"].get("response") or {}
            self._see_mode(answer.get("mode"))  # which the SDK does not pass on
        elif kind == "system":
            self._see_mode(message.get("permissionMode"))
            if message.get("subtype") == "init":
                self.commands = message["slash_commands"]
        if work is None:
            return
        main = message.get("parent_tool_use_id") is None
        match kind:
            case "system" if message.get("subtype") == "init":
                work.on_session(message["session_id"])
            case "stream_event" if main:
                if message["event"]["type"] == "message_stop":
                    self.steps.requested(MAIN)
                elif text := self._progress.of_event(message["event"]):
                    work.on_progress({"done": None, "total": None, "message": text})
            case "assistant":
                if main and (model := message["message"]["model"]) != SYNTHETIC:
                    work.on_model(model)
                if text := self._progress.of_tools(message["message"]["content"]):
                    work.on_progress({"done": None, "total": None, "message": text})
            case "user" if not isinstance(message["message"]["content"], str):
                for block in message["message"]["content"]:
                    if "tool_use_id" in block:
                        self.steps.ran(block["tool_use_id"])  # also of one that was refused
            case "result":
                if message.get("modelUsage"):
                    self._spend(work, Spent.of(message["total_cost_usd"], message["modelUsage"]))
                if self._turn is not None and not self._turn.done():
                    self._turn.set_result(message)
            case _:
                pass

    def _see_mode(self, mode: str | None) -> None:
        if mode is not None:
            self.mode = mode
            self._mode_seen.set()

    async def _measure(self) -> Spent | None:
        """What the session has used; an old Claude Code tells it only at the end of a turn."""
        answer = await self.transport.ask("get_usage")
        if answer is None:
            return None
        return Spent.of(answer["session"]["total_cost_usd"], answer["session"]["model_usage"])

    def _spend(self, work: Work, spent: Spent) -> None:
        self._spent = spent
        amounts = spent.since(self._spent_before)
        work.on_usage({kind: amount + work.used.get(kind, 0) for kind, amount in amounts.items()})


async def _one(message: dict[str, Json]) -> AsyncGenerator[dict[str, Json]]:
    yield message
