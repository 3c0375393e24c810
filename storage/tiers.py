"""Which tier of a cache answered, and how fast, by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Tier = Literal["l1", "l2", "l3"]
"""This process, the shared cache, and what is cached."""
TIERS: tuple[Tier, ...] = ("l1", "l2", "l3")
GROUPS = 1000  # that are told apart; further ones only count in the whole


@dataclass(slots=True)
class Answered:
    values: int = 0
    calls: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def add(self, values: int, seconds: float) -> None:
        self.values += values
        self.calls += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)


class TierMeter:
    def __init__(self) -> None:
        self._whole = _new()
        self._groups: dict[str, dict[Tier, Answered]] = {}

    def record(self, group: str, tier: Tier, values: int, seconds: float) -> None:
        """That `tier` answered so many values of a call, `seconds` after its beginning."""
        if not values:
            return
        self._whole[tier].add(values, seconds)
        if group in self._groups or len(self._groups) < GROUPS:
            self._groups.setdefault(group, _new())[tier].add(values, seconds)

    def busiest(self, limit: int) -> list[str]:
        """The groups that were asked for the most values."""
        return sorted(self._groups, key=lambda group: _asked(self._groups[group]), reverse=True)[:limit]

    def report(self, group: str | None = None) -> dict[str, Any]:
        """Rates, and times in milliseconds of the calls that a tier had a part in; null where there were none."""
        tiers = self._whole if group is None else self._groups.get(group, _new())
        asked = _asked(tiers)
        return {
            "cache_hit_rate": _ratio(asked - tiers["l3"].values, asked),
            "tiers": {tier: _shown(answered, asked) for tier, answered in tiers.items()},
        }


def _new() -> dict[Tier, Answered]:
    return {tier: Answered() for tier in TIERS}


def _asked(tiers: Mapping[Tier, Answered]) -> int:
    return sum(answered.values for answered in tiers.values())


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def _shown(answered: Answered, asked: int) -> dict[str, Any]:
    return {
        "answered": answered.values,
        "rate": _ratio(answered.values, asked),
        "meanMs": _ratio(answered.seconds * 1000, answered.calls),
        "maxMs": round(answered.longest * 1000, 4) if answered.calls else None,
    }
