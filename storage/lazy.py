"""Opening a costly part on its first use, once, however many callers ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OnFirstUse(Generic[T]):
    """Awaiting a call gives the part; a failed opening is tried again at the next call."""

    def __init__(self, opener: Callable[[], Awaitable[T]]) -> None:
        self._opener = opener
        self._lock = asyncio.Lock()
        self._part: T | None = None

    @property
    def opened(self) -> T | None:
        """The part if somebody has used it."""
        return self._part

    async def __call__(self) -> T:
        if self._part is None:
            async with self._lock:
                if self._part is None:
                    self._part = await self._opener()
        return self._part
