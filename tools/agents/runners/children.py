"""Child processes that agents run in, and the two ways to start one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from quarterdeck.storage.runs.base import ProcessId

from .. import processes

PASSED_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")
"""What every worker gets of the server's environment: nothing secret, nothing that changes what it does."""

LOGIN_ENVIRONMENT = ("HOME", "USER", "LOGNAME", "SHELL")
"""What programs of the user's own find their login and their settings by."""

if sys.platform == "win32":  # where hardly a program starts without these
    PASSED_ENVIRONMENT += ("TEMP", "TMP", "PATHEXT", "COMSPEC")
    LOGIN_ENVIRONMENT += ("USERPROFILE", "USERNAME", "APPDATA", "LOCALAPPDATA", "HOMEDRIVE", "HOMEPATH")

STDERR_LIMIT = 1 << 16  # bytes of stderr held at a time

Order = Mapping[str, Any]
"""What to run, as worker/launch.py reads it."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: its exit code, negative for a signal, and the CPU seconds that it and its children used.
    None is unknown."""

    code: int | None
    cpu_seconds: float | None = None


@dataclass(slots=True, eq=False)
class Child:
    """A process with its three pipes. `exited` is told once it has ended; `cleared` once nothing is left of what it
    had started either, where the platform lets us know."""

    pid: int
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    exited: asyncio.Future[Exit]
    cleared: asyncio.Future[None]
    transports: tuple[asyncio.BaseTransport, ...]

    def close(self) -> None:
        """Close the pipes."""
        for transport in self.transports:
            transport.close()


class Children(Protocol):
    """Starts processes for agents."""

    async def start(self, order: Order, *, limit: int) -> Child:
        """Start one; `limit` is the longest line of its stdout in bytes, and half of what is held of it unread.

        Raises:
            OSError: it could not be started.
        """
        ...

    async def warm_up(self) -> None:
        """Make the next start fast. Raises OSError."""
        ...

    async def close(self) -> None:
        """Let go of what they were started with; they have ended before."""
        ...


def harmless_environment(*also: str) -> dict[str, str]:
    """Those of PASSED_ENVIRONMENT and `also` that are set."""
    return {name: os.environ[name] for name in (*PASSED_ENVIRONMENT, *also) if name in os.environ}


def python(module: str, *arguments: str) -> list[str]:
    """The command of `agents.worker.<module>.main(*arguments)`: this interpreter, isolated, standard library only."""
    tools = str(Path(__file__).resolve().parents[2])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        f"from agents.worker.{module} import main; sys.exit(main(*sys.argv[2:]))"
    )
    return [sys.executable, "-I", "-S", "-E", "-u", "-c", code, tools, *arguments]


class Subprocesses:
    """One new interpreter for each, where there is no supervisor (macOS, Windows).

    What loses its parent is out of the reach of pause and terminate; it is ended with the server, by its mark, or at
    the start of the next one.
    """

    def __init__(self, owner: ProcessId) -> None:
        """`owner` is this server; whatever it causes to run is marked as its own (processes.mark)."""
        self._owner = owner

    async def start(self, order: Order, *, limit: int) -> Child:
        """See Children.start."""
        loop = asyncio.get_running_loop()
        pipe = asyncio.subprocess.PIPE
        transport, pipes = await loop.subprocess_exec(
            lambda: _Pipes(limit, loop),
            *python("launch", json.dumps(order)),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={**harmless_environment(), **processes.mark(self._owner)},
            # A terminal's ^C is for the server, which ends its agents in order; Windows knows groups, not sessions.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        assert pipes.stdin is not None  # noqa: S101  all three are pipes
        assert pipes.stdout is not None  # noqa: S101
        assert pipes.stderr is not None  # noqa: S101
        return Child(
            transport.get_pid(), pipes.stdin, pipes.stdout, pipes.stderr, pipes.exited, pipes.cleared, (transport,)
        )

    async def warm_up(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        """End what its agents have left behind."""
        await processes.end_marked(self._owner)


class _Pipes(asyncio.subprocess.SubprocessStreamProtocol):
    """The three pipes, and the end of the process itself: asyncio's `Process.wait` goes on waiting for whoever else
    holds a pipe."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.cleared: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101
        self._process = transport

    def process_exited(self) -> None:
        super().process_exited()
        if not self.exited.done():
            self.exited.set_result(Exit(self._process.get_returncode()))
            self.cleared.set_result(None)
