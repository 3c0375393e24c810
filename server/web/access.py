"""Who may call over HTTP: no page of another site, nobody under a foreign host name, and only holders of the token."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quarterdeck.storage.errors import DeniedError

from .answers import refusal

OPEN_PATHS = {"/", "/healthz"}  # what a supervisor asks, and the page, have no token and tell nothing of the deck
OPEN_PREFIX = "/assets/"


def is_loopback(host: str) -> bool:
    """Whether it is this machine's name or address for itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AccessCheck:
    """ASGI middleware. Without a token, only names of this machine are taken for the Host: a foreign name that leads
    here is DNS rebinding. An Origin must be the host's own: everything else is a page of another site.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except DeniedError as exc:
                app = refusal(exc, {"WWW-Authenticate": "Bearer"} if exc.details["status"] == 401 else None)
        await app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._token is None and not is_loopback(_name(host)):
            raise DeniedError(f"Host {host[:80]!r} is not this machine: call 127.0.0.1 or localhost", status=421)
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise DeniedError(f"Origin {origin[:80]!r} is another site than {host[:80]!r}", status=403)
        if self._token is not None and path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("latin-1"), self._token):
                raise DeniedError("send the token of QUARTERDECK_HTTP_TOKEN as 'Authorization: Bearer …'", status=401)


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
