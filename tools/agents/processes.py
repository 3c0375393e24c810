"""Process trees: who belongs to one, stopping it so that it provably stands still, and ending it.

A signal is a request; what `/proc` (through psutil) says afterwards is the answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil

from quarterdeck.storage.runs.base import ProcessId

from .worker.launch import MARK

log = logging.getLogger(__name__)

STILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
STILLNESS = 0.002  # seconds over which CPU time must not grow, where the scheduler counts it in nanoseconds ...
COARSE_STILLNESS = 0.02  # ... and where only the kernel's ticks tell: two of them
KILL_PATIENCE = 10.0  # seconds after which a process that does not die of SIGKILL is left to the system
_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)  # gone, or not ours any more


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


def has_ended(process: ProcessId) -> bool:
    """Whether it is known to run no more; of another host's processes nothing is known."""
    return process.host == socket.gethostname() and find(process) is None


def mark(owner: ProcessId) -> dict[str, str]:
    """The environment variable by which `marked` finds what a server caused to run."""
    return {MARK: f"{owner.host} {owner.boot} {owner.pid} {owner.started}"}


def marked(owner: ProcessId) -> list[psutil.Process]:
    """All processes of this user and machine that carry the server's mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            if mark(owner).items() <= process.environ().items() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def end_marked(owner: ProcessId) -> None:
    """End whatever still carries the server's mark, and what those start meanwhile."""
    tried: set[psutil.Process] = set()
    while left := set(marked(owner)) - tried:
        for process in left:
            await end(process, grace=0)
        tried |= left


def tree(root: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants, parents first."""
    pids = [root.pid]
    try:
        for pid in pids:
            pids += _children(pid)
    except OSError:  # not Linux: psutil looks at every process of the machine, which takes its time
        with contextlib.suppress(*_GONE):
            return [root, *root.children(recursive=True)]
        return [root]
    members = [root]
    for pid in pids[1:]:
        with contextlib.suppress(*_GONE):
            members.append(psutil.Process(pid))
    return members


def _children(pid: int) -> list[int]:
    """The children that any thread of the process has started. Raises OSError where the kernel does not tell."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  names, not paths
    except OSError:
        if not Path("/proc/self/task").is_dir():
            raise
        return []
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split())
        except OSError:
            if not Path("/proc/thread-self/children").exists():
                raise
    return found


def cpu_seconds(members: Iterable[psutil.Process]) -> float:
    """CPU time that the processes have used, user and system."""
    total = 0.0
    for member in members:
        with contextlib.suppress(*_GONE):
            times = member.cpu_times()
            total += times.user + times.system
    return total


def _run_time(members: Iterable[psutil.Process]) -> int:
    """Nanoseconds that all their threads have run, as the scheduler counts; 0 where the kernel does not tell."""
    total = 0
    for member in members:
        with contextlib.suppress(OSError):  # gone, or not Linux
            for thread in os.listdir(f"/proc/{member.pid}/task"):  # noqa: PTH208  names, not paths
                counts = Path(f"/proc/{member.pid}/task/{thread}/schedstat").read_text(encoding="ascii")
                total += int(counts.split()[0])
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
                before, spent = _run_time(members), cpu_seconds(members)
                await anyio.sleep(STILLNESS if before else COARSE_STILLNESS)
                still = _run_time(members) == before and cpu_seconds(members) == spent
                if still and {member.pid for member in tree(root)} <= stopped:
                    return Frozen(sorted(stopped), spent)
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
    """Ask the whole tree to end (SIGTERM), wait `grace` seconds, kill what is left; returns when nobody is, or when
    the system has not let go of a killed process for too long."""
    members = tree(root)
    for member in members:
        with contextlib.suppress(*_GONE):
            member.terminate()
            member.resume()  # a stopped process takes the signal only when it goes on
    deadline = anyio.current_time() + grace
    while left := _alive(members + [p for m in members for p in tree(m)]):
        if anyio.current_time() >= deadline + KILL_PATIENCE:
            log.warning("processes %s outlive SIGKILL", [member.pid for member in left])
            return
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
