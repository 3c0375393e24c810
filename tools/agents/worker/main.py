"""The worker process: one agent of a built-in type, standard library only.

The main thread works, a reader thread listens, so that a cancel, and the end of the server, are noticed in the middle
of work. (Code that holds the interpreter lock for long, such as one huge regular expression match, delays both.)
"""

from __future__ import annotations

import os
import sys
from queue import SimpleQueue
from threading import Event, Thread

from ..builtin.catalogue import TYPES
from .prompt import read_prompt
from .protocol import VERSION, ProtocolError, decode, encode, read_lines
from .task import Agent, CallError, Cancelled, PromptError, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ..builtin.base import AgentType

SERVER_GONE = 1
BROKEN_PROTOCOL = 2


def main(type_name: str) -> int:
    """Run an agent of a built-in type until the server stops it; returns the exit code (protocol.py)."""
    incoming, outgoing = take_over_stdio()
    if type_name not in TYPES:
        return _complain(f"unknown agent type {type_name!r}; built-in types: {', '.join(TYPES)}")
    return Worker(TYPES[type_name], incoming, outgoing).run()


def take_over_stdio() -> tuple[int, int]:
    """Keep the two pipes for the protocol alone: prints go to stderr, and child processes inherit neither pipe."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _complain(text: str) -> int:
    print(f"worker: {text}", file=sys.stderr)  # noqa: T201  the server keeps the last line and reports it
    return BROKEN_PROTOCOL


class Worker:
    """The conversation with the server."""

    def __init__(self, agent_type: AgentType, incoming: int, outgoing: int) -> None:
        self._type = agent_type
        self._lines = read_lines(incoming)
        self._outgoing = outgoing
        self._agent = Agent("", "", "")
        self._tasks: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # None: stop
        self._replies: SimpleQueue[dict[str, Any] | None] = SimpleQueue()  # None: look whether you are cancelled
        self._open: set[str] = set()  # the ids of the tasks that were taken and have not ended
        self._cancelled: set[str] = set()
        self._held: str | None = None  # the id of the task that is to stand at its next safe point
        self._go_on = Event()
        self._calls = 0

    def run(self) -> int:
        """Answer the start, then do tasks until told to stop; returns the exit code."""
        try:
            self._begin()
        except ProtocolError as exc:
            return _complain(str(exc))
        Thread(target=self._listen, daemon=True).start()
        while (message := self._tasks.get()) is not None:
            self._do(message["id"], message["prompt"])
        return 0

    def _begin(self) -> None:
        line = next(self._lines, None)
        if line is None:
            os._exit(SERVER_GONE)
        start = decode(line)
        if start["type"] != "start":
            raise ProtocolError(f"{start['type']} before start")
        if start["protocol"] != VERSION:
            raise ProtocolError(f"the server speaks protocol {start['protocol']}, this worker {VERSION}")
        self._agent = Agent(start["agentId"], start["name"], start["folder"])
        self._send(
            {"type": "ready", "protocol": VERSION, "capabilities": list(self._type.capabilities), "controls": ["hold"]}
        )

    def _listen(self) -> NoReturn:
        """The reader thread: it ends only together with the process."""
        code = SERVER_GONE
        try:
            for line in self._lines:
                self._take(decode(line))
        except ProtocolError as exc:
            code = _complain(str(exc))
        finally:
            os._exit(code)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "task":
            if message["id"] in self._open:
                raise ProtocolError(f"a second task {message['id']!r} while the first is not done")
            self._cancelled.discard(message["id"])  # a cancel that came too late for an earlier task of this id
            self._open.add(message["id"])
            self._tasks.put(message)
        elif kind == "cancel":
            if message["id"] in self._open:
                self._cancelled.add(message["id"])
                self._replies.put(None)
                self._go_on.set()
        elif kind == "hold":
            self._go_on.clear()
            self._held = message["id"]
        elif kind == "release":
            self._held = None
            self._go_on.set()
        elif kind == "reply":
            self._replies.put(message)
        elif kind == "stop":
            self._tasks.put(None)
        else:
            raise ProtocolError(f"a second {kind}")

    def _do(self, task_id: str, prompt: str) -> None:
        def is_cancelled() -> bool:
            return task_id in self._cancelled

        def safe_point() -> None:
            if self._held == task_id and not is_cancelled():
                self._send({"type": "held", "id": task_id})
                self._go_on.wait()
                self._send({"type": "released", "id": task_id})
            if is_cancelled():
                raise Cancelled

        def call(tool: str, arguments: dict[str, Any]) -> Any:
            return self._call(tool, arguments, is_cancelled)

        try:
            capability, fields = read_prompt(prompt, self._type)
            task = Task(task_id, fields, self._agent, self._send, call, safe_point)
            task.check()
            line = encode({"type": "result", "id": task_id, "result": capability.load()(task)})
            task.flush()
        except Cancelled:
            line = encode({"type": "cancelled", "id": task_id})
        except (PromptError, CallError) as exc:
            line = encode({"type": "error", "id": task_id, "error": str(exc)})
        except Exception as exc:  # noqa: BLE001  the top of a task: the worker outlives a defect in a capability
            sys.excepthook(type(exc), exc, exc.__traceback__)
            line = encode({"type": "error", "id": task_id, "error": f"{type(exc).__name__}: {exc}"})
        self._open.discard(task_id)
        self._write(line)

    def _call(self, tool: str, arguments: dict[str, Any], is_cancelled: Any) -> Any:
        self._calls += 1
        self._send({"type": "call", "id": self._calls, "tool": tool, "arguments": arguments})
        while True:
            reply = self._replies.get()
            if is_cancelled():
                raise Cancelled
            if reply is not None and reply["id"] == self._calls:  # else the late reply to a call that was given up
                break
        if "error" in reply:
            raise CallError(reply["error"])
        return reply["result"]

    def _send(self, message: dict[str, Any]) -> None:
        self._write(encode(message))

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._outgoing, rest) :]
        except OSError:
            os._exit(SERVER_GONE)
