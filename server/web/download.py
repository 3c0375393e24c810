"""GET of an upload: whole, or one range of its bytes (RFC 9110), so that a broken download can go on."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.objects.base import ObjectInfo
from quarterdeck.tools.uploads.service import UploadService

from .answers import refusal
from .doors import BYTES

PIECE_BYTES = 1 << 20  # so many are read at once
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))", re.ASCII)


async def download(uploads: UploadService, request: Request) -> Response:
    """The upload as a file to save: whatever somebody has uploaded is never a page of this server. HEAD reads nothing.

    Raises:
        InvalidArgumentError, NotFoundError: the key cannot be one of an upload, or is of none.
    """
    info = await uploads.stat(request.path_params["key"])
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(info.name, safe='')}",
    }
    if info.sha256 is not None:
        headers["ETag"] = f'"{info.sha256}"'
    part = _part(request, info, headers.get("ETag"))
    status = 200
    if part is None:
        part = range(info.size)
    elif part:
        status, headers["Content-Range"] = 206, f"bytes {part[0]}-{part[-1]}/{info.size}"
    else:
        error = InvalidArgumentError(f"Range: the upload has {info.size} bytes", status=416)
        return refusal(error, {"Content-Range": f"bytes */{info.size}"})
    headers["Content-Length"] = str(len(part))
    if request.method == "HEAD":
        return Response(None, status, headers, BYTES)
    return StreamingResponse(_contents(uploads, info.key, part), status, headers, BYTES)


def _part(request: Request, info: ObjectInfo, etag: str | None) -> range | None:
    """The bytes that are asked for: none if there are no such, None for all of them: any other range than a single one
    of bytes may be passed over, and one of a file that is no longer the same has to be."""
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or request.method != "GET" or request.headers.get("if-range", etag) != etag:
        return None
    first, last, suffix = (None if text is None else int(text) for text in asked.groups())
    if first is None:
        return range(max(0, info.size - (suffix or 0)), info.size)
    if last is not None and last < first:
        return None
    return range(first, info.size if last is None else min(last + 1, info.size))


async def _contents(uploads: UploadService, key: str, part: range) -> AsyncGenerator[bytes]:
    offset = part.start
    while offset < part.stop and (piece := await uploads.read(key, offset, min(PIECE_BYTES, part.stop - offset))):
        yield piece
        offset += len(piece)
