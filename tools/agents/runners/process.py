"""The `process` runner: a worker subprocess that speaks JSON lines over its pipes (worker/protocol.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import psutil

from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.runs.base import ProcessId

from .. import processes
from .base import (
    AgentDiedError,
    AgentSpec,
    CallDeck,
    Json,
    Outcome,
    Usage,
    Work,
    WorkCancelledError,
    WorkError,
)

log = logging.getLogger(__name__)

PROTOCOL = 1
READY_TIMEOUT = 20.0  # seconds; a loaded machine may need many times the usual 20 ms
MAX_LINE = 32 << 20  # bytes of one message from a worker
STDERR_TAIL = 4096  # bytes; the last words of a worker explain its end
DRAIN_TIMEOUT = 1.0  # seconds to read what an ended worker has left in its pipes (a child of it may hold them open)
PASSED_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")

_TOOLS = Path(__file__).resolve().parents[2]
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from agents.worker.main import main; sys.exit(main(sys.argv[1]))"
)


class ProcessRunner:
    """Starts workers of the built-in types: this interpreter, isolated, standard library only."""

    async def start(self, spec: AgentSpec, call: CallDeck) -> ProcessAgent:
        """See Runner.start."""
        loop = asyncio.get_running_loop()
        transport, pipes = await loop.subprocess_exec(
            lambda: _Pipes(loop),
            sys.executable, "-I", "-S", "-E", "-u", "-c", _BOOTSTRAP, str(_TOOLS), spec.type,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ},
            start_new_session=True,  # a terminal's ^C is for the server, which ends its agents in order
        )  # fmt: skip
        try:
            agent = ProcessAgent(transport, pipes, call)
        except psutil.Error:  # it has ended already
            await pipes.exited
            transport.close()
            raise AgentDiedError(_describe_exit(transport.get_returncode() or 0, b"")) from None
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                await agent.begin(spec)
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                await agent.end(grace=0)
            if isinstance(exc, TimeoutError):
                raise AgentDiedError(f"not ready within {READY_TIMEOUT:g} s") from None
            raise
        return agent


class _Pipes(asyncio.subprocess.SubprocessStreamProtocol):
    """The three pipes, and the end of the process itself: asyncio's `Process.wait` goes on waiting for whoever else
    holds a pipe."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=MAX_LINE, loop=loop)
        self.exited: asyncio.Future[None] = loop.create_future()

    def process_exited(self) -> None:
        super().process_exited()
        if not self.exited.done():
            self.exited.set_result(None)


class ProcessAgent:
    """A worker process and the conversation with it."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes, call: CallDeck) -> None:
        """Raises psutil.NoSuchProcess if it has ended already."""
        self._identity = processes.identify(transport.get_pid())
        self._root = psutil.Process(transport.get_pid())
        assert pipes.stdin is not None  # noqa: S101  all three are pipes
        assert pipes.stdout is not None  # noqa: S101
        assert pipes.stderr is not None  # noqa: S101
        self._stdin, self._stdout, self._stderr = pipes.stdin, pipes.stdout, pipes.stderr
        self._transport, self._exited = transport, pipes.exited
        self._call = call
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._work: Work | None = None
        self._done: asyncio.Future[Json] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._last_words = b""
        self._broken: str | None = None
        self._readers = [asyncio.create_task(self._listen()), asyncio.create_task(self._collect_stderr())]
        self._ended = asyncio.create_task(self._watch())

    @property
    def process(self) -> ProcessId:
        return self._identity

    async def begin(self, spec: AgentSpec) -> None:
        """Introduce the agent and wait until it is ready. Raises AgentDiedError."""
        await self._send(
            type="start",
            protocol=PROTOCOL,
            agentId=spec.id,
            agentType=spec.type,
            name=spec.name,
            folder=spec.folder,
            capabilities=list(spec.capabilities),
        )
        await self._ready

    async def run(self, work: Work) -> Json:
        """See AgentHandle.run."""
        if self._ended.done():
            raise AgentDiedError(self._ended.result())
        self._work, self._done = work, asyncio.get_running_loop().create_future()
        try:
            await self._send(type="task", id=work.id, prompt=work.prompt)
            return await self._done
        finally:
            self._work = self._done = None

    async def cancel(self, work_id: str) -> None:
        self._write(type="cancel", id=work_id)  # without waiting: a frozen agent takes nothing from its pipe

    async def pause(self) -> Outcome:
        """Freeze the tree: SIGSTOP for every member, applied once all are stopped and their CPU time stands still."""
        frozen = await processes.freeze(self._root)
        if frozen is None:
            return {
                "status": "failed",
                "level": "freeze",
                "lossless": True,
                "reason": "the process tree did not come to a standstill; it was continued",
                "alternatives": ["terminate"],
            }
        return {
            "status": "applied",
            "effectiveAt": "now",
            "level": "freeze",
            "lossless": True,
            "observed": {"pids": frozen.pids, "state": "stopped", "cpuSeconds": round(frozen.cpu_seconds, 3)},
        }

    async def resume(self) -> Outcome:
        if not await processes.thaw(self._root):
            return {"status": "failed", "reason": "the process tree stayed stopped", "alternatives": ["terminate"]}
        pids = [member.pid for member in processes.tree(self._root)]
        return {
            "status": "applied",
            "effectiveAt": "now",
            "level": "freeze",
            "lossless": True,
            "observed": {"pids": pids, "state": "running"},
        }

    async def end(self, grace: float) -> None:
        await processes.end(self._root, grace)
        await self.wait()

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    def usage(self) -> Usage | None:
        if self._exited.done():
            return None
        members = processes.tree(self._root)
        return Usage(processes.cpu_seconds(members), processes.memory_bytes(members))

    def _write(self, **message: Any) -> None:
        self._stdin.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    async def _send(self, **message: Any) -> None:
        """Write one message; a closed pipe is noticed by `_watch`, which knows the reason."""
        self._write(**message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._stdin.drain()

    async def _listen(self) -> None:
        """Take the worker's messages until it ends or says something that is none."""
        try:
            while line := await self._stdout.readline():
                self._take(json.loads(line))
        except (ValueError, LookupError, TypeError, RecursionError) as exc:  # no JSON, too long or deep, no such field
            self._broken = f"the worker broke the protocol: {exc}"
            await processes.end(self._root, grace=0)

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "ready":
                if message["protocol"] != PROTOCOL:
                    raise ValueError(f"protocol {message['protocol']} instead of {PROTOCOL}")
                if not self._ready.done():
                    self._ready.set_result(None)
            case "call":
                task = asyncio.create_task(self._serve(message["id"], message["tool"], message["arguments"]))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            case "progress" | "result" | "error" | "cancelled" as kind:
                self._take_work(kind, message)
            case kind:
                raise ValueError(f"unknown message type {kind!r}")

    def _take_work(self, kind: str, message: dict[str, Any]) -> None:
        work, done = self._work, self._done
        if work is None or done is None or message["id"] != work.id or done.done():
            return  # the last words of work that was given up
        if kind == "progress":
            work.on_progress({key: message.get(key) for key in ("done", "total", "message")})
        elif kind == "result":
            done.set_result(message["result"])
        elif kind == "error":
            done.set_exception(WorkError(message["error"]))
        else:
            done.set_exception(WorkCancelledError(work.id))

    async def _serve(self, call_id: Any, tool: str, arguments: dict[str, Any]) -> None:
        try:
            await self._send(type="reply", id=call_id, result=await self._call(tool, arguments))
        except DeckError as exc:
            await self._send(type="reply", id=call_id, error=exc.message)
        except Exception:  # the top of a background task: the worker waits for an answer
            log.exception("call of %s by agent process %d", tool, self._identity.pid)
            await self._send(type="reply", id=call_id, error=f"{tool}: an internal error; the server's log has it")

    async def _collect_stderr(self) -> None:
        while chunk := await self._stderr.read(STDERR_TAIL):
            self._last_words = (self._last_words + chunk)[-STDERR_TAIL:]

    async def _watch(self) -> str:
        """Wait for the end of the process, then tell whoever waits for something from it."""
        await self._exited
        _, unfinished = await asyncio.wait(self._readers, timeout=DRAIN_TIMEOUT)
        for task in (*unfinished, *self._calls):
            task.cancel()
        reason = self._broken or _describe_exit(self._transport.get_returncode() or 0, self._last_words)
        for waiter in (self._ready, self._done):
            if waiter is not None and not waiter.done():
                waiter.set_exception(AgentDiedError(reason))
        self._transport.close()
        return reason


def _describe_exit(code: int, last_words: bytes) -> str:
    how = f"the worker was ended by signal {-code}" if code < 0 else f"the worker exited with code {code}"
    lines = last_words.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{how}: {last[:500]}" if code > 0 and last else how
