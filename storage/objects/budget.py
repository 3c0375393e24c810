"""How much of many files is in memory at once."""

from __future__ import annotations

import asyncio
from io import BytesIO


class MemoryBudget:
    """Bytes that are lent and given back, in the order in which they are asked for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._turn = asyncio.Lock()  # fair: a large request is not passed over for ever by small ones
        self._freed = asyncio.Event()
        self.spare: list[BytesIO] = []
        """Large buffers to be used again: where they are freed and made anew, malloc keeps ever more for itself."""

    async def take(self, size: int) -> None:
        """Wait until `size` bytes are free; more than there are at all counts as all of them."""
        async with self._turn:
            while self._free < min(size, self._size):
                self._freed.clear()
                await self._freed.wait()
            self._free -= min(size, self._size)

    def give_back(self, size: int) -> None:
        self._free += min(size, self._size)
        self._freed.set()
