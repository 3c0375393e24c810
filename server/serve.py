"""Serving one client over stdio until it leaves or a signal asks to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable

from .app import DeckServer
from .config import Settings, unknown_variables
from .deck import open_deck
from .telemetry import telemetry

log = logging.getLogger(__name__)

LEAVE_TIMEOUT = 3.0  # seconds for what is under way on stdio to end after a signal
ENDING = [signal.SIGTERM, signal.SIGINT]
if sys.platform == "win32":
    ENDING.append(signal.SIGBREAK)  # a closed console


async def serve_stdio(settings: Settings) -> None:
    """Open the deck, serve, end every agent in grace.

    Raises:
        StorageError: the data directory or a store in it cannot be used.
    """
    for name in unknown_variables():
        log.warning("%s is set but means nothing here", name)
    async with telemetry(settings), open_deck(settings) as deck:
        told = asyncio.Event()
        end_on_signal(told.set)
        serving = asyncio.create_task(DeckServer(deck).run_stdio_async())
        ending = asyncio.create_task(told.wait())
        await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not serving.done():
            serving.cancel()
            await asyncio.wait([serving], timeout=LEAVE_TIMEOUT)
    if not serving.done():
        os._exit(0)  # where the SDK reads (app.py), a thread of it waits for the client, and nothing wakes it
    if not serving.cancelled():
        serving.result()


def end_on_signal(end_serving: Callable[[], None]) -> None:
    """A signal ends the serving, not the closing that follows: clients close stdin and soon afterwards send SIGTERM.

    The same signal a second time ends the process at once.
    """
    loop = asyncio.get_running_loop()

    def end(received: signal.Signals) -> None:
        log.info("%s: ending", received.name)
        end_serving()
        if sys.platform != "win32":
            loop.remove_signal_handler(received)
        signal.signal(received, signal.SIG_DFL)

    for number in ENDING:
        if sys.platform != "win32":
            loop.add_signal_handler(number, end, number)
        else:  # its loops take no signals
            signal.signal(number, lambda received, _: loop.call_soon_threadsafe(end, signal.Signals(received)))
