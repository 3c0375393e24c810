"""The budgets of queries: what they have used, and what happens when that is too much."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.runs.base import Agent, Query

from ..agents.budget import Amounts, Ledger, refuse_if_used_up, total, used_up
from ..agents.runners.base import WorkError

Json = Any


class Spending:
    """Compares queries, their agents and the deck with their budgets."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def of(self, query: Query) -> Amounts:
        """What the query has used so far."""
        active = query.active_ms(self._clock.now())
        return {**(query.usage or {}), "wallSeconds": None if active is None else active / 1000}

    def check_start(self, agent: Agent) -> None:
        """Raises LimitError if nothing is left for another query of the agent."""
        self._ledger.refuse_if_used_up()
        refuse_if_used_up(
            f"agent {agent.id}", agent.budget, agent.spent, "spawn another one, or one with a larger budget"
        )

    def check_resume(self, query: Query, agent: Agent) -> None:
        """Raises LimitError if the query would be held again at once."""
        refuse_if_used_up(f"query {query.id}", query.budget, self.of(query), "resume it with a larger budget")
        self.check_start(agent)

    def over(self, query: Query, agent: Agent, running: Iterable[Query]) -> dict[str, str]:
        """Kind -> figures of what this running query has used up, of its own, its agent's or the deck's budget."""
        now = self.of(query)
        return (
            used_up(self._ledger.budget, total(self._ledger.spent, *map(self.of, running)))
            | used_up(agent.budget, total(agent.spent, now))
            | used_up(query.budget, now)
        )

    def take_result(self, query: Query, agent: Agent, result: Json) -> None:
        """Put the result into the row, with its size.

        Raises:
            WorkError: it is larger than what is left; its beginning is kept.
        """
        text = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")
        query.usage = {**(query.usage or {}), "outputBytes": len(text)}
        left = min(
            (
                limit - (spent.get("outputBytes") or 0)
                for budget, spent in (
                    (query.budget, {}),
                    (agent.budget, agent.spent),
                    (self._ledger.budget, self._ledger.spent),
                )
                if (limit := budget.get("outputBytes")) is not None
            ),
            default=None,
        )
        if left is not None and len(text) > left:
            query.result = {"partial": text[: int(left)].decode("utf-8", "ignore")}
            raise WorkError(f"outputBytes: the result has {len(text)} bytes, {left:g} were left; its beginning is kept")
        query.result = result

    def settle(self, query: Query, agent: Agent) -> None:
        """Charge an ended query to its agent and to the deck."""
        spent = self.of(query)
        agent.spent = total(agent.spent, spent)
        self._ledger.add(spent)
