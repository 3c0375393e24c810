"""How fast a control takes effect, seen by a raw client, and what it costs a query that controls are offered at all.

Beside each time stands its bound on two quiet cores; the throughput is that of one query with the controls and the
optimizer, and without them, in turns.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from .measure import Figure, deck, median_ratio
from .raw_client import RawClient

PAUSES = 200
ELSEWHERE = 50
TREES = 15
TREE = 20  # processes
TURNS = 9
PAUSE_BOUND, ELSEWHERE_BOUND, TERMINATE_BOUND = 20, 150, 150  # milliseconds
THROUGHPUT_TARGET = 1.02
PYTHON = [sys.executable, "-I", "-S"]
SPIN = f"import os, time\nfor _ in range({TREE - 1}): os.fork() or time.sleep(600)\nwhile True: pass"
COUNT = "import sys\nfor _ in range(int(sys.stdin.read())): pass"
ROUNDS_OF_COUNT = "60000000"
TYPES: Mapping[str, Any] = {
    "spin": {"command": [*PYTHON, "-c", SPIN]},
    "count": {"command": [*PYTHON, "-c", COUNT]},
}
OFF = {"FEATURE_QUERY_CONTROL": "false", "FEATURE_ADAPTIVE_OPT": "false"}


def measure(folder: Path) -> list[Figure]:
    """Pause here and from another server, terminate of a tree, throughput of a query."""
    types = {"QUARTERDECK_AGENTS": json.dumps({"types": TYPES})}
    with deck("legacy", folder, types) as owner, deck("legacy", folder, types) as other:
        here = _pauses(owner, owner, PAUSES)
        there = _pauses(owner, other, ELSEWHERE)
        ends = [_terminate(owner) for _ in range(TREES)]
    return [
        _against_bound("pause to standstill, p99", _p99(here), PAUSE_BOUND),
        _against_bound("the same from another server, p99", _p99(there), ELSEWHERE_BOUND),
        _against_bound(f"terminate a tree of {TREE}", statistics.median(ends), TERMINATE_BOUND),
        _throughput(folder, types),
    ]


def _start(server: RawClient, kind: str, prompt: str) -> str:
    spawned = server.call("agents_spawn_parallel", agents=[{"type": kind, "name": kind, "task": prompt}])
    query: str = spawned["results"][0]["queryId"]
    return query


def _pauses(owner: RawClient, asking: RawClient, count: int) -> list[float]:
    """Seconds of pauses of a busy tree, each followed by a resume."""
    query = _start(owner, "spin", "-")
    _until_forked(owner)
    seconds: list[float] = []
    for _ in range(count):
        seconds += asking.latencies("query_control", [{"action": "pause", "queryId": query}])
        asking.call("query_control", action="resume", queryId=query)
    owner.call("agents_stop", all=True, grace=0)
    return seconds


def _terminate(server: RawClient) -> float:
    query = _start(server, "spin", "-")
    tree = _until_forked(server)
    began = perf_counter()
    server.call("query_control", action="terminate", queryId=query)
    seconds = perf_counter() - began
    assert not psutil.wait_procs(tree, timeout=0.1)[1]  # the supervisor has buried them
    server.call("agents_stop", all=True, grace=0)
    return seconds


def _until_forked(server: RawClient) -> list[psutil.Process]:
    while True:
        tree = [one for one in psutil.Process(server.pid).children(recursive=True) if SPIN in one.cmdline()]
        if len(tree) == TREE:
            return tree


def _throughput(folder: Path, types: Mapping[str, str]) -> Figure:
    on: list[float] = []
    off: list[float] = []
    folders = [folder / "on", folder / "off"]
    for one in folders:
        one.mkdir()
    with deck("legacy", folders[0], types) as with_controls, deck("legacy", folders[1], {**types, **OFF}) as bare:
        for _ in range(TURNS + 1):
            for server, seconds in ((with_controls, on), (bare, off)):
                began = perf_counter()
                query = _start(server, "count", ROUNDS_OF_COUNT)
                server.call("query_wait", queryIds=[query], timeout=600)
                seconds.append(perf_counter() - began)
                server.call("agents_stop", all=True, grace=0)
    on, off = on[1:], off[1:]
    ours, theirs = (f"{statistics.median(seconds) * 1000:.0f} ms" for seconds in (on, off))
    return Figure("a query", ours, theirs, "without control", median_ratio(on, off), THROUGHPUT_TARGET)


def _p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def _against_bound(what: str, seconds: float, bound: float) -> Figure:
    return Figure(what, f"{seconds * 1000:.1f} ms", f"{bound:g} ms", "the bound", seconds * 1000 / bound, 1.0)
