"""Serving over HTTP until a signal: the socket, the server, and its end."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn

from .config import Settings, SettingsError, keyring, unknown_variables
from .deck import open_deck
from .serve import end_on_signal
from .telemetry import telemetry
from .web.access import is_loopback
from .web.app import http_app
from .web.protocol import PatientProtocol
from .web.tokens import MIN_LENGTH

log = logging.getLogger(__name__)

IDLE = 30  # seconds between two requests; 5, uvicorn's own, cut off busy clients in the very moment of their next one
GRACE = 20  # seconds that requests have when the server is told to end
CONNECTIONS = 2_000  # at once; who comes then is told to come again
FILES = 4_096  # that the process may have open, where the system lets it raise that by itself


async def serve_http(settings: Settings, on_serving: Callable[[str], None] | None = None) -> None:
    """Open the deck, serve until a signal, let running requests end, close the deck. `on_serving` is told the URL once
    connections are taken.

    Raises:
        SettingsError: the address cannot be listened on, or only with a token.
        StorageError: the data directory or a store in it cannot be used.
    """
    for name in unknown_variables():
        log.warning("%s is set but means nothing here", name)
    for library in ("uvicorn", "mcp"):  # the SDK tells the ids of sessions, which are secrets
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of what the client is told anyway
    _allow_files()
    with listen(settings) as listener:
        async with telemetry(settings), open_deck(settings) as deck:
            ending = asyncio.Event()
            server = _Server(
                uvicorn.Config(
                    http_app(deck, ending),
                    http=PatientProtocol,
                    lifespan="on",
                    limit_concurrency=CONNECTIONS,
                    ws="none",
                    log_config=None,
                    access_log=False,
                    proxy_headers=False,
                    server_header=False,
                    timeout_keep_alive=IDLE,
                    timeout_graceful_shutdown=GRACE,
                )
            )

            def end() -> None:
                server.should_exit = True
                ending.set()

            end_on_signal(end)
            host, port = listener.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            log.info("serving %s", url)
            if on_serving is not None:
                on_serving(url)
            await server.serve([listener])


def _allow_files() -> None:
    """A connection is a file, and the usual limit is lower than the hard one."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Leaves the signals to those who close the deck afterwards: uvicorn would raise them again before."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _check_token(settings: Settings) -> None:
    """Raises SettingsError: there is none, or one that others could guess."""
    host, token = settings.http_host, settings.http_token
    if not keyring(settings):
        raise SettingsError(
            f"QUARTERDECK_HTTP_HOST: others can reach {host}: set QUARTERDECK_HTTP_TOKEN too, or use 127.0.0.1"
        )
    if token is not None and len(token) < MIN_LENGTH:
        raise SettingsError(
            f"QUARTERDECK_HTTP_TOKEN: others can reach {host}: it needs at least {MIN_LENGTH} characters; "
            "python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
        )


def listen(settings: Settings) -> socket.socket:
    """A socket at the address of the settings.

    Raises:
        SettingsError: it is taken or none of ours, or others can reach it and there is no token, or a short one.
    """
    host, port = settings.http_host, settings.http_port
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not is_loopback(str(address[0])):
            _check_token(settings)
        return socket.create_server(address[:2], family=family)
    except OSError as exc:
        raise SettingsError(f"QUARTERDECK_HTTP_HOST, …_PORT: cannot listen on {host}:{port}: {exc.strerror}") from exc
