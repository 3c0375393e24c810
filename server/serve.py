"""Serving one client over stdio until it leaves or a signal asks to end."""

from __future__ import annotations

import logging
import signal
import sys

import anyio

from .app import DeckServer
from .config import Settings, unknown_variables
from .deck import open_deck

log = logging.getLogger(__name__)


async def serve_stdio(settings: Settings) -> None:
    """Open the deck, serve, end every agent in grace.

    Raises:
        StorageError: the data directory or a store in it cannot be used.
    """
    for name in unknown_variables():
        log.warning("%s is set but means nothing here", name)
    async with open_deck(settings) as deck:
        server = DeckServer(deck)
        async with anyio.create_task_group() as group:
            if sys.platform != "win32":
                group.start_soon(_end_on_signal, group.cancel_scope)
            await server.run_stdio_async()
            group.cancel_scope.cancel()


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            log.info("%s: ending", received.name)
            scope.cancel()
            return
