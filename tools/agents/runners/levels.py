"""Levels of a pause where a session runs in processes: what both the Claude and the ACP runner do and say of them."""

from __future__ import annotations

import psutil

from . import trees
from .base import Outcome, PauseLevel
from .gate import Gate


def stopped() -> Outcome:
    """Of a change while the processes are frozen."""
    return {
        "status": "failed",
        "reason": "its processes are stopped and take nothing; resume it first",
        "alternatives": ["resume"],
    }


def interrupted(*, aborted: bool) -> Outcome:
    """Of a turn that was left; without `aborted` it had come to its end."""
    return {
        "status": "applied",
        "effectiveAt": "now",
        "level": "interrupt",
        "lossless": not aborted,
        "reason": "the turn was aborted; a resume continues the session with a new one" if aborted else None,
        "observed": {"state": "interrupted"},
    }


async def resume(level: PauseLevel | None, gate: Gate, root: psutil.Process) -> Outcome:
    """Let go on what was paused by `level`."""
    if level == "freeze":
        return await trees.resume(root)
    outcome = gate.resume()
    if level == "interrupt":
        outcome["level"], outcome["lossless"] = level, False
    return outcome
