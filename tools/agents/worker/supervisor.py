"""The supervisor: a small process that forks the workers, and outlives its server by as long as it takes to end them.

It is a child subreaper: a process of the tree that loses its parent becomes a child of the supervisor, whatever
sessions and double forks lie between, so "no child is left" means that nothing is left. It never starts a thread, as
forking beside threads is not safe. Linux only.

The server holds the other end of a `SOCK_SEQPACKET` socket; every message is one JSON datagram. From the server:

    {"id": n, "order": object}      fork a worker (launch.py); its stdin, stdout and stderr come along (SCM_RIGHTS)

To the server:

    {"id": n, "pid": n}             it runs ...
    {"id": n, "error": text}        ... or why there is none
    {"id": n, "exit": code, "cpu": seconds}     it has ended: exit code, negative for a signal; what it and those of its
                                    children that it waited for have used
    {"id": n, "clear": true}        and nothing that it started is left
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time

from .launch import CANNOT_RUN, launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

GRACE = 0.5  # seconds from SIGTERM to SIGKILL for what has lost its worker or its server
CHASE = 0.005  # seconds between two looks at what is to end
PATIENCE = 10.0  # seconds of that; whoever survives SIGKILL for so long (a dead disk) is looked after every CALM
CALM = 0.5
MAX_MESSAGE = 1 << 18
OPEN_FILES = 64  # more than this process ever has

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def main(descriptor: str) -> int:
    """Serve the server at the other end of the socket; returns the exit code when it is gone and so is everything."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the end of the socket is the only order to end
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # what is shared with the workers stays shared
    supervisor = Supervisor(socket.socket(fileno=int(descriptor)))
    try:
        supervisor.serve()
    finally:
        supervisor.end_all()
    return 0


class Supervisor:
    """The parent of all workers of one server."""

    def __init__(self, server: socket.socket) -> None:
        self._pid = os.getpid()
        self._server = server
        self._workers: dict[int, int] = {}  # process -> id of its order
        self._ended: list[int] = []  # ids of workers whose children may not have ended yet
        self._warned: set[int] = set()  # orphans that were sent SIGTERM
        self._deadline: float | None = None  # when they are killed
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork and reap until the server is gone: the end of the socket, or any error of it."""
        poller = select.poll()
        poller.register(self._server, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        try:
            while True:
                pause = self._pause()
                ready = [number for number, _ in poller.poll(None if pause is None else pause * 1000)]
                if self._woken in ready:
                    os.read(self._woken, 4096)
                if self._server.fileno() in ready and not self._take_order():
                    return
                self._reap()
                self._end_orphans()
        except OSError:
            return

    def end_all(self) -> None:
        """End everything, workers too; returns when no child is left."""
        self._server.close()
        self._workers.clear()
        self._ended.clear()
        self._deadline = None  # those who lose their server now have their own grace
        while self._reap():
            self._end_orphans()
            time.sleep(self._pause() or CHASE)

    def _pause(self) -> float | None:
        """Seconds until the next look at what is to end; None if there is nothing."""
        if self._deadline is None:
            return None
        return CHASE if time.monotonic() < self._deadline + PATIENCE else CALM

    def _take_order(self) -> bool:
        """Returns False when the server is gone."""
        data, pipes, _, _ = socket.recv_fds(self._server, MAX_MESSAGE, 3)
        if not data:
            return False
        message = json.loads(data)
        try:
            pid = os.fork()
        except OSError as exc:
            self._tell(id=message["id"], error=f"cannot start a process: {exc.strerror}")
        else:
            if pid == 0:
                self._become_worker(message["order"], pipes)
            self._workers[pid] = message["id"]
            self._tell(id=message["id"], pid=pid)
        for descriptor in pipes:
            os.close(descriptor)
        return True

    def _become_worker(self, order: dict[str, Any], pipes: list[int]) -> NoReturn:
        code = CANNOT_RUN
        try:
            for number, descriptor in enumerate(pipes):
                os.dup2(descriptor, number)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.closerange(3, OPEN_FILES)
            os.setsid()
            # What its children leave behind stays in its own tree, where pause and terminate reach it.
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == self._pid:  # else the supervisor died before that was set
                code = launch(order)
        except BaseException as exc:  # noqa: BLE001  nothing of the supervisor's own may run in a worker
            sys.excepthook(type(exc), exc, exc.__traceback__)
        finally:
            os._exit(code)

    def _reap(self) -> bool:
        """Take note of those that have ended; returns whether any child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._warned.discard(pid)
            if (order := self._workers.pop(pid, None)) is not None:
                self._ended.append(order)
                cpu = round(usage.ru_utime + usage.ru_stime, 6)
                self._tell(id=order, exit=os.waitstatus_to_exitcode(status), cpu=cpu)

    def _end_orphans(self) -> None:
        """Go on ending what workers left behind: SIGTERM, and after the grace SIGKILL; say so when nothing is left."""
        orphans = [pid for pid in _children(self._pid) if pid not in self._workers]
        if not orphans:
            self._deadline = None
            self._warned.clear()
            while self._ended:
                self._tell(id=self._ended.pop(), clear=True)
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + GRACE
        for pid in orphans:  # grows by their descendants, parents first
            orphans += _children(pid)
        if time.monotonic() >= self._deadline:
            for pid in orphans:
                _signal(pid, signal.SIGKILL)
            return
        for pid in orphans:
            if pid not in self._warned:
                self._warned.add(pid)
                _signal(pid, signal.SIGTERM)
                _signal(pid, signal.SIGCONT)  # a stopped process takes it only when it goes on

    def _tell(self, **message: Any) -> None:
        self._server.send(json.dumps(message).encode())


def _do_nothing(_number: int, _frame: object) -> None:
    """A signal without a handler would not write to the wake-up descriptor."""


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError:  # it has ended, or has become another user's
        return


def _children(pid: int) -> list[int]:
    """The children of all threads of the process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  pathlib would cost every start
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:  # noqa: PTH123
                found += map(int, file.read().split())
    except OSError:  # it has ended
        return found
    return found
