"""A client of pipes and hand-made JSON lines: it costs so little that what is measured is the server.

Requests are encoded before the clock starts and answers decoded after it has stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Self

Era = Literal["legacy", "modern"]
"""`legacy` shakes hands with `initialize`; `modern` asks `server/discover` and sends an envelope with every call."""

ERAS: tuple[Era, ...] = ("legacy", "modern")

CLIENT = {"name": "bench", "version": "1"}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
GREETING: dict[Era, tuple[str, dict[str, Any]]] = {
    "legacy": ("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}),
    "modern": ("server/discover", {"_meta": ENVELOPE}),
}
READ_SIZE = 1 << 20
START_LIMIT = 60.0  # seconds


class ServerFailedError(Exception):
    """The server ended, refused or did not answer."""


class RawClient:
    """One server process. Entering starts it and waits for its first answer."""

    def __init__(
        self,
        command: Sequence[str | Path],
        era: Era,
        *,
        environment: Mapping[str, str],
        errors: Path,
        cwd: Path | None = None,
    ) -> None:
        """`environment` is added to ours; `errors` takes the server's stderr; `cwd` is its working directory.

        Whatever calls the server raises ServerFailedError.
        """
        self._command = command
        self._era: Era = era
        self._environment = {**os.environ, **environment}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
        self._errors = errors
        self._cwd = cwd
        self._last_id = 0
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self.startup = 0.0
        """Seconds from the start of the process to the answer of its first request."""

    def __enter__(self) -> Self:
        method, params = GREETING[self._era]
        greeting = self._encode(method, params)
        with self._errors.open("ab") as errors:
            began = perf_counter()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                cwd=self._cwd,
                bufsize=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to_server = self._process.stdin.fileno()
        self._from_server = self._process.stdout.fileno()
        try:
            with self.time_limit(START_LIMIT):
                os.write(self._to_server, greeting)
                answer = self._read_line()
            self.startup = perf_counter() - began
            _result(answer)
            if self._era == "legacy":
                os.write(self._to_server, b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the pipes as a client does, and wait for the server's end."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @contextmanager
    def time_limit(self, seconds: float) -> Generator[None]:
        """Kill a server that takes longer, which fails the call that waits for it."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def latencies(self, tool: str, calls: Iterable[Mapping[str, Any]]) -> list[float]:
        """Make the calls one after the other; seconds from each call's write to the end of its answer."""
        requests = [self._encode_call(tool, arguments) for arguments in calls]
        answers: list[bytes] = []
        seconds: list[float] = []
        for request in requests:
            began = perf_counter()
            os.write(self._to_server, request)
            answers.append(self._read_line())
            seconds.append(perf_counter() - began)
        _check(answers)
        return seconds

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Make one call and return its structured answer."""
        os.write(self._to_server, self._encode_call(tool, arguments))
        answer = self._read_line()
        _check([answer])
        structured: dict[str, Any] = _result(answer)["structuredContent"]
        return structured

    def throughput(self, tool: str, calls: Iterable[Mapping[str, Any]], in_flight: int) -> float:
        """Make the calls, at most `in_flight` unanswered at any time; calls per second.

        The unanswered ones must fit into the pipe (64 KiB), since nothing is read while one is written.
        """
        requests = deque(self._encode_call(tool, arguments) for arguments in calls)
        count = len(requests)
        answers: list[bytes] = []
        began = perf_counter()
        for _ in range(min(in_flight, count)):
            os.write(self._to_server, requests.popleft())
        while len(answers) < count:
            answers.append(self._read_line())
            if requests:
                os.write(self._to_server, requests.popleft())
        seconds = perf_counter() - began
        _check(answers)
        return count / seconds

    def _encode_call(self, tool: str, arguments: Mapping[str, Any]) -> bytes:
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if self._era == "modern":
            params["_meta"] = ENVELOPE
        return self._encode("tools/call", params)

    def _encode(self, method: str, params: Mapping[str, Any]) -> bytes:
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        return json.dumps(request, separators=(",", ":")).encode() + b"\n"

    def _read_line(self) -> bytes:
        while not self._lines:
            chunk = os.read(self._from_server, READ_SIZE)
            if not chunk:
                raise ServerFailedError(f"the server ended: {self._errors.read_text(errors='replace')[-2000:]}")
            *whole, self._buffer = (self._buffer + chunk).split(b"\n")
            self._lines.extend(filter(_is_answer, whole))
        return self._lines.popleft()


def _is_answer(line: bytes) -> bool:
    """Not a notification, nor claude-flow's error to one of ours, which has no id."""
    return b'"method":' not in line[:40] and b'"id":' in line


def _check(answers: Iterable[bytes]) -> None:
    """Only calls that were served count."""
    for answer in answers:
        result = _result(answer)
        if result.get("isError"):
            raise ServerFailedError(f"the tool refused: {result}")


def _result(answer: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(answer)
    if "result" not in message:
        raise ServerFailedError(f"not an answer: {message}")
    result: dict[str, Any] = message["result"]
    return result
