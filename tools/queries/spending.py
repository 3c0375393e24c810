"""The budgets of queries: what they have used, and what happens when that is too much."""

from __future__ import annotations

import json
from typing import Any

from quarterdeck.storage.runs.base import Agent, Query

from ..agents.budget import Amounts, Ledger, refuse_if_used_up, total, used_up
from ..agents.runners.base import WorkError

Json = Any


class Spending:
    """Compares queries, their agents and the deck with their budgets. `used` is what the query has used so far."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def check_start(self, agent: Agent, used: Amounts | None = None) -> None:
        """Raises LimitError if nothing is left for another query of the agent, or for one that has `used` some."""
        self.ledger.refuse_if_used_up()
        spent = total(agent.spent, used or {})
        refuse_if_used_up(f"agent {agent.id}", agent.budget, spent, "spawn another one, or one with a larger budget")

    def check_resume(self, query: Query, budget: Amounts, agent: Agent, used: Amounts) -> None:
        """Raises LimitError if the query would be held again at once with this budget."""
        refuse_if_used_up(f"query {query.id}", budget, used, "resume it with a larger budget")
        self.check_start(agent, used)

    def over(self, query: Query, agent: Agent, used: Amounts) -> dict[str, str]:
        """Kind -> figures of what this running query has used up, of its own, its agent's or the deck's budget."""
        return (
            used_up(self.ledger.budget, self.ledger.used())
            | used_up(agent.budget, total(agent.spent, used))
            | used_up(query.budget, used)
        )

    def take_result(self, query: Query, agent: Agent, result: Json) -> None:
        """Put the result into the row, with its size.

        Raises:
            WorkError: it is larger than what is left; its beginning is kept.
        """
        text = json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")
        left = min(
            (
                max(0, limit - (spent.get("outputBytes") or 0))
                for budget, spent in (
                    (query.budget, {}),
                    (agent.budget, agent.spent),
                    (self.ledger.budget, self.ledger.used()),
                )
                if (limit := budget.get("outputBytes")) is not None
            ),
            default=None,
        )
        query.usage = {**(query.usage or {}), "outputBytes": len(text)}
        if left is not None and len(text) > left:
            query.result = {"partial": text[: int(left)].decode("utf-8", "ignore")}
            raise WorkError(f"outputBytes: the result has {len(text)} bytes, {left:g} were left; its beginning is kept")
        query.result = result

    def settle(self, agent: Agent, used: Amounts) -> None:
        """Charge an ended query to its agent and to the deck."""
        agent.spent = total(agent.spent, used)
        self.ledger.add(used)
