"""HTTP/1.1 with little patience: who sends nothing or takes nothing is let go, so that the places are for others."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from the first byte, or the connection, to the end of a request's head
BODY_SECONDS = 90.0  # in which so much of a body comes, or its end; the doors themselves are told of no byte at all
BODY_BYTES = 16 << 10
WRITE_SECONDS = 30.0  # in which a client takes what waits for it


class PatientProtocol(H11Protocol):
    """uvicorn's own has a limit for idle connections alone."""

    _read: asyncio.TimerHandle | None = None
    _reads: Any = None  # the state of h11 that the timer belongs to
    _write: asyncio.TimerHandle | None = None
    _received = 0  # bytes since the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does that by itself only where the listener was made by asyncio; without it an answer of two packets
        # waits 40 ms for the client to acknowledge the first.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for_more()

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        self._wait_for_more()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:  # of a request that came with the one before
            self._wait_for_more()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._read, self._write):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _wait_for_more(self) -> None:
        """The time runs on from the first byte of a head or body, however many more come one by one."""
        state = self.conn.their_state
        if state is self._reads:
            return
        if self._read is not None:
            self._read.cancel()
        self._read, self._reads, self._received = None, state, 0
        if state is h11.IDLE:
            self._read = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        elif state is h11.SEND_BODY:
            self._read = self.loop.call_later(BODY_SECONDS, self._check_body)

    def _check_body(self) -> None:
        if self.conn.their_state is not h11.SEND_BODY:
            return
        if self._received < BODY_BYTES and not self.flow.read_paused:
            self.transport.abort()
            return
        self._received = 0
        self._read = self.loop.call_later(BODY_SECONDS, self._check_body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write is not None:
            self._write.cancel()
            self._write = None
