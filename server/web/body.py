"""JSON bodies: their type is asked for, so that no form of another site is one, and their size has an end."""

from __future__ import annotations

from typing import Any, cast

from anyio import fail_after
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError

from .answers import refusal
from .multipart import check_form_size

JSON_BYTES = 32 << 20  # 20 uploads by content of 1 MiB each, as base64; a thousand vectors of 1,536 numbers
SECONDS = 60.0  # for all of it


async def read_arguments(request: Request) -> dict[str, Any]:
    """The JSON object in the body.

    Raises:
        DeckError: its details have the `status`: 415 it is not declared as JSON, 400 it is no JSON object, 413 it is
            too large, 408 it did not come in time.
        ClientDisconnect: the client has gone.
    """
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"application/json":
        raise InvalidArgumentError("the body must be a JSON object, with Content-Type: application/json", status=415)
    _check_size(int(request.headers.get("content-length", 0)))
    body = bytearray()
    try:
        with fail_after(SECONDS):
            async for piece in request.stream():
                body += piece
                _check_size(len(body))
    except TimeoutError:
        raise DeckError(f"the body did not come within {SECONDS:g} s: send it again", status=408) from None
    try:
        # As /mcp does, and a quarter of json's time; a thread would not free the loop, since both hold the GIL.
        arguments: Any = from_json(body, allow_inf_nan=False) if body else {}
    except ValueError as exc:
        raise InvalidArgumentError(f"the body is no JSON: {exc}", status=400) from None
    if not isinstance(arguments, dict):
        raise InvalidArgumentError("the body must be a JSON object: the arguments by their names", status=400)
    return cast("dict[str, Any]", arguments)


class BodyLimit:
    """ASGI middleware: who announces more than any door takes is refused before a byte of it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if scope["type"] == "http":
            announced = int(Headers(scope=scope).get("content-length", 0))
            try:
                (check_form_size if scope["path"] == "/api/upload" else _check_size)(announced)
            except LimitError as exc:
                app = refusal(exc, {"Connection": "close"})
        await app(scope, receive, send)


def _check_size(size: int) -> None:
    if size > JSON_BYTES:
        raise LimitError(f"the body is larger than {JSON_BYTES} bytes; files go to POST /api/upload", status=413)
