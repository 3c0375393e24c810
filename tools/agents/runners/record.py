"""What a built-in worker has done so far, as the deck saw it: the answers to its commands `status` and `report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import psutil

from .. import processes
from .base import Json, Outcome, unknown_command

COMMANDS = ("status", "report")


class Record:
    """Notes of the present work. They come from the pipe, so that they are true of a frozen worker too."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Work begins."""
        self._calls: Counter[str] = Counter()
        self._refused = 0
        self._progress: dict[str, Json] | None = None

    def note_progress(self, report: dict[str, Json]) -> None:
        self._progress = report

    def note_call(self, tool: str, arguments: Mapping[str, Any], *, refused: bool) -> None:
        action = arguments.get("action")
        self._calls[f"{tool} {action}" if isinstance(action, str) else tool] += 1
        self._refused += refused

    def run(self, command: str, root: psutil.Process) -> Outcome:
        """`status`: its processes now; `report`: how far it is, and its calls into the deck.

        Raises:
            InvalidArgumentError: another command.
        """
        if command == "status":
            members = processes.tree(root)
            observed: dict[str, Json] = {
                "processes": [{"pid": member.pid, "state": _state(member)} for member in members],
                "cpuSeconds": round(processes.cpu_seconds(members), 3),
                "memoryBytes": processes.memory_bytes(members),
                "progress": self._progress,
            }
        elif command == "report":
            observed = {"progress": self._progress, "calls": dict(self._calls), "callsRefused": self._refused}
        else:
            raise unknown_command(command, COMMANDS)
        return {"status": "applied", "effectiveAt": "now", "observed": observed}


def _state(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return "ended"
