"""Holding a worker between two steps of its work: asking, and waiting until it says that it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from .base import Outcome

RELEASE_TIMEOUT = 5.0  # seconds in which a worker that is told to go on says that it does

Seen = Literal["held", "released", "ended", "resumed"]


class Parking:
    """The conversation about one worker's holds."""

    def __init__(self, write: Callable[[Literal["hold", "release"]], None]) -> None:
        self._write = write
        self._waiting: asyncio.Future[Seen] | None = None
        self._held = False

    async def hold(self, *, at_work: bool) -> Outcome:
        """Returns once the worker stands at a safe point, has ended its work, or was told to go on meanwhile."""
        if not at_work:
            return _applied("no work goes on")
        self._waiting = asyncio.get_running_loop().create_future()
        self._write("hold")
        seen = await self._waiting
        if seen == "resumed":
            return {"status": "failed", "level": "hold", "reason": "it was resumed before it came to a boundary"}
        self._held = seen == "held"
        state = "parked" if self._held else "at the end of its work, which nobody takes before the resume"
        return _applied(state)

    async def release(self) -> Outcome:
        """Returns once a worker that stood goes on."""
        self.see("resumed")
        if not self._held:
            self._write("release")
            return _applied("running")
        self._waiting, self._held = asyncio.get_running_loop().create_future(), False
        self._write("release")
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                await self._waiting
        except TimeoutError:
            return {
                "status": "failed",
                "reason": "its worker does not say that it goes on",
                "alternatives": ["terminate"],
            }
        return _applied("running")

    def see(self, what: Seen) -> None:
        """Take what the worker said, or that its work has ended."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(what)


def _applied(state: str) -> Outcome:
    return {"status": "applied", "effectiveAt": "now", "level": "hold", "lossless": True, "observed": {"state": state}}
