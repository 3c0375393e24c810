"""What a benchmark reports: a ratio between two things that ran side by side, never a time alone."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from .raw_client import Era, RawClient

BARE_SERVER = "bare server"
NOTHING: Mapping[str, str] = MappingProxyType({})
BARE = [sys.executable, str(Path(__file__).with_name("bare_server.py"))]
DECK = [sys.executable, "-m", "quarterdeck.server", "serve"]


@dataclass(frozen=True, slots=True)
class Figure:
    """Ours against a peer's, and the ratio that a target bounds from above."""

    measure: str
    ours: str
    theirs: str
    peer: str
    ratio: float
    target: float | None = None

    @property
    def is_met(self) -> bool:
        return self.target is None or self.ratio <= self.target


def median_ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """Median of the ratios of neighbours: what slows the machine for a while slows both."""
    return statistics.median(our / peer for our, peer in zip(ours, peers, strict=True))


def latency(measure: str, ours: Sequence[float], theirs: Sequence[float], peer: str, target: float | None) -> Figure:
    """Seconds of a call, a figure for each turn."""
    return Figure(measure, _micros(ours), _micros(theirs), peer, median_ratio(ours, theirs), target)


def rate(measure: str, ours: Sequence[float], theirs: Sequence[float], peer: str, target: float | None) -> Figure:
    """Calls a second, a figure for each turn; the ratio is of the time that a call takes."""
    return Figure(measure, _a_second(ours), _a_second(theirs), peer, median_ratio(theirs, ours), target)


def _micros(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e6:,.0f} µs"


def _a_second(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f}/s"


def deck(era: Era, folder: Path, environment: Mapping[str, str] = NOTHING) -> RawClient:
    """The deck's server on the data directory `folder/data`."""
    return _client(DECK, era, folder, {"QUARTERDECK_DATA_DIR": str(folder / "data"), **environment})


def bare(era: Era, folder: Path) -> RawClient:
    """The peer."""
    return _client(BARE, era, folder, {})


def _client(command: Sequence[str], era: Era, folder: Path, environment: Mapping[str, str]) -> RawClient:
    return RawClient(command, era, environment=environment, errors=folder / "stderr")
