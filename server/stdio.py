"""The stdio transport without threads: the event loop reads and writes the pipes itself.

The SDK's transport hops to a thread for every readline, write and flush, which is most of the cost of a small call.
This one serves where both descriptors are pipes or sockets; elsewhere (Windows, files, terminals) the SDK's does.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, jsonrpc_message_adapter
from pydantic import ValidationError

MAX_LINE = 64 << 20  # bytes; a longer message is answered with an error and skipped
PAUSE_AT = 4 << 20  # bytes of unread lines at which reading stops until they are taken
ID_WINDOW = 4096  # bytes at either end of an unreadable message in which its id is looked for

_HEAD_ID = re.compile(rb'^\s*\{(?:(?!"params").)*?"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.)*")', re.DOTALL)
_TAIL_ID = re.compile(rb'"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.)*")\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


def can_serve_pipes() -> bool:
    """Whether both standard descriptors are something that the event loop can wait for."""
    try:
        both = [os.fstat(fd) for fd in (0, 1)]
    except OSError:
        return False
    if os.path.samestat(*both):  # one socket: asyncio would take what the client sends for the end of its reading
        return False
    return all(stat.S_ISFIFO(one.st_mode) or stat.S_ISSOCK(one.st_mode) for one in both)


class _Stream:
    """What the SDK asks of both directions beside reading and writing: a lifetime that the transport owns."""

    async def aclose(self) -> None:
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        return None


class PipeWriter(_Stream, asyncio.BaseProtocol):
    """Sends messages; waits while the client does not read."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._writable = asyncio.Event()
        self.on_lost: Callable[[], None] = lambda: None  # called when the client has closed its end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  connect_write_pipe made it
        self._transport = transport
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._writable.set()
        self.on_lost()

    def write(self, line: bytes) -> None:
        """Queue one line.

        Raises:
            anyio.BrokenResourceError: the client has closed its end.
        """
        if self._transport is None or self._transport.is_closing():
            raise anyio.BrokenResourceError
        self._transport.write(line)

    async def send(self, item: SessionMessage, /) -> None:
        """Send one message; returns once the client keeps up. Raises as `write` does."""
        self.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
        await self._writable.wait()

    async def finish(self) -> None:
        """Wait until everything is with the client or the client is gone, and close; whoever is cancelled meanwhile
        gives up what is left."""
        transport = self._transport
        if transport is None:
            return
        transport.set_write_buffer_limits(high=0)  # from now on writable means empty
        try:
            await self._writable.wait()
        finally:
            if not transport.is_closing():
                transport.abort()


class PipeReader(_Stream, asyncio.Protocol):
    """Yields messages straight out of the pipe's chunks; answers what cannot be read as a message."""

    def __init__(self, writer: PipeWriter, max_line: int = MAX_LINE) -> None:
        self._writer = writer
        self._max_line = max_line
        self._transport: asyncio.ReadTransport | None = None
        self._lines: deque[bytes] = deque()
        self._buffered = 0
        self._partial = bytearray()
        self._dropped = 0  # bytes of the current line that were too many to keep
        self._eof = False
        self._paused = False
        self._arrival: asyncio.Future[None] | None = None
        writer.on_lost = self._stop  # a client that takes no answers is gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)  # noqa: S101  connect_read_pipe made it
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._extend(data[start:end])
            self._end_line()
            start = end + 1
        self._extend(data[start:])
        if self._buffered > PAUSE_AT and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._lines:
            self._wake()

    def _extend(self, piece: bytes) -> None:
        self._partial += piece
        if len(self._partial) > self._max_line or self._dropped:
            # Keep the ends, where the id is; the middle is of no use any more.
            excess = len(self._partial) - 2 * ID_WINDOW
            if excess > 0:
                del self._partial[ID_WINDOW : ID_WINDOW + excess]
                self._dropped += excess

    def _end_line(self) -> None:
        line = bytes(self._partial)
        self._partial.clear()
        if self._dropped:
            size, self._dropped = self._dropped + len(line), 0
            self._refuse(line, INVALID_REQUEST, f"message of {size} bytes is over the limit of {self._max_line}")
        elif line and not line.isspace():
            self._lines.append(line)
            self._buffered += len(line)

    def _refuse(self, line: bytes, code: int, message: str) -> None:
        found = _HEAD_ID.search(line[:ID_WINDOW]) or _TAIL_ID.search(line[-ID_WINDOW:])
        try:
            request_id = json.loads(found[1]) if found else None
        except ValueError:
            request_id = None
        answer = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
        with suppress(anyio.BrokenResourceError):  # the end of the client is told by `_stop`
            self._writer.write(json.dumps(answer).encode() + b"\n")

    def eof_received(self) -> None:
        self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._stop()

    def _stop(self) -> None:
        self._eof = True
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def receive(self) -> SessionMessage | Exception:
        """Next message. Raises anyio.EndOfStream at the client's end."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    async def __anext__(self) -> SessionMessage | Exception:
        while True:
            while not self._lines:
                if self._eof:
                    raise StopAsyncIteration
                self._arrival = asyncio.get_running_loop().create_future()
                await self._arrival
            line = self._lines.popleft()
            self._buffered -= len(line)
            if self._paused and self._buffered <= PAUSE_AT // 2 and self._transport is not None:
                self._paused = False
                self._transport.resume_reading()
            try:
                return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
            except ValidationError:
                self._refuse(line, PARSE_ERROR, "not a JSON-RPC message in one line of UTF-8")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def pipe_streams(max_line: int = MAX_LINE) -> AsyncGenerator[tuple[PipeReader, PipeWriter]]:
    """Serve on descriptors 0 and 1. Meanwhile 0 reads nothing and 1 is stderr, so stray prints miss the wire."""
    import fcntl  # Windows, which has none, is not served here

    loop = asyncio.get_running_loop()
    wire_in, wire_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        _, writer = await loop.connect_write_pipe(PipeWriter, os.fdopen(wire_out, "wb", 0, closefd=False))
        _, reader = await loop.connect_read_pipe(
            lambda: PipeReader(writer, max_line), os.fdopen(wire_in, "rb", 0, closefd=False)
        )
        try:
            yield reader, writer
        finally:
            reader.close()
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await writer.finish()
    finally:
        for fd, wire in ((0, wire_in), (1, wire_out)):
            os.set_blocking(wire, True)
            os.dup2(wire, fd)
            os.close(wire)
