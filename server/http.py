"""Serving over HTTP until a signal: the socket, the server, and its end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from .config import Settings, SettingsError, unknown_variables
from .deck import open_deck
from .serve import end_on_signal
from .web.access import is_loopback
from .web.app import http_app

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

            def end() -> None:
                server.should_exit = True
                deck.changes.end()  # those streams have no end of their own

            end_on_signal(end)
            host, port = listener.getsockname()[:2]
            log.info("serving http://%s:%d", f"[{host}]" if ":" in host else host, port)
            await server.serve([listener])


class _Server(uvicorn.Server):
    """Leaves the signals to those who close the deck afterwards: uvicorn would raise them again before."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


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
