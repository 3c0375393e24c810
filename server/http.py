"""Serving over HTTP: uploads, and whether the server lives."""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator
from contextlib import closing, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.tools.uploads.spool import Spool

from .access import AccessCheck, is_loopback
from .answers import refusal
from .config import Settings, SettingsError, unknown_variables
from .deck import Deck, open_deck
from .multipart import read_form
from .serve import end_on_signal

log = logging.getLogger(__name__)

GRACE = 20  # seconds that requests have when the server is told to end


async def serve_http(settings: Settings) -> None:
    """Open the deck, serve until a signal, let running requests end, close the deck.

    Raises:
        SettingsError: the address cannot be listened on, or only with a token.
        StorageError: the data directory or a store in it cannot be used.
    """
    for name in unknown_variables():
        log.warning("%s is set but means nothing here", name)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of what the client is told anyway
    with listen(settings) as listener:
        async with open_deck(settings) as deck:
            server = _Server(
                uvicorn.Config(
                    http_app(deck),
                    http="h11",
                    lifespan="off",
                    ws="none",
                    log_config=None,
                    access_log=False,
                    proxy_headers=False,
                    server_header=False,
                    timeout_graceful_shutdown=GRACE,
                )
            )
            end_on_signal(server.end)
            host, port = listener.getsockname()[:2]
            log.info("serving http://%s:%d", f"[{host}]" if ":" in host else host, port)
            await server.serve([listener])


class _Server(uvicorn.Server):
    """Leaves the signals to those who close the deck afterwards: uvicorn would raise them again before."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def end(self) -> None:
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """A socket at the address of the settings.

    Raises:
        SettingsError: it is taken or none of ours, or others can reach it and there is no token.
    """
    host, port = settings.http_host, settings.http_port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not is_loopback(str(address[0])) and settings.http_token is None:
            raise SettingsError(
                f"QUARTERDECK_HTTP_HOST: others can reach {host}: set QUARTERDECK_HTTP_TOKEN too, or use 127.0.0.1"
            )
        return socket.create_server(address[:2], family=family)
    except OSError as exc:
        raise SettingsError(f"QUARTERDECK_HTTP_HOST, …_PORT: cannot listen on {host}:{port}: {exc.strerror}") from exc


def http_app(deck: Deck) -> Starlette:
    """The routes over a deck."""

    async def upload(request: Request) -> Response:
        with closing(Spool(deck.data_dir)) as spool:
            form = await read_form(request, spool)
            answer = await deck.ingest.upload(form.files, form.index)
        return JSONResponse(answer, answer["status"])

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    token = deck.settings.http_token
    return Starlette(
        routes=[Route("/api/upload", upload, methods=["POST"]), Route("/healthz", healthz)],
        middleware=[Middleware(AccessCheck, token=token.get_secret_value() if token else None)],
        exception_handlers={
            DeckError: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )


async def _refused(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, DeckError)  # noqa: S101  it is registered for those
    return refusal(exc)


async def _no_route(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    routes = "POST /api/upload, GET /healthz"
    error = InvalidArgumentError(
        f"{request.method} {request.url.path[:80]}: there are {routes}", status=exc.status_code
    )
    return refusal(error, exc.headers)


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads the answer."""
    log.info("a client went in the middle of its request")
    return Response(status_code=400)


async def _defect(_: Request, __: Exception) -> Response:
    """uvicorn logs it; its text stays there."""
    return refusal(DeckError("a defect of the server; its log has it", status=500))
