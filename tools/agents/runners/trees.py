"""Pausing and resuming a process tree, as the outcome of a control."""

from __future__ import annotations

import psutil

from quarterdeck.storage.runs.base import ProcessId

from .. import processes
from .base import Outcome, Usage


async def pause(root: psutil.Process) -> Outcome:
    """Freeze the tree: SIGSTOP for every member, applied once all are stopped and their CPU time stands still."""
    frozen = await processes.freeze(root)
    if frozen is None:
        return {
            "status": "failed",
            "level": "freeze",
            "lossless": True,
            "reason": "the process tree did not come to a standstill; it was continued",
            "alternatives": ["terminate"],
        }
    if not frozen.pids:
        return {"status": "failed", "reason": "its process has ended"}
    return {
        "status": "applied",
        "effectiveAt": "now",
        "level": "freeze",
        "lossless": True,
        "observed": {"pids": frozen.pids, "state": "stopped", "cpuSeconds": round(frozen.cpu_seconds, 3)},
    }


async def resume(root: psutil.Process) -> Outcome:
    """Continue the tree: applied once nobody is left stopped."""
    if not await processes.thaw(root):
        return {"status": "failed", "reason": "the process tree stayed stopped", "alternatives": ["terminate"]}
    return {
        "status": "applied",
        "effectiveAt": "now",
        "level": "freeze",
        "lossless": True,
        "observed": {"pids": [member.pid for member in processes.tree(root)], "state": "running"},
    }


def usage_of(process: ProcessId | None) -> Usage | None:
    """What the tree below that process uses, whichever server started it; None if it does not run on this machine."""
    root = processes.find(process) if process is not None else None
    return usage(root) if root is not None else None


def usage(root: psutil.Process) -> Usage:
    """What the tree uses."""
    members = processes.tree(root)
    return Usage(processes.cpu_seconds(members), processes.memory_bytes(members))
