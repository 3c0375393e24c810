"""Agents of the `plain` protocol: every query starts the command, gives it the prompt and takes its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import psutil

from quarterdeck.storage.runs.base import ProcessId

from .. import processes
from . import trees
from .base import AgentDiedError, Outcome, PauseLevel, Usage, Work, WorkCancelledError, WorkError, unsupported
from .children import Child, Children
from .command_runs import Commands
from .commands import CommandType
from .ends import DRAIN_TIMEOUT, LastWords, WallTime

CHUNK = 1 << 16
END_GRACE = 1.0  # seconds from SIGTERM to SIGKILL for a command whose work is given up

_NOTHING_RUNS: Outcome = {
    "status": "applied",
    "effectiveAt": "now",
    "level": "freeze",
    "lossless": True,
    "observed": {"state": "no command runs"},
}


class PlainAgent:
    """The prompt goes to stdin; the answer is the text on stdout, once the command has exited with code 0."""

    def __init__(self, children: Children, command: CommandType, cwd: str, commands: Commands) -> None:
        self._children = children
        self._command = command
        self._cwd = cwd
        self._commands = commands
        self._wall = WallTime(command.limits.wall)
        self._root: psutil.Process | None = None
        self._starting = asyncio.Lock()  # held while a command starts, which nothing can stop yet
        self._resumes = 0  # so far
        self._given_up: str | None = None  # the work that was cancelled
        self._seen = 0.0  # CPU seconds of the present command's tree when it was ended
        self._spent: float | None = 0.0  # CPU seconds of the commands that have ended; None: not known
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def process(self) -> ProcessId | None:
        """The command that runs now, if any."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return processes.identify(self._root.pid) if self._root is not None else None
        return None

    async def run(self, work: Work) -> str:
        """See AgentHandle.run."""
        self._check(work)
        async with self._starting:
            try:
                child = await self._children.start(self._command.order(self._cwd), limit=CHUNK)
            except OSError as exc:
                raise WorkError(f"{self._command.command[0]} could not be started: {exc}") from None
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
                self._root = psutil.Process(child.pid)
        try:
            self._check(work)
            return await self._converse(child, work)
        finally:
            if not child.exited.done():
                await self._end_process(END_GRACE)
            self._root = None
            spent, seen, self._seen = (await child.exited).cpu_seconds, self._seen, 0.0
            if self._spent is not None:  # the command's own figures leave out what was ended together with it
                self._spent = self._spent + max(spent, seen) if spent is not None else None
            child.close()

    def _check(self, work: Work) -> None:
        if self._ended.done():
            raise AgentDiedError(self._ended.result())
        if self._given_up == work.id:
            raise WorkCancelledError(work.id)

    async def _converse(self, child: Child, work: Work) -> str:
        child.stdin.write(work.prompt.encode("utf-8", "replace"))
        child.stdin.write_eof()
        words, answer = LastWords(), bytearray()
        listening = asyncio.create_task(words.collect(child.stderr))
        reading = asyncio.create_task(self._read(child.stdout, answer))
        try:
            async with self._wall.limited():
                ends: list[asyncio.Future[Any]] = [reading, child.exited]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()  # raises if there was too much
                code = (await asyncio.shield(child.exited)).code
            await asyncio.wait([reading, listening], timeout=DRAIN_TIMEOUT)
            if reading.done():
                reading.result()
        except TimeoutError:
            raise WorkError(self._wall.exceeded) from None
        finally:
            reading.cancel()
            listening.cancel()
        self._check(work)
        if code != 0:
            raise WorkError(words.explain("the command", code))
        try:
            return answer.decode()
        except UnicodeDecodeError as exc:
            raise WorkError(f"its answer is not UTF-8: {exc.reason} at byte {exc.start}") from None

    async def _read(self, stream: asyncio.StreamReader, answer: bytearray) -> None:
        most = self._command.limits.output_kb << 10
        while chunk := await stream.read(CHUNK):
            answer += chunk
            if len(answer) > most:
                raise WorkError(f"its answer is longer than {self._command.limits.output_kb} KB (limits.output_kb)")

    async def cancel(self, work_id: str) -> None:
        """End the command: it knows no safe point."""
        self._given_up = work_id
        await self._end_process(END_GRACE)

    levels: Sequence[PauseLevel] = ("freeze",)

    async def pause(self, level: PauseLevel) -> Outcome:
        del level  # there is one
        resumes = self._resumes
        async with self._starting:
            if self._resumes != resumes:
                return {"status": "failed", "level": "freeze", "reason": "it was resumed before its command ran"}
            if self._root is None:
                return _NOTHING_RUNS.copy()
            outcome = await trees.pause(self._root)
        if outcome.get("status") == "applied":
            self._wall.stop()
        return outcome

    async def resume(self) -> Outcome:
        self._resumes += 1
        if self._root is None:
            return _NOTHING_RUNS.copy()
        self._wall.go_on()
        return await trees.resume(self._root)

    async def set_model(self, model: str) -> Outcome:
        del model
        return unsupported("a command has no model", "terminate")

    async def set_permissions(self, mode: str) -> Outcome:
        del mode
        return unsupported("a plain command makes no calls that a permission mode could bind", "terminate")

    async def execute_command(self, command: str) -> Outcome:
        return await self._commands.run(command)

    async def end(self, grace: float) -> None:
        if not self._ended.done():
            self._ended.set_result("it was ended")
        await self._commands.end()
        await self._end_process(grace)

    async def _end_process(self, grace: float) -> None:
        if (root := self._root) is not None:
            self._seen = trees.usage(root).cpu_seconds
            await processes.end(root, grace)

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    def usage(self) -> Usage | None:
        """None once it has ended, or if the platform does not tell what commands have used."""
        spent, root = self._spent, self._root  # as they are now: a command may end meanwhile
        if self._ended.done() or spent is None:
            return None
        if root is None:
            return Usage(spent, None)  # what the last command held is not known any more
        now = trees.usage(root)
        return Usage(spent + now.cpu_seconds, now.memory_bytes)
