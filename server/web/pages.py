"""The dashboard's own files: the same for everybody, so they need no token and say nothing of the deck."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..dashboard.app_page import page_script

PACKAGE = "quarterdeck.server.dashboard"
SCRIPT = "deck.js"  # all modules of the page in one: a page that asks for twenty is drawn later
SMALL = 1_000  # bytes that are not worth compressing

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # no dots alone, and none of what Windows takes for a drive or a stream
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
_COMPRESSED = ("text/", "application/json", "image/svg+xml", "application/manifest+json")


def page_routes() -> list[Route]:
    """`/` is index.html; `/assets/…` are the other files, by their path in the package."""
    return [Route("/", _page), Route("/assets/{path:path}", _page)]


async def _page(request: Request) -> Response:
    path = request.path_params.get("path", "index.html")
    content, kind = _content(path), _type_of(path)
    if content is None:
        raise HTTPException(404)
    headers = {"ETag": _etag(content), "Cache-Control": "no-cache"}
    if kind == "text/html":
        headers["Content-Security-Policy"] = POLICY
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if kind.startswith(_COMPRESSED) and len(content) > SMALL:
        headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            content = _compressed(content)
    return Response(content, headers=headers, media_type=kind)


def _content(path: str) -> bytes | None:
    if path == SCRIPT:
        return page_script().encode()
    found = _find(path)
    return found.read_bytes() if found is not None else None


def _find(path: str) -> Traversable | None:
    """A file of the package; no name leads out of it, and none to its code."""
    parts = path.split("/")
    if not all(_NAME.fullmatch(part) for part in parts) or "__pycache__" in parts or path.endswith(".py"):
        return None
    found = files(PACKAGE).joinpath(*parts)
    return found if found.is_file() else None


def _type_of(path: str) -> str:
    suffix = f".{path.rpartition('.')[2]}"
    return _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"


@lru_cache(maxsize=64)
def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@lru_cache(maxsize=64)
def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)
