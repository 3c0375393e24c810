"""The HTTP application over a deck: its doors, who may pass them, and what refusals look like."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, NotFoundError

from ..config import Settings, environment_name
from ..deck import Deck
from .access import AccessCheck
from .answers import refusal
from .api import Api
from .events import event_stream
from .headers import SecurityHeaders
from .pages import page_routes

log = logging.getLogger(__name__)


def http_app(deck: Deck) -> Starlette:
    token = deck.settings.http_token
    routes = _routes(deck)
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(AccessCheck, token=token.get_secret_value() if token else None),
        ],
        exception_handlers={
            DeckError: _refused,
            HTTPException: _no_route(routes),
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )


def _routes(deck: Deck) -> list[Route]:
    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def events(_: Request) -> Response:
        return event_stream(deck.changes, _hello(deck))

    return [*Api(deck).routes(), Route("/api/events", events), Route("/healthz", healthz), *page_routes()]


def _hello(deck: Deck) -> dict[str, object]:
    flags = {environment_name(name): getattr(deck.settings, name) for name in _flags()}
    return {
        "version": version("quarterdeck"),
        "readOnly": not deck.settings.feature_query_control,
        "flags": flags,
    }


def _flags() -> list[str]:
    return [name for name in Settings.model_fields if name.startswith("feature_")]


async def _refused(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, DeckError)  # noqa: S101  it is registered for those
    return refusal(exc)


def _no_route(routes: Sequence[Route]) -> Callable[[Request, Exception], Awaitable[Response]]:
    doors = ", ".join(
        f"{method} {route.path}" for route in routes for method in sorted(route.methods or ()) if method != "HEAD"
    )

    async def answer(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101
        text = f"{request.method} {request.url.path[:80]}: there are {doors}"
        kind = NotFoundError if exc.status_code == 404 else InvalidArgumentError
        return refusal(kind(text, status=exc.status_code), exc.headers)

    return answer


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads the answer."""
    log.info("a client went in the middle of its request")
    return Response(status_code=400)


async def _defect(_: Request, __: Exception) -> Response:
    """uvicorn logs it; its text stays there."""
    return refusal(DeckError("a defect of the server; its log has it", status=500))
