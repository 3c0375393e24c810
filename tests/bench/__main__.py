"""`python -m tests.bench`: every figure, measured now, beside its target; exit code 1 if a target is missed."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from . import control, memory, memory_scale, spawn, startup, store, tracker, uploads, vector_cache, vectors
from .measure import Figure

BENCHES: dict[str, Callable[[Path], list[Figure]]] = {
    "startup": startup.measure,
    "store": store.measure,
    "memory": memory.measure,
    "memory_scale": memory_scale.measure,
    "spawn": spawn.measure,
    "tracker": tracker.measure,
    "uploads": uploads.measure,
    "control": control.measure,
    "vectors": vectors.measure,
    "vector_cache": vector_cache.measure,
}
LARGE: dict[str, Callable[[Path], list[Figure]]] = {"vectors": vectors.measure_large}  # minutes, gigabytes
COLUMNS = ("measure", "ours", "theirs", "they are", "ratio", "target", "ok")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--only", choices=list(BENCHES), metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument(
        "--large", action="store_true", help=f"and what takes minutes and gigabytes: {', '.join(LARGE)}"
    )
    asked = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}, mcp {version('mcp')}, {_load()}\n"
        "Ratio: the time ours takes by the time theirs takes (0.5 is half), measured in turns in one run: the median\n"
        "over neighbouring turns (those without p50 and CPU: of the whole run), steadier than the medians beside it.\n"
    )
    figures: list[Figure] = []
    for name in [asked.only] if asked.only else BENCHES:
        for benches in (BENCHES, LARGE) if asked.large else (BENCHES,):
            if name in benches:
                with tempfile.TemporaryDirectory(prefix="quarterdeck-bench-") as folder:
                    figures += benches[name](Path(folder))
    print(_table([COLUMNS, *map(_row, figures)]))
    print(f"\nat the end: {_load()}")
    return 0 if all(figure.is_met for figure in figures) else 1


def _load() -> str:
    return f"load average {os.getloadavg()[0]:.1f}"


def _row(figure: Figure) -> tuple[str, ...]:
    target, verdict = "", ""
    if figure.target is not None:
        target, verdict = f"<= {figure.target:g}", "yes" if figure.is_met else "MISSED"
    ratio = f"{figure.ratio:.2f}" if figure.ratio >= 0.1 else f"{figure.ratio:.2g}"
    return (figure.measure, figure.ours, figure.theirs, figure.peer, ratio, target, verdict)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
