"""What a small durable write costs against the bare server's echo of as many bytes, which keeps nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

import psutil

from .measure import BARE_SERVER, Figure, bare, deck, latency, rate
from .raw_client import ERAS, Era, RawClient

VALUE = "v" * 200
BLOCKS = 20
BLOCK = 100  # calls
IN_FLIGHT = 16
TARGET = 1.0  # times the echo

Calls = Iterator[Mapping[str, Any]]


def measure(folder: Path) -> list[Figure]:
    """Latency, throughput and CPU for each protocol era."""
    figures: list[Figure] = []
    for era in ERAS:
        with deck(era, folder) as ours, bare(era, folder) as peer:
            figures += _measure(era, ours, peer)
    return figures


def _measure(era: Era, ours: RawClient, peer: RawClient) -> Iterator[Figure]:
    keys = [f"{era}-{number}" for number in range((BLOCKS + 1) * BLOCK)]
    stores = ({"action": "store", "key": key, "value": VALUE} for key in keys)
    retrieves = ({"action": "retrieve", "key": key} for key in keys)
    more = ({"action": "store", "key": f"{era}-more-{number}", "value": VALUE} for number in count())
    echoes = ({"text": VALUE} for _ in count())

    store, echo = _latencies(ours, stores, peer, echoes)
    retrieve, echo_again = _latencies(ours, retrieves, peer, echoes)
    yield latency(f"store p50, {era}", store, echo, BARE_SERVER, TARGET)
    yield latency(f"retrieve p50, {era}", retrieve, echo_again, BARE_SERVER, None)

    began = _cpu(ours), _cpu(peer)
    rates, echo_rates = _rates(ours, more, peer, echoes)
    costs = [
        1e6 * (_cpu(server) - before) / (BLOCKS * BLOCK) for server, before in zip((ours, peer), began, strict=True)
    ]
    yield rate(f"store with {IN_FLIGHT} in flight, {era}", rates, echo_rates, BARE_SERVER, None)
    yield Figure(
        f"server CPU for such a store, {era}",
        f"{costs[0]:.0f} µs",
        f"{costs[1]:.0f} µs",
        BARE_SERVER,
        costs[0] / costs[1],
    )


def _latencies(ours: RawClient, calls: Calls, peer: RawClient, echoes: Calls) -> tuple[list[float], list[float]]:
    """Medians of alternating blocks; the first of each warms up."""
    medians: tuple[list[float], list[float]] = ([], [])
    for _ in range(BLOCKS + 1):
        medians[0].append(statistics.median(ours.latencies("memory_usage", islice(calls, BLOCK))))
        medians[1].append(statistics.median(peer.latencies("echo", islice(echoes, BLOCK))))
    return medians[0][1:], medians[1][1:]


def _rates(ours: RawClient, calls: Calls, peer: RawClient, echoes: Calls) -> tuple[list[float], list[float]]:
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(BLOCKS):
        rates[0].append(ours.throughput("memory_usage", islice(calls, BLOCK), IN_FLIGHT))
        rates[1].append(peer.throughput("echo", islice(echoes, BLOCK), IN_FLIGHT))
    return rates


def _cpu(server: RawClient) -> float:
    """Seconds of CPU that the server has used."""
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system
