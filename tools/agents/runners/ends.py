"""How processes end: the last words that explain it, and the time that a piece of work may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .children import Child

TAIL = 4096  # bytes of stderr that are kept
DRAIN_TIMEOUT = 1.0  # seconds to read what an ended process has left in its pipes (a child of it may hold them open)


class LastWords:
    """The end of what a process says on stderr."""

    def __init__(self) -> None:
        self._tail = b""

    async def collect(self, stream: asyncio.StreamReader) -> None:
        """Read to the end of the stream."""
        while chunk := await stream.read(TAIL):
            self._tail = (self._tail + chunk)[-TAIL:]

    def explain(self, who: str, code: int | None) -> str:
        """Say in one line how `who` ended."""
        if code is None:
            return f"{who} was ended with its supervisor"
        if code < 0:
            return f"{who} was ended by signal {-code}"
        lines = self._tail.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{who} exited with code {code}" + (f": {last[:500]}" if code and last else "")


async def ended_at_once(child: Child, who: str) -> str:
    """How a process ended that was gone before anybody could look at it; its pipes are closed."""
    words = LastWords()
    await asyncio.wait([asyncio.create_task(words.collect(child.stderr))], timeout=DRAIN_TIMEOUT)
    code = (await child.exited).code
    child.close()
    return words.explain(who, code)


class WallTime:
    """A bound on the time that work takes, pauses left out:

    async with wall.limited():
        ...  # TimeoutError when it is used up
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._timeout: asyncio.Timeout | None = None
        self._left: float | None = None

    @asynccontextmanager
    async def limited(self) -> AsyncGenerator[None]:
        """Bound one piece of work, from now on."""
        try:
            async with asyncio.timeout(self.seconds) as self._timeout:
                yield
        finally:
            self._timeout = self._left = None

    def stop(self) -> None:
        """Let the time stand still. Does nothing where no bounded work goes on."""
        timeout = self._timeout
        if timeout is not None and not timeout.expired() and (when := timeout.when()) is not None:
            self._left = when - asyncio.get_running_loop().time()
            timeout.reschedule(None)

    def go_on(self) -> None:
        """Let it run again."""
        if self._timeout is not None and self._left is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left)
            self._left = None

    @property
    def exceeded(self) -> str:
        """What to say when the time is used up."""
        return f"it was stopped after {self.seconds:g} s, its limit (limits.wall)"
