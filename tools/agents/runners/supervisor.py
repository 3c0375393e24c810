"""The server's end of the supervisor (worker/supervisor.py): asks it for workers and hears how they end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from quarterdeck.storage.runs.base import ProcessId
from quarterdeck.storage.tasks import Tasks

from .. import processes
from .children import STDERR_LIMIT, Child, Exit, Order, harmless_environment, python

log = logging.getLogger(__name__)

AT_ONCE = 16  # orders without an answer; they must fit into the socket's buffer
MAX_MESSAGE = 1 << 16
END_TIMEOUT = 5.0  # seconds for a supervisor to end


def is_supported() -> bool:
    """Whether this system has child subreapers and tells who is whose child."""
    return sys.platform == "linux" and Path("/proc/thread-self/children").exists()


@dataclass(slots=True, eq=False)
class _Life:
    """What is heard of one order."""

    pid: asyncio.Future[int]
    exited: asyncio.Future[Exit]
    cleared: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Link:
    """A running supervisor and the orders of which not all has been heard."""

    process: asyncio.subprocess.Process
    socket: socket.socket
    lives: dict[int, _Life] = field(default_factory=dict[int, _Life])


class Supervisor:
    """Children that a supervisor process forks, and that do not outlive this server.

    It starts with the first child, or earlier by `warm_up`, and anew when it has died, which its children do not
    survive either.
    """

    def __init__(self, owner: ProcessId) -> None:
        """`owner` is this server; whatever it causes to run is marked as its own (processes.mark)."""
        self._owner = owner
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._clearing: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        self._ids = count(1)
        self._tasks = Tasks()

    @property
    def pid(self) -> int | None:
        """The supervisor's process, if it runs."""
        return self._link.process.pid if self._link is not None else None

    async def warm_up(self) -> None:
        """See Children.warm_up: starts the supervisor if it does not run."""
        await self._connect()

    async def start(self, order: Order, *, limit: int) -> Child:
        """See Children.start."""
        link = await self._connect()
        with ExitStack() as theirs, ExitStack() as ours:
            stdin, stdin_end = await _writer(theirs)
            ours.callback(stdin.close)
            stdout, stdout_end, stdout_transport = await _reader(limit, theirs)
            ours.callback(stdout_transport.close)
            stderr, stderr_end, stderr_transport = await _reader(STDERR_LIMIT, theirs)
            ours.callback(stderr_transport.close)
            async with self._places:
                life = self._send(link, order, [stdin_end, stdout_end, stderr_end])
                theirs.close()
                try:
                    pid = await asyncio.shield(life.pid)
                except asyncio.CancelledError:
                    life.pid.add_done_callback(_kill)
                    raise
            ours.pop_all()
        transports = (stdin.transport, stdout_transport, stderr_transport)
        return Child(pid, stdin, stdout, stderr, life.exited, life.cleared, transports)

    def _send(self, link: _Link, order: Order, pipes: list[int]) -> _Life:
        loop, number = asyncio.get_running_loop(), next(self._ids)
        message = json.dumps({"id": number, "order": order}).encode()
        socket.send_fds(link.socket, [message], pipes)
        life = link.lives[number] = _Life(loop.create_future(), loop.create_future(), loop.create_future())
        return life

    async def _connect(self) -> _Link:
        async with self._connecting:
            if self._clearing is not None:
                await asyncio.shield(self._clearing)
            if self._link is None:
                self._link = await self._begin()
            return self._link

    async def _begin(self) -> _Link:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *python("supervisor", str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    env={**harmless_environment(), **processes.mark(self._owner)},
                    start_new_session=True,  # a terminal's ^C is for the server, which ends its agents in order
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        link = _Link(process, ours)
        asyncio.get_running_loop().add_reader(ours, self._hear, link)
        return link

    def _hear(self, link: _Link) -> None:
        try:
            while data := link.socket.recv(MAX_MESSAGE):
                _take(link, json.loads(data))
        except BlockingIOError:
            return
        except OSError as exc:
            log.debug("supervisor: %s", exc)
        log.warning("the supervisor (pid %d) has ended, and its workers with it", link.process.pid)
        self._clearing = self._tasks.start(self._clear(link))
        self._let_go(link)

    def _let_go(self, link: _Link) -> None:
        """Close the socket: the supervisor, if it still runs, ends everything and itself."""
        self._link = None
        asyncio.get_running_loop().remove_reader(link.socket)
        link.socket.close()
        for life in link.lives.values():
            if not life.pid.done():
                life.pid.set_exception(OSError("the supervisor of the agents has ended"))
            if not life.exited.done():
                life.exited.set_result(Exit(None))

    async def _clear(self, link: _Link) -> None:
        """End what has survived a supervisor: its workers die with it, but not their children."""
        await self._until_ended(link)
        await processes.end_marked(self._owner)
        self._clearing = None
        for life in link.lives.values():
            life.cleared.set_result(None)

    async def _until_ended(self, link: _Link) -> None:
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await link.process.wait()
        except TimeoutError:
            log.warning("the supervisor (pid %d) has not ended what it supervises", link.process.pid)

    async def close(self) -> None:
        """End the supervisor; its children have ended before."""
        if (link := self._link) is not None:
            self._let_go(link)
            await self._until_ended(link)
        await self._tasks.close()


def _take(link: _Link, message: dict[str, Any]) -> None:
    life = link.lives[message["id"]]
    match message:
        case {"pid": pid}:
            life.pid.set_result(pid)
        case {"error": text}:
            life.pid.set_exception(OSError(text))
            del link.lives[message["id"]]
        case {"exit": code, "cpu": seconds}:
            life.exited.set_result(Exit(code, seconds))
        case _:
            life.cleared.set_result(None)
            del link.lives[message["id"]]


def _kill(pid: asyncio.Future[int]) -> None:
    """End a worker that nobody waits for any more."""
    if pid.exception() is None:
        try:
            psutil.Process(pid.result()).kill()
        except psutil.NoSuchProcess:
            return


async def _reader(limit: int, theirs: ExitStack) -> tuple[asyncio.StreamReader, int, asyncio.ReadTransport]:
    """A pipe to read from, and its other end, which is closed with `theirs`."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    theirs.callback(os.close, writing)
    reader = asyncio.StreamReader(limit, loop)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(reading, "rb", 0)
    )
    return reader, writing, transport


async def _writer(theirs: ExitStack) -> tuple[asyncio.StreamWriter, int]:
    """A pipe to write to, and its other end, which is closed with `theirs`."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    theirs.callback(os.close, reading)
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop), os.fdopen(writing, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop), reading
