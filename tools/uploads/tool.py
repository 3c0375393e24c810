"""The tools `upload` and `uploads`."""

from __future__ import annotations

import base64
import binascii
import codecs
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from quarterdeck.storage.errors import InvalidArgumentError, LimitError
from quarterdeck.storage.objects.base import PRESIGN_SECONDS, ObjectInfo

from ..arguments import Arguments, FromJsonText, Limit, check_applies
from ..contract import Call, DeckTool, deck_tool
from .ingest import Ingest
from .naming import PREFIX
from .service import UploadResult, UploadService
from .sources import InlineSource, Source
from .types import TYPE_CHARACTERS, TYPE_PATTERN

INLINE_BYTES = 1 << 20
READ_BYTES = 1 << 20
Encoding = Literal["text", "base64"]
Action = Literal["list", "read", "presign", "delete"]

APPLIES: dict[str, tuple[Action, ...]] = {
    "key": ("read", "presign", "delete"),
    "prefix": ("list",),
    "limit": ("list",),
    "cursor": ("list",),
    "offset": ("read",),
    "length": ("read",),
    "encoding": ("read",),
    "seconds": ("presign",),
}
"""Where an argument has a meaning."""


class UploadFile(Arguments):
    """One file: by its path, or by name and content."""

    path: str | None = Field(default=None, description="under the allowed folders; a relative one starts at the first")
    name: str | None = None
    content: str | None = Field(default=None, description="instead of path, with name; at most 1 MiB")
    encoding: Encoding = Field(default="text", description="of content")
    content_type: str | None = Field(default=None, max_length=TYPE_CHARACTERS, pattern=TYPE_PATTERN)

    @model_validator(mode="after")
    def _has_one_source(self) -> UploadFile:
        by_path, inline = self.path is not None, self.content is not None and self.name is not None
        if by_path == inline or (by_path and (self.content, self.name) != (None, None)):
            raise ValueError("give either path, or content and name")
        return self


class UploadArguments(Arguments):
    files: Annotated[list[UploadFile], FromJsonText] = Field(description="1 to 20, each at most 100 MB")
    index: str | None = Field(default=None, description="vector collection for the text of the files")


class UploadsArguments(Arguments):
    action: Action
    key: str | None = Field(default=None, description="the path that upload answered")
    prefix: str = PREFIX
    limit: Limit = 50
    cursor: str | None = None
    offset: int = Field(default=0, ge=0, description="read: first byte")
    length: int = Field(default=65_536, ge=4, le=READ_BYTES, description="read: bytes")
    encoding: Encoding = "text"
    seconds: int = Field(default=3600, ge=1, le=PRESIGN_SECONDS, description="presign: how long the URL works")


class StoredUpload(TypedDict):
    key: str
    originalName: str
    size: int
    type: str
    sha256: str | None
    createdAt: int


class UploadsResult(TypedDict, total=False):
    success: bool
    uploads: list[StoredUpload]
    count: int
    nextCursor: str
    key: str
    size: int
    type: str
    offset: int
    length: int
    nextOffset: int
    content: str
    encoding: str
    url: str
    deleted: bool


def upload_tools(service: UploadService, ingest: Ingest) -> list[DeckTool]:
    """The tools over one service; `ingest` is the way into it."""

    async def upload(arguments: UploadArguments, call: Call) -> UploadResult:
        sources = [_source(service, file) for file in arguments.files]
        return await ingest.upload(sources, arguments.index, call.report_progress)

    async def uploads(arguments: UploadsArguments, _: Call) -> UploadsResult:
        check_applies(arguments, arguments.action, APPLIES)
        if arguments.action == "list":
            page, cursor = await service.list(arguments.prefix, arguments.limit, arguments.cursor)
            answer: UploadsResult = {"success": True, "uploads": [_listed(info) for info in page], "count": len(page)}
            return answer if cursor is None else {**answer, "nextCursor": cursor}
        key = arguments.key
        if key is None:
            raise InvalidArgumentError(
                f"action {arguments.action} needs 'key'; `uploads` with action list shows the keys"
            )
        match arguments.action:
            case "read":
                return await _read(service, key, arguments)
            case "presign":
                return {"success": True, "key": key, "url": await service.presign(key, arguments.seconds)}
            case _:
                await service.delete(key)
                return {"success": True, "key": key, "deleted": True}

    return [
        deck_tool(
            "upload",
            "Upload up to 20 files of 100 MB in parallel into durable storage. Each gets a new key, nothing is "
            "overwritten; status 207 means that some failed. With index, their text becomes searchable.",
            UploadArguments,
            UploadResult,
            upload,
            title="Upload files",
        ),
        deck_tool(
            "uploads",
            "List, read, presign (a URL to download) or delete uploads. Reads are byte ranges: go on at nextOffset.",
            UploadsArguments,
            UploadsResult,
            uploads,
            title="Uploaded files",
            destructive=True,
        ),
    ]


def _source(service: UploadService, file: UploadFile) -> Source:
    if file.path is not None:
        return service.file(file.path, file.content_type)
    name, content = file.name or "", file.content or ""
    try:
        if file.encoding == "base64":
            contents = base64.b64decode("".join(content.split()), validate=True)
        else:
            contents = content.encode()
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgumentError(f"{name!r}: content is not {file.encoding}: {exc}", status=400) from None
    if len(contents) > INLINE_BYTES:
        raise LimitError(
            f"{name!r}: inline content is limited to {INLINE_BYTES} bytes, got {len(contents)}; "
            "save it as a file and give its path",
            status=400,
        )
    return InlineSource(name, contents, file.content_type)


def _listed(info: ObjectInfo) -> StoredUpload:
    return {
        "key": info.key,
        "originalName": info.name,
        "size": info.size,
        "type": info.type,
        "sha256": info.sha256,
        "createdAt": info.created_at,
    }


async def _read(service: UploadService, key: str, arguments: UploadsArguments) -> UploadsResult:
    info = await service.stat(key)
    if arguments.offset > info.size:
        raise InvalidArgumentError(f"offset: {arguments.offset} is behind the end, {key} has {info.size} bytes")
    contents = await service.read(key, arguments.offset, arguments.length)
    if arguments.encoding == "base64":
        content, length = base64.b64encode(contents).decode(), len(contents)
    else:
        content, length = _decode(contents, arguments.offset, arguments.offset + len(contents) == info.size)
    answer: UploadsResult = {
        "success": True,
        "key": key,
        "size": info.size,
        "type": info.type,
        "offset": arguments.offset,
        "length": length,
        "content": content,
        "encoding": arguments.encoding,
    }
    end = arguments.offset + length
    return answer if end == info.size else {**answer, "nextOffset": end}


def _decode(contents: bytes, offset: int, is_end: bool) -> tuple[str, int]:
    """Decode UTF-8 up to the last whole character; also its length in bytes."""
    decoder: Any = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(contents, is_end)
    except UnicodeDecodeError as exc:
        raise InvalidArgumentError(
            f"byte {offset + exc.start} starts no UTF-8 text: read with encoding base64, or from the last nextOffset"
        ) from None
    return text, len(contents) - len(decoder.getstate()[0])
