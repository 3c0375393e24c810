"""A thousand agents, one after the other: the server is afterwards what it was before."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from tests.bench.raw_client import RawClient

WARM_UP = 200
ROUNDS = 1000
MORE_MEMORY = 4 << 20  # bytes that the server may have grown by; 1,000 leaked agents would be tens of megabytes


def spawn_and_stop(server: RawClient, rounds: int) -> None:
    for _ in range(rounds):
        server.latencies("agents_spawn_parallel", [{"agents": [{"type": "coder", "name": "c"}]}])
        server.latencies("agents_stop", [{"all": True}])


def state(process: psutil.Process) -> tuple[int, int, int]:
    """Open files of the server and of its supervisor, and the processes below it."""
    [supervisor] = process.children()
    return process.num_fds(), supervisor.num_fds(), len(process.children(recursive=True))


@pytest.mark.slow
def test_a_thousand_rounds_leave_files_processes_and_memory_as_they_were(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quarterdeck.server", "serve"]
    environment = {"QUARTERDECK_DATA_DIR": str(tmp_path / "data")}
    with RawClient(command, "legacy", environment=environment, errors=tmp_path / "stderr") as server:
        process = psutil.Process(server.pid)
        server.latencies("memory_usage", [{"action": "search", "query": "x"}])  # opens the database for long reads
        spawn_and_stop(server, WARM_UP)
        before, memory = state(process), process.memory_info().rss
        spawn_and_stop(server, ROUNDS)
        assert state(process) == before
        assert process.memory_info().rss - memory < MORE_MEMORY
