"""A deck in the process of the test: what a client of it sees is what a server of its own would show, without the two
seconds of a processor that its start takes. For tests in which no server dies, is looked at from outside or has a log.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, chdir
from pathlib import Path
from unittest import mock

from mcp import Client

from quarterdeck.server.app import DeckServer
from quarterdeck.server.client import DeckClient
from quarterdeck.server.config import load_settings
from quarterdeck.server.deck import open_deck


class DeckHere(DeckClient):
    """See DeckClient; its environment and its folder are those of the test until the end."""

    async def start(self) -> None:
        """Open the deck and connect. Raises DeckError."""
        async with AsyncExitStack() as stack:
            stack.enter_context(chdir(self._parameters.cwd or Path.cwd()))
            stack.enter_context(mock.patch.dict(os.environ, self._parameters.env or {}))
            deck = await stack.enter_async_context(open_deck(load_settings()))
            self._client = await stack.enter_async_context(Client(DeckServer(deck), mode=self._era))
            self._stack = stack.pop_all()  # unless that failed, which has put all back

    @property
    def stderr(self) -> str:
        raise AssertionError("what a deck logs in the process of the test is in caplog")
