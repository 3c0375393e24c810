"""The demo's queries: what it asked of which agent, and what became of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..client import DeckClient
from .kept import pages
from .report import CheckFailedError

PATIENCE = 600.0  # seconds for a query to end: a sentence model on a busy machine takes minutes
ONE_WAIT = 30.0  # seconds of a call
POLL = 0.01  # seconds


class Queries:
    """Asks, follows and remembers."""

    def __init__(self, deck: DeckClient) -> None:
        self._deck = deck
        self._asked: dict[str, str] = {}  # query id -> agent id

    @property
    def ids(self) -> list[str]:
        """All, in the order in which they were asked."""
        return list(self._asked)

    def of(self, agent_id: str) -> list[str]:
        """Those of one agent."""
        return [query_id for query_id, asked in self._asked.items() if asked == agent_id]

    async def ask(self, agent_id: str, **prompt: Any) -> str:
        """Start one and return its id."""
        answer = await self._deck.call("query_start", agentId=agent_id, prompt=json.dumps(prompt))
        self._asked[answer["queryId"]] = agent_id
        return str(answer["queryId"])

    async def entry(self, query_id: str) -> dict[str, Any]:
        """How the server lists it."""
        entries = pages(self._deck, "query_list", "queries", includeHistory=True)
        return {entry["queryId"]: entry async for entry in entries}[query_id]

    async def wait(self, query_ids: Sequence[str], on_done: Callable[[float], None]) -> list[dict[str, Any]]:
        """Wait until all have ended; meanwhile `on_done` hears how many are done, in fractions too.

        Raises:
            CheckFailedError: one did not complete.
        """

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            del total, message
            on_done(progress)

        ids = list(query_ids)
        latest = time.monotonic() + PATIENCE
        while True:
            answer = await self._deck.call("query_wait", queryIds=ids, timeout=ONE_WAIT, on_progress=on_progress)
            if not answer["pending"] or time.monotonic() > latest:
                break
        results: list[dict[str, Any]] = answer["results"]
        for result in results:
            if result["status"] != "completed":
                raise CheckFailedError(f"{result['queryId']} ended as {result['status']}: {result['error']}")
        if answer["pending"]:
            raise CheckFailedError(f"not ended after {PATIENCE:.0f} s: {', '.join(answer['pending'])}")
        on_done(len(results))
        return results

    async def reaches(self, query_id: str, total: int) -> bool:
        """Wait until it says that a quarter of `total` steps is done; False if it completed before that was seen."""
        while (entry := await self.entry(query_id))["status"] in ("queued", "running"):
            progress = entry["progress"]
            if progress and progress["total"] == total and total / 4 <= progress["done"] < total:
                return True
            await asyncio.sleep(POLL)
        await self.wait([query_id], lambda _: None)
        return False
