"""Serving one client over stdio until it leaves or a signal asks to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable

import anyio

from .app import DeckServer
from .config import Settings, unknown_variables
from .deck import open_deck
from .telemetry import telemetry

log = logging.getLogger(__name__)


async def serve_stdio(settings: Settings) -> None:
    """Open the deck, serve, end every agent in grace.

    Raises:
        StorageError: the data directory or a store in it cannot be used.
    """
    for name in unknown_variables():
        log.warning("%s is set but means nothing here", name)
    async with telemetry(settings), open_deck(settings) as deck:
        server = DeckServer(deck)
        with anyio.CancelScope() as scope:
            end_on_signal(scope.cancel)
            await server.run_stdio_async()


def end_on_signal(end_serving: Callable[[], None]) -> None:
    """A signal ends the serving, not the closing that follows: clients close stdin and soon afterwards send SIGTERM.

    The same signal a second time ends the process at once.
    """
    loop = asyncio.get_running_loop()

    def end(received: signal.Signals) -> None:
        log.info("%s: ending", received.name)
        end_serving()
        loop.remove_signal_handler(received)
        signal.signal(received, signal.SIG_DFL)

    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end, number)
