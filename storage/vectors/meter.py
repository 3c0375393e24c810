"""Which tier answered searches, and how fast, by collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Tier = Literal["l1", "l2", "store"]
TIERS: tuple[Tier, ...] = ("l1", "l2", "store")
COLLECTIONS = 1000  # that are told apart; further ones only count in the whole


@dataclass(slots=True)
class Answered:
    queries: int = 0
    calls: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, queries: int, seconds: float) -> None:
        self.queries += queries
        self.calls += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)

    def shown(self, asked: int) -> dict[str, Any]:
        """Milliseconds are of the calls that this tier answered a query of, from their beginning."""
        return {
            "hits": self.queries,
            "rate": round(self.queries / asked, 4) if asked else None,
            "meanMs": round(self.seconds / self.calls * 1000, 3) if self.calls else None,
            "maxMs": round(self.longest * 1000, 3) if self.calls else None,
        }


class SearchMeter:
    def __init__(self) -> None:
        self._whole = _new()
        self._collections: dict[str, dict[Tier, Answered]] = {}

    def record(self, name: str, tier: Tier, queries: int, seconds: float) -> None:
        """That `tier` answered so many queries of a call."""
        if not queries:
            return
        self._whole[tier].add(queries, seconds)
        if name in self._collections or len(self._collections) < COLLECTIONS:
            self._collections.setdefault(name, _new())[tier].add(queries, seconds)

    def whole(self) -> Mapping[Tier, Answered]:
        return self._whole

    def of(self, name: str) -> Mapping[Tier, Answered]:
        return self._collections[name]

    def busiest(self, limit: int) -> list[str]:
        """The collections with the most queries."""

        def queries(name: str) -> int:
            return sum(answered.queries for answered in self._collections[name].values())

        return sorted(self._collections, key=queries, reverse=True)[:limit]


def _new() -> dict[Tier, Answered]:
    return {tier: Answered() for tier in TIERS}
