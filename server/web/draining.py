"""Ending in good order: what was begun is answered, and streams that would go on for ever end at once."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .doors import STREAM


class Draining:
    """ASGI middleware: once it is told to end, every event stream that is open by a GET learns that its client is gone.

    All else has an end of its own, a download too, and gets the time for it.
    """

    def __init__(self, app: ASGIApp, ending: asyncio.Event) -> None:
        self._app = app
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        is_stream, is_open = asyncio.Event(), False

        async def stream_is_to_end() -> None:
            await is_stream.wait()
            await self._ending.wait()

        async def receive_or_end() -> Message:
            ending, message = asyncio.ensure_future(stream_is_to_end()), asyncio.ensure_future(receive())
            try:
                await asyncio.wait((ending, message), return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                ending.cancel()
                message.cancel()

        async def send_on(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "http.response.start" and _is_stream(message):
                is_stream.set()
            is_open = message["type"] == "http.response.start" or bool(message.get("more_body"))
            await send(message)

        await self._app(scope, receive_or_end, send_on)
        if is_open and is_stream.is_set() and self._ending.is_set():
            await send({"type": "http.response.body", "body": b""})


def _is_stream(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith(STREAM)
