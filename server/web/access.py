"""Who may call over HTTP: no page of another site, nobody under a foreign host name, and only holders of a token."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quarterdeck.storage.errors import DeniedError, LimitError

from .answers import refusal
from .caller import Caller
from .rate import RateLimit
from .tokens import Keyring

METADATA = "/.well-known/oauth-protected-resource"
OPEN_PATHS = {"/", "/healthz"}  # what a supervisor asks, and the page, have no token and tell nothing of the deck
OPEN_FOLDERS = ("/assets/", METADATA)


def is_loopback(host: str) -> bool:
    """Whether it is this machine's name or address for itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AccessCheck:
    """ASGI middleware. Without a token, only names of this machine are taken for the Host: a foreign name that leads
    here is DNS rebinding. An Origin must be the host's own: everything else is a page of another site.

    What passes has a `Caller` as its user.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, rate: RateLimit) -> None:
        self._app = app
        self._keyring = keyring
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            try:
                _check_site(headers, any_host=bool(self._keyring))
                caller = self._caller(scope["path"], headers)
            except DeniedError:
                self._rate.take(_address(scope))  # who guesses tokens is slowed down too
                raise
            self._rate.take(caller.name if self._keyring and caller else _address(scope))
        except DeniedError as exc:
            return await refusal(exc, _challenge(scope, headers, exc))(scope, receive, send)
        except LimitError as exc:
            return await refusal(exc, {"Retry-After": "1"})(scope, receive, send)
        return await self._app({**scope, "user": caller or Caller()}, receive, send)

    def _caller(self, path: str, headers: Headers) -> Caller | None:
        """None: the path is open to everybody, or the server is."""
        if not self._keyring or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        holder = self._keyring.holder(given.strip().encode("latin-1")) if scheme.lower() == "bearer" else None
        if holder is None:
            raise DeniedError("send a token of this server as 'Authorization: Bearer …'", status=401)
        return Caller(*holder)


def _check_site(headers: Headers, *, any_host: bool) -> None:
    host, origin = headers.get("host", ""), headers.get("origin")
    if not any_host and not is_loopback(_name(host)):
        raise DeniedError(f"Host {host[:80]!r} is not this machine: call 127.0.0.1 or localhost", status=421)
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        raise DeniedError(f"Origin {origin[:80]!r} is another site than {host[:80]!r}", status=403)


def _challenge(scope: Scope, headers: Headers, refused: DeniedError) -> dict[str, str]:
    """What a 401 says of how to do better (RFC 6750, RFC 9728)."""
    if refused.details["status"] != 401:
        return {}
    error = 'error="invalid_token", ' if "authorization" in headers else ""
    url = f"{scope['scheme']}://{headers.get('host', '')}{METADATA}"
    return {"WWW-Authenticate": f'Bearer {error}resource_metadata="{url}"'}


def _address(scope: Scope) -> str:
    return str(scope["client"][0]) if scope.get("client") else ""


def _name(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
