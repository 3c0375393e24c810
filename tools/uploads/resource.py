"""What a client can read and complete of uploads as resources: `upload://{key}`, the key percent-encoded."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from quarterdeck.storage.errors import InvalidArgumentError, LimitError
from quarterdeck.storage.objects.base import ObjectInfo

from ..memory.resource import MAX_COMPLETIONS, Completions
from .naming import PREFIX
from .service import UploadService

TEMPLATE = "upload://{key}"
RESOURCE_BYTES = 1 << 20  # a resource is read at once

_URI = re.compile(r"upload://((?:[^?#%]|%[0-9A-Fa-f]{2})+)")


def uri_of(key: str) -> str:
    """The URI of an upload."""
    return f"upload://{quote(key, safe='')}"


class UploadResource:
    """Every method raises StorageError where the store fails."""

    def __init__(self, uploads: UploadService) -> None:
        self._uploads = uploads

    async def read(self, uri: str) -> tuple[ObjectInfo, bytes]:
        """The upload that `uri` names, and its contents.

        Raises:
            InvalidArgumentError: it names none.
            NotFoundError: there is no such upload (any more).
            LimitError: it is too large to be read at once.
        """
        found = _URI.fullmatch(uri)
        try:
            key = unquote(found[1], errors="strict") if found else ""
        except UnicodeDecodeError:
            key = ""
        if not key:
            raise InvalidArgumentError(f"uri: must be {TEMPLATE}, the key percent-encoded UTF-8, got {uri[:80]!a}")
        info = await self._uploads.stat(key)
        if info.size > RESOURCE_BYTES:
            raise LimitError(
                f"{key} has {info.size} bytes, a resource at most {RESOURCE_BYTES}: read ranges of it by `uploads`"
            )
        return info, await self._uploads.read(key, 0, info.size)

    async def keys(self, prefix: str) -> Completions:
        """The keys that begin with `prefix`, in their order."""
        if not (prefix.startswith(PREFIX) or PREFIX.startswith(prefix)):
            return Completions([], has_more=False)
        page, cursor = await self._uploads.list(max(prefix, PREFIX, key=len), MAX_COMPLETIONS)
        return Completions([info.key for info in page], has_more=cursor is not None)
