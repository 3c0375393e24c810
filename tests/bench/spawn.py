"""How long agents take from the call to READY, their rows on disk: through a raw client, real workers.

Beside each: the bound that is wanted on two quiet cores, the same agents one call after the other, and as many bare
`python -I -S -E`, which do nothing but say that they are there.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from .measure import Figure, deck, median_ratio
from .raw_client import RawClient

ROUNDS = 15
BOUNDS = {5: 60, 10: 100}  # agents of one call -> milliseconds
AT_ONCE, AT_ONCE_BOUND = 50, 500  # calls of one agent each, all sent before the first is answered
SAY_READY = "import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"


def measure(folder: Path) -> list[Figure]:
    """Three figures each for 5 and 10 agents in one call and for 50 calls at once."""
    figures: list[Figure] = []
    with deck("legacy", folder) as server:
        for count, bound in BOUNDS.items():
            call = _call(count)
            figures += _compare(
                server,
                f"{count} agents, one call",
                count,
                bound,
                lambda call=call: sum(server.latencies("agents_spawn_parallel", [call])),
            )
        calls = [_call(1) for _ in range(AT_ONCE)]
        figures += _compare(
            server,
            f"{AT_ONCE} calls at once, one agent each",
            AT_ONCE,
            AT_ONCE_BOUND,
            lambda: AT_ONCE / server.throughput("agents_spawn_parallel", calls, AT_ONCE),
        )
    return figures


def _call(agents: int) -> Mapping[str, Any]:
    return {"agents": [{"type": "researcher", "name": f"a{number}"} for number in range(agents)]}


def _compare(server: RawClient, what: str, count: int, bound: int, spawn: Callable[[], float]) -> list[Figure]:
    ours: list[float] = []
    in_turn: list[float] = []
    bare: list[float] = []
    for _ in range(ROUNDS + 1):
        for run, seconds in ((spawn, ours), (lambda: _one_by_one(server, count), in_turn)):
            seconds.append(run())
            server.latencies("agents_stop", [{"all": True, "grace": 1}])
        bare.append(_start_bare(count))
    ours, in_turn, bare = ours[1:], in_turn[1:], bare[1:]  # the first started the supervisor
    shown, median = f"{statistics.median(ours) * 1000:.0f} ms", statistics.median(ours)
    return [
        Figure(what, shown, f"{bound} ms", "the bound", median * 1000 / bound, 1.0),
        Figure(what, shown, f"{statistics.median(in_turn) * 1000:.0f} ms", "one by one", median_ratio(ours, in_turn)),
        Figure(what, shown, f"{statistics.median(bare) * 1000:.0f} ms", "bare python", median_ratio(ours, bare)),
    ]


def _one_by_one(server: RawClient, count: int) -> float:
    return sum(server.latencies("agents_spawn_parallel", [_call(1)] * count))


def _start_bare(count: int) -> float:
    """Seconds until all of so many interpreters, started together, have said that they are there."""
    command = [sys.executable, "-I", "-S", "-E", "-c", SAY_READY]
    with ExitStack() as stack:
        began = perf_counter()
        started = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0))
            for _ in range(count)
        ]
        for process in started:
            assert process.stdout is not None
            process.stdout.read(1)
        return perf_counter() - began
