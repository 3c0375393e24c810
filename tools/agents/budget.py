"""What queries, agents and the whole deck may use up: tokens, US dollars, seconds of work, bytes of results.

An amount that nobody reports is unknown, and an unknown amount is never over a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import Field

from quarterdeck.storage.errors import LimitError

from ..arguments import Arguments

Amounts = Mapping[str, float | None]
"""By the wire's names: tokens, usd, wallSeconds, outputBytes."""

KINDS = ("tokens", "usd", "wallSeconds", "outputBytes")
PAUSES = ("tokens", "usd")
"""Kinds that hold a query when they are used up, since a larger budget lets it go on; the others end it."""


class Budget(Arguments):
    """Limits as a client gives them; what is left out is not limited."""

    tokens: int | None = Field(None, ge=1)
    usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    wall_seconds: float | None = Field(None, gt=0, allow_inf_nan=False, description="of work, pauses left out")
    output_bytes: int | None = Field(None, ge=1, description="of results")

    def amounts(self) -> dict[str, float]:
        return self.model_dump(by_alias=True, exclude_none=True)


def total(*parts: Amounts) -> dict[str, float]:
    """The sum of each kind, as far as it is known."""
    known = {kind: [amount for part in parts if (amount := part.get(kind)) is not None] for kind in KINDS}
    return {kind: sum(amounts) for kind, amounts in known.items() if amounts}


def used_up(budget: Amounts, spent: Amounts) -> dict[str, str]:
    """The kinds that have reached their limit, with the figures: `12.5 of 10`."""
    return {
        kind: f"{used:g} of {limit:g}"
        for kind in KINDS
        if (limit := budget.get(kind)) is not None and (used := spent.get(kind)) is not None and used >= limit
    }


def figures(over: Mapping[str, str]) -> str:
    """What `used_up` found, as text: `tokens 12.5 of 10`."""
    return ", ".join(f"{kind} {figure}" for kind, figure in over.items())


def refuse_if_used_up(who: str, budget: Amounts, spent: Amounts, instead: str) -> None:
    """Raises LimitError with the figures, and what to do `instead`."""
    if over := used_up(budget, spent):
        raise LimitError(f"{who} has used up its budget ({figures(over)}): {instead}", usedUp=over)


class Ledger:
    """What this server's agents have used since its start, against the budget of the deck."""

    def __init__(self, budget: Amounts) -> None:
        self.budget = budget
        self.spent: Amounts = {}  # by ended queries
        self.running: Callable[[], Iterable[Amounts]] = tuple  # what each live query has used; their manager tells

    def add(self, amounts: Amounts) -> None:
        self.spent = total(self.spent, amounts)

    def used(self) -> Amounts:
        """What ended and live queries have used."""
        return total(self.spent, *self.running())

    def refuse_if_used_up(self) -> None:
        """Raises LimitError."""
        refuse_if_used_up("the deck", self.budget, self.used(), "raise QUARTERDECK_BUDGET_… and restart the server")
