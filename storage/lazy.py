"""Opening a costly or unreliable part on its first use, once, however many callers ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OnFirstUse(Generic[T]):
    """Awaiting a call gives the part. A failed opening fails all who wait for it; the next call tries again."""

    def __init__(self, opener: Callable[[], Awaitable[T]]) -> None:
        self._opener = opener
        self._opening: asyncio.Task[T] | None = None
        self._part: T | None = None

    @property
    def opened(self) -> T | None:
        """The part if somebody has used it."""
        return self._part

    async def __call__(self) -> T:
        if self._part is None:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
                self._opening.add_done_callback(_take_note)
            return await asyncio.shield(self._opening)  # a caller that is cancelled does not end it for the others
        return self._part

    async def _open(self) -> T:
        try:
            self._part = await self._opener()
            return self._part
        finally:
            self._opening = None


def _take_note(opening: asyncio.Task[T]) -> None:
    """Its callers may all be gone: nobody else would ask for the error."""
    if not opening.cancelled():
        opening.exception()
