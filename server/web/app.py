"""The HTTP application over a deck: its doors, who may pass them, and what refusals look like."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from quarterdeck.storage.errors import DEFECT, DeckError, InvalidArgumentError, NotFoundError

from ..app import DeckServer
from ..config import flags, keyring
from ..deck import Deck
from .access import METADATA, AccessCheck
from .answers import refusal
from .api import Api
from .body import JSON_BYTES, BodyLimit
from .caller import Caller
from .doors import STREAM, TEXT, Door, routes
from .draining import Draining
from .events import event_stream
from .headers import HEADERS, SecurityHeaders
from .mcp import check_rights, listen_until
from .metrics import metrics_answer
from .openapi import describe
from .pages import page_routes
from .rate import RateLimit

log = logging.getLogger(__name__)


def http_app(deck: Deck, ending: asyncio.Event) -> Starlette:
    """`ending` is to be set when the server is told to end: streams end then."""
    server = DeckServer(deck, [check_rights, listen_until(ending)])
    mcp = server.streamable_http_app(
        max_request_body_size=JSON_BYTES,
        # What it would check is checked for every door alike, by AccessCheck.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with server.session_manager.run():
            yield

    return Starlette(
        routes=[*routes(_doors(deck)), *page_routes(), *mcp.routes],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(Draining, ending=ending),
            Middleware(BodyLimit),
            Middleware(
                AccessCheck, keyring=keyring(deck.settings), rate=RateLimit(deck.settings.http_rate, deck.clock)
            ),
        ],
        lifespan=lifespan,
        exception_handlers={
            DeckError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )


def _doors(deck: Deck) -> list[Door]:
    async def events(request: Request) -> Response:
        return event_stream(deck.changes, _hello(deck, request.user))

    async def openapi(_: Request) -> Response:
        return JSONResponse(describe(doors, version("quarterdeck")))

    async def metrics(_: Request) -> Response:
        return await metrics_answer(deck)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    doors = [
        *Api(deck).doors(),
        Door(
            "GET",
            "/api/events",
            "What changes, as it does: first `hello`, then `changed` with what, queries and agents.",
            events,
            answer={"type": "string"},
            answer_type=STREAM,
        ),
        Door("GET", "/api/openapi.json", "This description.", openapi),
        Door("GET", "/metrics", "Figures for Prometheus.", metrics, answer={"type": "string"}, answer_type=TEXT),
        Door("GET", "/healthz", "Whether the server lives.", healthz, is_open=True),
        Door("GET", METADATA, "How the server is protected (RFC 9728).", _metadata, is_open=True),
        Door("GET", METADATA + "/{path}", "How a part of it is protected.", _metadata, is_open=True),
    ]
    return doors


async def _metadata(request: Request) -> Response:
    """Tokens are made by who runs the server: no authorization server hands them out."""
    resource = request.path_params.get("path", "")
    origin = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return JSONResponse(
        {
            "resource": f"{origin}/{resource}" if resource else origin,
            "resource_name": "Quarterdeck",
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["read", "full"],
        }
    )


def _hello(deck: Deck, caller: Caller) -> dict[str, object]:
    return {
        "version": version("quarterdeck"),
        "readOnly": caller.read_only or not deck.settings.feature_query_control,
        "flags": flags(deck.settings),
    }


async def _refused(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, DeckError)  # noqa: S101  it is registered for those
    return refusal(exc)


async def _no_route(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    door = f"{request.method} {request.url.path[:80]}"
    if exc.status_code == 404:
        return refusal(NotFoundError(f"{door}: there is no such door; GET /api/openapi.json lists all", status=404))
    allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
    error = InvalidArgumentError(f"{door}: this door takes {allowed}", status=exc.status_code)
    return refusal(error, exc.headers)


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads the answer."""
    log.info("a client went in the middle of its request")
    return Response(status_code=400)


async def _defect(_: Request, __: Exception) -> Response:
    """uvicorn logs it; its text stays there."""
    return refusal(DeckError(DEFECT, status=500), HEADERS)
