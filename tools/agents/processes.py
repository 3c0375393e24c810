"""Process trees: who belongs to one, stopping it so that it provably stands still, and ending it.

A signal is a request; what `/proc` (through psutil) says afterwards is the answer.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil

from quarterdeck.storage.runs.base import ProcessId

STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
STILLNESS = 0.02  # seconds over which CPU time must not grow; two ticks of the kernel's clock
_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return str(round(psutil.boot_time()))


def _started(process: psutil.Process) -> float:
    return round(process.create_time() - psutil.boot_time(), 2)


def identify(pid: int) -> ProcessId:
    """Name a running process for good. Raises psutil.NoSuchProcess."""
    return ProcessId(socket.gethostname(), _boot(), pid, _started(psutil.Process(pid)))


def find(process: ProcessId) -> psutil.Process | None:
    """The very process that `identify` named, if it still runs on this machine."""
    if (process.host, process.boot) != (socket.gethostname(), _boot()):
        return None
    with contextlib.suppress(*_GONE):
        found = psutil.Process(process.pid)
        if abs(_started(found) - process.started) < 0.05 and found.status() != psutil.STATUS_ZOMBIE:
            return found
    return None


def tree(root: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants, parents first."""
    members = [root]
    with contextlib.suppress(*_GONE):
        members += root.children(recursive=True)
    return members


def cpu_seconds(members: Iterable[psutil.Process]) -> float:
    """CPU time that the processes have used, user and system."""
    total = 0.0
    for member in members:
        with contextlib.suppress(*_GONE):
            times = member.cpu_times()
            total += times.user + times.system
    return total


def memory_bytes(members: Iterable[psutil.Process]) -> int:
    """Resident memory of the processes together."""
    total = 0
    for member in members:
        with contextlib.suppress(*_GONE):
            total += member.memory_info().rss
    return total


@dataclass(frozen=True, slots=True)
class Frozen:
    """What was seen of a stopped tree: it stood still from `cpu_seconds` on."""

    pids: list[int]
    cpu_seconds: float


def _all_still(members: Iterable[psutil.Process]) -> bool:
    for member in members:
        with contextlib.suppress(*_GONE):
            if member.status() not in STILL:
                return False
    return True


async def freeze(root: psutil.Process, deadline: float = 2.0) -> Frozen | None:
    """Stop the whole tree, root first so that nothing new is forked behind us, and see that it stands still.

    Returns None, with everything running again, if that was not seen within `deadline` seconds.
    """
    stopped: set[int] = set()
    with anyio.move_on_after(deadline):
        while True:
            members = tree(root)
            new = [member for member in members if member.pid not in stopped]
            for member in new:
                with contextlib.suppress(*_GONE):
                    member.suspend()
                    stopped.add(member.pid)
            if not new and _all_still(members):
                before = cpu_seconds(members)
                await anyio.sleep(STILLNESS)
                if {m.pid for m in tree(root)} <= stopped and cpu_seconds(members) == before:
                    return Frozen(sorted(stopped), before)
            await anyio.sleep(0.001)
    await thaw(root)
    return None


async def thaw(root: psutil.Process, deadline: float = 2.0) -> bool:
    """Continue the whole tree, children first, and see that nobody is left stopped."""
    with anyio.move_on_after(deadline):
        while True:
            members = tree(root)
            for member in reversed(members):
                with contextlib.suppress(*_GONE):
                    member.resume()
            if not any(_is_stopped(member) for member in members):
                return True
            await anyio.sleep(0.001)
    return False


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except _GONE:
        return False


async def end(root: psutil.Process, grace: float) -> None:
    """Ask the whole tree to end (SIGTERM), wait `grace` seconds, kill what is left; returns when nobody is."""
    members = tree(root)
    for member in members:
        with contextlib.suppress(*_GONE):
            member.terminate()
            member.resume()  # a stopped process takes the signal only when it goes on
    deadline = anyio.current_time() + grace
    while left := _alive(members + [p for m in members for p in tree(m)]):
        if anyio.current_time() >= deadline:
            for member in left:
                with contextlib.suppress(*_GONE):
                    member.kill()
        await anyio.sleep(0.005)


def _alive(members: Iterable[psutil.Process]) -> list[psutil.Process]:
    alive: list[psutil.Process] = []
    for member in members:
        with contextlib.suppress(*_GONE):
            if member.is_running() and member.status() != psutil.STATUS_ZOMBIE:
                alive.append(member)
    return alive
