"""SIGKILL of a server in the middle of starting agents and their work: nothing of it is left ten seconds later."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

import psutil
import pytest

from quarterdeck.server.client import DeckClient
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.supervisor import is_supported
from tests.until import until

ROUNDS = 12
FORKS = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\ntime.sleep(600)\n"


@pytest.mark.slow
@pytest.mark.skipif(not is_supported(), reason="no child subreaper here")
async def test_no_moment_is_wrong_for_a_kill(tmp_path: Path) -> None:
    random_moments = random.Random(7)
    types = {"forks": {"command": [sys.executable, "-I", "-S", "-c", FORKS]}}
    deck = DeckClient(tmp_path, environment={"QUARTERDECK_AGENTS": json.dumps({"types": types})})
    wanted = [{"type": kind, "name": kind, "task": "x"} for kind in ("forks", "researcher") for _ in range(5)]
    most = 0
    async with deck:
        for _ in range(ROUNDS):
            server = processes.identify((await deck.call("server_status"))["pid"])
            calls = [
                asyncio.create_task(deck.call("agents_spawn_parallel", agents=wanted, batchSize=10)) for _ in range(3)
            ]
            await asyncio.sleep(random_moments.uniform(0, 0.3))  # any moment will do: that is the test
            most = max(most, len(psutil.Process(server.pid).children(recursive=True)))
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda server=server: processes.marked(server) == [], seconds=10)
            await deck.stop()
            await deck.start()
        agents = (await deck.call("agents_list", includeHistory=True, limit=500))["agents"]
        assert {agent["status"] for agent in agents} == {"interrupted"}
    assert most > 10  # there was something to leave behind
