"""Commands that the configuration of a type names, run beside its agent."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psutil

from .. import processes
from .base import Outcome, unknown_command
from .children import Child, Children
from .commands import CommandType
from .ends import DRAIN_TIMEOUT

CHUNK = 1 << 16
MOST_OUTPUT = 32 << 10  # bytes of each stream in an answer; less where limits.output_kb is less
LONGEST = 60.0  # seconds that a command may take; less where the type's own limit is less


class Commands:
    """Runs them in the agent's folder, with its environment and limits. There is no shell."""

    def __init__(self, children: Children, kind: CommandType, cwd: str) -> None:
        self._children = children
        self._kind = kind
        self._cwd = cwd
        self._running: set[Child] = set()

    async def run(self, name: str) -> Outcome:
        """Run one to its end; `observed` has its exit code and what it said, or its beginning.

        Raises:
            InvalidArgumentError: the type has no command of that name.
        """
        command = self._kind.commands.get(name)
        if command is None:
            raise unknown_command(name, self._kind.commands)
        began = time.monotonic()
        try:
            child = await self._children.start(self._kind.order(self._cwd, command), limit=CHUNK)
        except OSError as exc:
            return {"status": "failed", "reason": f"{command[0]} could not be started: {exc}"}
        self._running.add(child)
        child.stdin.close()
        most = min(self._kind.limits.output_kb << 10, MOST_OUTPUT)
        outputs = [_Output(stream, most) for stream in (child.stdout, child.stderr)]
        readers = [asyncio.create_task(output.read()) for output in outputs]
        seconds = min(self._kind.limits.wall, LONGEST)
        try:
            async with asyncio.timeout(seconds):
                code = (await asyncio.shield(child.exited)).code
            await asyncio.wait(readers, timeout=DRAIN_TIMEOUT)
        except TimeoutError:
            code = None
        finally:
            for reader in readers:
                reader.cancel()
            await _end(child)
            self._running.discard(child)
        stdout, stderr = (output.text() for output in outputs)
        observed = {
            "exitCode": code,
            "stdout": stdout,
            "stderr": stderr,
            "truncated": any(output.truncated for output in outputs),
            "durationMs": round((time.monotonic() - began) * 1000),
        }
        if code == 0:
            return {"status": "applied", "effectiveAt": "now", "observed": observed}
        reason = f"it was ended after {seconds:g} s" if code is None else f"it exited with code {code}"
        return {"status": "failed", "reason": f"command {name}: {reason}", "observed": observed}

    async def end(self) -> None:
        """End what still runs, with the agent."""
        for child in list(self._running):
            await _end(child)


class _Output:
    """The beginning of what a stream says; the rest is read and dropped, so that the command does not stand still."""

    def __init__(self, stream: asyncio.StreamReader, most: int) -> None:
        self._stream = stream
        self._most = most
        self._kept = bytearray()
        self.truncated = False

    async def read(self) -> None:
        while chunk := await self._stream.read(CHUNK):
            left = self._most - len(self._kept)
            self._kept += chunk[:left]
            self.truncated = self.truncated or len(chunk) > left

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


async def _end(child: Child) -> None:
    """End what the command started, if it still runs."""
    await _kill(child)
    child.close()


async def _kill(child: Child) -> None:
    if not child.exited.done():
        with contextlib.suppress(psutil.NoSuchProcess):
            await processes.end(psutil.Process(child.pid), grace=0)
        await asyncio.shield(child.exited)
