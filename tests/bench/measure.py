"""What a benchmark reports: a ratio between two things that ran side by side, never a time alone."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .raw_client import Era, RawClient

BARE = [sys.executable, str(Path(__file__).with_name("bare_server.py"))]
DECK = [sys.executable, "-m", "quarterdeck.server", "serve"]


@dataclass(frozen=True, slots=True)
class Figure:
    """Ours against the peer, and the ratio that a target bounds from above."""

    measure: str
    ours: str
    peer: str
    ratio: float
    target: float | None = None

    @property
    def is_met(self) -> bool:
        return self.target is None or self.ratio <= self.target


def median_ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """Median of the ratios of neighbours: what slows the machine for a while slows both."""
    return statistics.median(our / peer for our, peer in zip(ours, peers, strict=True))


def deck(era: Era, folder: Path) -> RawClient:
    """The deck's server on the data directory `folder/data`."""
    return _client(DECK, era, folder, {"QUARTERDECK_DATA_DIR": str(folder / "data")})


def bare(era: Era, folder: Path) -> RawClient:
    """The peer."""
    return _client(BARE, era, folder, {})


def _client(command: Sequence[str], era: Era, folder: Path, environment: Mapping[str, str]) -> RawClient:
    return RawClient(command, era, environment=environment, errors=folder / "stderr")
