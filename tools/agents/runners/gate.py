"""Where work is parked: between two steps, when nothing would be lost by waiting."""

from __future__ import annotations

import asyncio

from .base import Outcome, Work


class Gate:
    """Holds work that runs inside the server. The work passes `boundary` before each request to a model and before each
    tool; `begin` and `end` mark it out."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._still = asyncio.Event()  # nothing goes on: parked, or at its end
        self._still.set()
        self._steps = 0  # that go on beside each other

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def begin(self) -> None:
        """A step has begun."""
        self._steps += 1
        self._still.clear()

    def end(self) -> None:
        """A step has ended."""
        self._steps -= 1
        if not self._steps:
            self._still.set()

    async def boundary(self, work: Work, *, spends: bool = False) -> None:
        """Wait, as one of the steps, until the gate is open and, for a request that `spends`, the budget allows it."""
        self.end()
        try:
            if spends:
                await work.before_request()
            await self._open.wait()
        finally:
            self.begin()

    async def pause(self) -> Outcome:
        """Close the gate; returns when every step stands at it, or when it was opened again."""
        self._open.clear()
        opened = asyncio.create_task(self._open.wait())
        still = asyncio.create_task(self._still.wait())
        try:
            await asyncio.wait([opened, still], return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            still.cancel()
        if self.is_open or opened.done():  # in the latter case another pause has closed it again
            return {"status": "failed", "level": "hold", "reason": "it was resumed before it came to a boundary"}
        return {
            "status": "applied",
            "effectiveAt": "now",
            "level": "hold",
            "lossless": True,
            "observed": {"state": "parked"},
        }

    def resume(self) -> Outcome:
        """Open the gate."""
        self._open.set()
        return {"status": "applied", "effectiveAt": "now", "level": "hold", "lossless": True}
