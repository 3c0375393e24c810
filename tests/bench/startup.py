"""How long a client waits for its first answer, from the start of the process."""

from __future__ import annotations

import statistics
from pathlib import Path

from .measure import BARE_SERVER, Figure, bare, deck, median_ratio
from .raw_client import ERAS, GREETING, Era

PAIRS = 10
TARGET = 1.3  # times the bare server


def measure(folder: Path) -> list[Figure]:
    """One figure for each protocol era."""
    return [_measure(era, folder) for era in ERAS]


def _measure(era: Era, folder: Path) -> Figure:
    ours: list[float] = []
    peers: list[float] = []
    for pair in range(PAIRS + 1):
        both = [(deck, ours), (bare, peers)]
        for start, seconds in both if pair % 2 else reversed(both):
            with start(era, folder) as server:
                seconds.append(server.startup)
    # The first pair wrote bytecode, made the data directory and filled the page cache.
    ours, peers = ours[1:], peers[1:]
    return Figure(
        f"start to the answer of {GREETING[era][0]}",
        f"{statistics.median(ours) * 1000:.0f} ms",
        f"{statistics.median(peers) * 1000:.0f} ms",
        BARE_SERVER,
        median_ratio(ours, peers),
        TARGET,
    )
