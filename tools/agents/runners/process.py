"""The `process` runner: a worker subprocess that speaks JSON lines over its pipes (worker/protocol.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import psutil

from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.runs.base import ProcessId

from .. import processes
from . import messages, trees
from .base import (
    AgentDiedError,
    AgentHandle,
    AgentSpec,
    CallDeck,
    Json,
    Outcome,
    PauseLevel,
    Usage,
    Work,
    WorkCancelledError,
    WorkError,
    unsupported,
)
from .children import Child, Children, Order
from .command_runs import Commands
from .commands import CommandType
from .ends import DRAIN_TIMEOUT, LastWords, WallTime, ended_at_once
from .parking import Parking
from .plain import PlainAgent
from .ready import when_ready
from .record import Record

log = logging.getLogger(__name__)

PROTOCOL = 1
READY_TIMEOUT = 20.0  # seconds; a loaded machine may need many times the usual 2 ms
MAX_LINE = 16 << 20  # bytes of one message from a worker
OPEN_CALLS = 16  # calls of a worker that are served at a time; whoever makes more is not listened to meanwhile
MAX_MODEL = 200  # characters of a model's name
LEAVE_GRACE = 2.0  # seconds for a worker to leave work whose time is used up


class ProcessRunner:
    """Starts agents of the built-in types, and of those in `commands`, which the user configured."""

    def __init__(self, children: Children, commands: Mapping[str, CommandType] = MappingProxyType({})) -> None:
        self._children = children
        self._commands = commands

    async def start(self, spec: AgentSpec, call: CallDeck) -> AgentHandle:
        """See Runner.start."""
        command = self._commands.get(spec.type)
        if command is None:
            return await self._start({"type": spec.type}, spec, call, MAX_LINE, None, None)
        commands = Commands(self._children, command, spec.cwd or spec.folder)
        if command.protocol == "plain":
            return PlainAgent(self._children, command, spec.cwd or spec.folder, commands)
        limits = command.limits
        order = command.order(spec.cwd or spec.folder)
        return await self._start(order, spec, call, limits.output_kb << 10, limits.wall, commands)

    async def _start(
        self,
        order: Order,
        spec: AgentSpec,
        call: CallDeck,
        max_line: int,
        wall: float | None,
        commands: Commands | None,
    ) -> ProcessAgent:
        child = await self._children.start(order, limit=max_line)
        try:
            agent = ProcessAgent(child, call, max_line, wall, commands)
        except psutil.NoSuchProcess:
            raise AgentDiedError(await ended_at_once(child, "the worker")) from None
        return await when_ready(agent, agent.begin(spec), READY_TIMEOUT, "the worker")


class ProcessAgent:
    """A worker process and the conversation with it."""

    def __init__(
        self, child: Child, call: CallDeck, max_line: int, wall: float | None, commands: Commands | None
    ) -> None:
        """`max_line` is the most bytes of one message, `wall` the seconds that a query may take; a built-in type has
        no configured `commands` but its own.

        Raises:
            psutil.NoSuchProcess: it has ended already.
        """
        self._identity = processes.identify(child.pid)
        self._root = psutil.Process(child.pid)
        self._child = child
        self._record = Record()
        self._call = call
        self._commands = commands
        self._controls: Sequence[str] = ()  # that the worker knows beside the protocol's own
        self._parking = Parking(self._write_parking)
        self._level: PauseLevel | None = None
        self._max_line = max_line
        self._wall = WallTime(wall)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work: Work | None = None
        self._done: asyncio.Future[Json] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._words = LastWords()
        self._broken: str | None = None
        self._readers = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._words.collect(child.stderr)),
        ]
        self._ended = asyncio.create_task(self._watch())

    @property
    def process(self) -> ProcessId:
        return self._identity

    async def begin(self, spec: AgentSpec) -> None:
        """Introduce the agent and wait until it is ready. Raises AgentDiedError."""
        await self._send(
            type="start",
            protocol=PROTOCOL,
            agentId=spec.id,
            agentType=spec.type,
            name=spec.name,
            folder=spec.folder,
            capabilities=list(spec.capabilities),
        )
        await self._ready

    async def run(self, work: Work) -> Json:
        """See AgentHandle.run."""
        if self._ended.done():
            raise AgentDiedError(self._ended.result())
        self._work, self._done = work, asyncio.get_running_loop().create_future()
        self._record.clear()
        try:
            async with self._wall.limited():
                await self._send(type="task", id=work.id, prompt=work.prompt)
                return await asyncio.shield(self._done)
        except TimeoutError:
            await self._leave(work, self._done)
            raise WorkError(self._wall.exceeded) from None
        finally:
            self._work = self._done = None
            self._parking.see("ended")

    async def _leave(self, work: Work, done: asyncio.Future[Json]) -> None:
        """Have the worker leave work whose time is used up, or end it. Raises AgentDiedError if that was needed."""
        await self.cancel(work.id)
        await asyncio.wait([done], timeout=LEAVE_GRACE)
        if not done.done():
            self._broken = f"{self._wall.exceeded}, and did not leave its work"
            await processes.end(self._root, grace=0)
        with contextlib.suppress(WorkError, WorkCancelledError):
            await done

    async def cancel(self, work_id: str) -> None:
        self._write(type="cancel", id=work_id)  # without waiting: a frozen agent takes nothing from its pipe

    @property
    def levels(self) -> Sequence[PauseLevel]:
        return ("freeze", "hold") if "hold" in self._controls else ("freeze",)

    async def pause(self, level: PauseLevel) -> Outcome:
        if level == "freeze":
            outcome = await trees.pause(self._root)
        else:
            outcome = await self._parking.hold(at_work=self._work is not None)
        if outcome.get("status") == "applied":
            self._level = level
            self._wall.stop()
        return outcome

    async def resume(self) -> Outcome:
        level, self._level = self._level, None
        self._wall.go_on()
        if level == "freeze":
            return await trees.resume(self._root)
        return await self._parking.release()

    async def set_model(self, model: str) -> Outcome:
        if "set_model" not in self._controls:
            return unsupported("its worker has no model", "terminate, and start it on another type of agent")
        self._write(type="set_model", model=model)  # it tells by `model` what it works with
        return {"status": "queued", "effectiveAt": "next_request", "reason": "its worker was told"}

    async def set_permissions(self, mode: str) -> Outcome:
        """Its calls into the deck are all that it may do, and those the deck checks itself."""
        return {"status": "applied", "effectiveAt": "now", "observed": {"permissionMode": mode}}

    async def execute_command(self, command: str) -> Outcome:
        if self._commands is not None:
            return await self._commands.run(command)
        return self._record.run(command, self._root)

    async def end(self, grace: float) -> None:
        if self._commands is not None:
            await self._commands.end()
        await processes.end(self._root, grace)
        await self.wait()
        await self._child.cleared

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    def usage(self) -> Usage | None:
        if self._child.exited.done():
            return None
        return trees.usage(self._root)

    def _write_parking(self, kind: Literal["hold", "release"]) -> None:
        if self._work is not None:
            self._write(type=kind, id=self._work.id)

    def _write(self, **message: Any) -> None:
        if self._child.stdin.is_closing():  # it has ended: asyncio would log every further write
            return
        self._child.stdin.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    async def _send(self, **message: Any) -> None:
        """Write one message; a closed pipe is noticed by `_watch`, which knows the reason."""
        self._write(**message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._child.stdin.drain()

    async def _listen(self) -> None:
        """Take the worker's messages until it ends or says something that is none."""
        try:
            while line := await self._next_line():
                self._take(messages.decode(line))
                while len(self._calls) >= OPEN_CALLS:
                    await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
        except (ValueError, RecursionError) as exc:  # no JSON, too long or deep, no such field
            self._broken = f"the worker broke the protocol: {str(exc)[:500]}"
            await processes.end(self._root, grace=0)

    async def _next_line(self) -> bytes:
        try:
            return await self._child.stdout.readline()
        except ValueError:
            raise ValueError(f"a line of more than {self._max_line} bytes (own types: limits.output_kb)") from None

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "ready":
                if (protocol := messages.take(message, "protocol", int)) != PROTOCOL:
                    raise ValueError(f"protocol {protocol} instead of {PROTOCOL}")
                self._controls = messages.controls(message)
                if not self._ready.done():
                    self._ready.set_result(None)
            case "call":
                call_id, tool = messages.take(message, "id", object), messages.take(message, "tool", str)
                task = asyncio.create_task(self._serve(call_id, tool, messages.take(message, "arguments", dict)))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            case "progress" | "usage" | "held" | "released" | "model" | "result" | "error" | "cancelled" as kind:
                self._take_work(kind, message)
            case kind:
                raise ValueError(f"unknown message type {kind!r}")

    def _take_work(self, kind: str, message: dict[str, Any]) -> None:
        work, done = self._work, self._done
        work_id = messages.take(message, "id", str)
        if work is None or done is None or work_id != work.id or done.done():
            return  # the last words of work that was given up
        if kind == "progress":
            report = messages.progress(message)
            self._record.note_progress(report)
            work.on_progress(report)
        elif kind == "model":
            work.on_model(messages.take(message, "model", str)[:MAX_MODEL])
        elif kind == "held":
            self._parking.see("held")
        elif kind == "released":
            self._parking.see("released")
        elif kind == "usage":
            work.on_usage(messages.usage(message))
        elif kind == "result":
            result = messages.take(message, "result", object)
            if messages.is_too_deep(result):
                done.set_exception(WorkError(f"its result is nested deeper than {messages.MAX_DEPTH} levels"))
            else:
                done.set_result(result)
        elif kind == "error":
            done.set_exception(WorkError(messages.take(message, "error", str)[: messages.MAX_ERROR]))
        else:
            done.set_exception(WorkCancelledError(work.id))

    async def _serve(self, call_id: Any, tool: str, arguments: dict[str, Any]) -> None:
        try:
            result = await self._call(tool, arguments)
            self._record.note_call(tool, arguments, refused=False)
            await self._send(type="reply", id=call_id, result=result)
        except DeckError as exc:
            self._record.note_call(tool, arguments, refused=True)
            await self._send(type="reply", id=call_id, error=exc.message)
        except Exception:  # the top of a background task: the worker waits for an answer
            log.exception("call of %s by agent process %d", tool, self._identity.pid)
            await self._send(type="reply", id=call_id, error=f"{tool}: an internal error; the server's log has it")

    async def _watch(self) -> str:
        """Wait for the end of the process, then tell whoever waits for something from it."""
        ended = await asyncio.shield(self._child.exited)
        _, unfinished = await asyncio.wait(self._readers, timeout=DRAIN_TIMEOUT)
        for task in (*unfinished, *self._calls):
            task.cancel()
        reason = self._broken or self._words.explain("the worker", ended.code)
        for waiter in (self._ready, self._done):
            if waiter is not None and not waiter.done():
                waiter.set_exception(AgentDiedError(reason))
        self._child.close()
        return reason
