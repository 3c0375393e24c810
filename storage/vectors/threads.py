"""The threads in which a vector store works: two for searches and writes, one of its own for building.

So neither a search nor a commit ever waits for that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..tasks import Tasks
from .reader import Reader
from .sqlite import PointDatabase
from .writer import Writer

T = TypeVar("T")

WORKERS = 2


class Threads:
    def __init__(self, database: PointDatabase) -> None:
        self.stop = threading.Event()  # set: nothing more is to be built
        self.tasks = Tasks()  # what was begun goes to its end: nothing that it locks or writes is left half-way
        self._database = database
        self._workers = ThreadPoolExecutor(WORKERS, "vectors")
        self._builders = ThreadPoolExecutor(1, "vectors-build")
        self._writing = asyncio.Lock()

    async def close(self) -> None:
        """Stop building, and let running work end."""
        self.stop.set()
        await self.tasks.close()
        self._workers.shutdown()
        self._builders.shutdown()

    async def write(self, change: Callable[[Writer], T]) -> T:
        """One transaction."""

        def in_thread() -> T:
            with self._database.write() as writer:
                return change(writer)

        return await self.alone(in_thread)

    async def alone(self, work: Callable[[], T]) -> T:
        """Run what writes, one at a time."""

        async def in_turn() -> T:
            async with self._writing:
                return await self.run(work)

        return await self.tasks.finish(in_turn())

    async def read(self, read: Callable[[Reader], T]) -> T:
        def in_thread() -> T:
            with self._database.read() as reader:
                return read(reader)

        return await self.tasks.finish(self.run(in_thread))

    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def run_build(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._builders, work)
