"""Uploads as MCP resources: reading and completion."""

from __future__ import annotations

from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Annotations,
    Completion,
    CompletionArgument,
    CompletionContext,
    ResourceTemplate,
)

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, NotFoundError
from quarterdeck.tools.uploads.resource import TEMPLATE, UploadResource
from quarterdeck.tools.uploads.service import UploadService

from .resources import completion, refusals


class UploadResources:
    """What a `DeckServer` answers about `upload://{key}`."""

    template = ResourceTemplate(
        name="upload",
        title="Upload",
        uri_template=TEMPLATE,
        description="One upload of at most 1 MiB. The key is the percent-encoded `path` that upload answers.",
        annotations=Annotations(audience=["user", "assistant"]),
    )

    def __init__(self, uploads: UploadService) -> None:
        self._uploads = UploadResource(uploads)

    async def read(self, uri: str) -> ReadResourceContents:
        """UTF-8 as text, all else as a blob; in `_meta` originalName, size and sha256.

        Raises:
            ResourceNotFoundError: there is no such upload, or the URI names none.
            ResourceError: it is too large, or the store failed.
        """
        try:
            info, contents = await self._uploads.read(uri)
        except (InvalidArgumentError, NotFoundError) as exc:
            raise ResourceNotFoundError(exc.message) from None
        except DeckError as exc:
            raise ResourceError(exc.message) from exc
        meta: dict[str, Any] = {"originalName": info.name, "size": info.size}
        if info.sha256 is not None:
            meta["sha256"] = info.sha256
        try:
            return ReadResourceContents(contents.decode(), info.type, meta)
        except UnicodeDecodeError:
            return ReadResourceContents(contents, info.type, meta)

    async def complete(self, argument: CompletionArgument, _: CompletionContext | None) -> Completion:
        """The keys that begin with what was typed."""
        if argument.name != "key":
            raise MCPError(INVALID_PARAMS, f"argument: {argument.name!r} is not in the template (key)")
        with refusals():
            return completion(await self._uploads.keys(argument.value))
