"""Work that goes on when the call that asked for it is cancelled, and whose defects reach the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from .errors import DeckError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """The background tasks of one service."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background."""
        task = self._begin(work)
        task.add_done_callback(_log_defect)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and return its result; a caller that is cancelled leaves it running to its end."""
        task = self._begin(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_defect)
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Wait until nothing runs any more."""
        while self._running:
            await asyncio.wait(self._running)


def _log_defect(task: asyncio.Task[Any]) -> None:
    """Nobody waits for this task (any more); a refusal was meant for its caller and is of no interest to others."""
    if not task.cancelled() and (exc := task.exception()) is not None and not isinstance(exc, DeckError):
        log.error("background work failed", exc_info=exc)
