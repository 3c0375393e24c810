"""Reading an upload form: files go to a spool as they arrive, and every limit holds while they do."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from anyio import fail_after
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError
from quarterdeck.tools.uploads.service import MAX_FILE_BYTES, MAX_FILES
from quarterdeck.tools.uploads.spool import Spool, SpooledSource
from quarterdeck.tools.uploads.types import TYPE_CHARACTERS, TYPE_PATTERN, UNKNOWN_TYPE

BODY_BYTES = MAX_FILES * MAX_FILE_BYTES + (1 << 20)  # and what stands around the files
FIELD_BYTES = 1024
PENDING_BYTES = 256 << 10  # that wait for being spooled: each request has so many
IDLE_SECONDS = 60.0  # without a byte; then the client is taken for gone


@dataclass(frozen=True, slots=True)
class UploadForm:
    """`files` in their order, at most one more than a batch may have; `index` is the field of that name."""

    files: list[SpooledSource]
    index: str | None


async def read_form(request: Request, spool: Spool) -> UploadForm:
    """Read a multipart body: files in the fields `files`, and perhaps a field `index`; of no body, no files.

    Once there is a file too many or too large, nothing more is kept; the service will name all of them. A bad body is
    read to its end all the same, since many clients look for an answer only when they have sent everything.

    Raises:
        DeckError: its details have the `status`: 400 no such form, 413 larger than any batch, 408 nothing came any
            more, 500 the spool failed.
        ClientDisconnect: the client has gone.
    """
    announced = int(request.headers.get("content-length", 0))
    if not announced and not {"content-type", "transfer-encoding"} & set(request.headers):
        return UploadForm([], None)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidArgumentError(
            "the body must be multipart/form-data, its files in fields named 'files'", status=400
        )
    check_form_size(announced)
    reader = _FormReader(spool, options[b"boundary"])
    refusal: DeckError | None = None
    async for piece in _pieces(request):
        if refusal is None:
            try:
                await reader.take(piece)
            except DeckError as exc:
                refusal = exc
    if refusal is not None:
        raise refusal
    return await reader.end()


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it arrives."""
    size = 0
    stream = request.stream()
    while True:
        try:
            with fail_after(IDLE_SECONDS):
                piece = await anext(stream, b"")
        except TimeoutError:
            raise DeckError(f"nothing came for {IDLE_SECONDS:g} s: send it again", status=408) from None
        if not piece:
            return
        size += len(piece)
        check_form_size(size)
        yield piece


def check_form_size(size: int) -> None:
    """Raises LimitError: no batch of files can be so large."""
    if size > BODY_BYTES:
        raise LimitError(
            f"the body is larger than {MAX_FILES} files of 100MB can be: at most {BODY_BYTES} bytes", status=413
        )


@dataclass(slots=True)
class _Part:
    """One part: a file, or a field without `file_name`."""

    name: str
    file_name: str | None
    content_type: str | None
    offset: int  # in the spool
    size: int = 0


class _FormReader:
    """What python-multipart calls back, piece by piece."""

    def __init__(self, spool: Spool, boundary: bytes) -> None:
        self._spool = spool
        self._files: list[_Part] = []
        self._fields: dict[str, bytearray] = {}
        self._headers: dict[bytes, bytes] = {}
        self._header = bytearray(), bytearray()  # name and value of the one that is being read
        self._part = _Part("", None, None, 0)
        self._pending = bytearray()  # not spooled yet
        self._spooled = 0
        self._keeping = True
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_part,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise _malformed(str(exc)) from exc

    async def take(self, piece: bytes) -> None:
        """Read on.

        Raises:
            DeckError: it is no such form, or the spool failed.
        """
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise _malformed(str(exc)) from exc
        if len(self._pending) >= PENDING_BYTES:
            await self._spool_pending()

    async def end(self) -> UploadForm:
        """What was read.

        Raises:
            DeckError: as `take`.
        """
        if not self._complete:
            raise _malformed("it ends in the middle")
        await self._spool_pending()
        index = self._fields.get("index")
        try:
            collection = None if index is None else index.decode()
        except UnicodeDecodeError:
            raise _malformed("the field 'index' is not UTF-8") from None
        files = [
            SpooledSource(self._spool, part.offset, part.size, part.file_name or "", part.content_type)
            for part in self._files
        ]
        return UploadForm(files, collection or None)

    async def _spool_pending(self) -> None:
        if self._pending:
            await self._spool.append(self._pending)
            self._pending = bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = bytearray(), bytearray()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode(errors="replace")
        file_name = options.get(b"filename")
        if (name, file_name is not None) not in {("files", True), ("index", False)}:
            kind = "field" if file_name is None else "file"
            raise _malformed(
                f"{kind} {name[:40]!r}: files belong into 'files', each with a filename; one field 'index'"
            )
        content_type = self._headers.get(b"content-type", b"").decode("latin-1").strip()
        self._part = _Part(
            name,
            None if file_name is None else file_name.decode(errors="surrogateescape"),
            content_type if _is_known_type(content_type) else None,
            self._spooled,
        )
        if file_name is None:
            if name in self._fields:
                raise _malformed(f"there are two fields {name!r}")
            self._fields[name] = bytearray()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.size += end - start
        if part.file_name is None:
            if part.size > FIELD_BYTES:
                raise _malformed(f"the field {part.name!r} has more than {FIELD_BYTES} bytes")
            self._fields[part.name] += data[start:end]
            return
        self._keeping = self._keeping and part.size <= MAX_FILE_BYTES and len(self._files) < MAX_FILES
        if self._keeping:
            self._pending += data[start:end]
            self._spooled += end - start

    def _end_part(self) -> None:
        part = self._part
        if part.file_name is None or (not part.file_name and not part.size):  # the empty file field of a page
            return
        if len(self._files) <= MAX_FILES:
            self._files.append(part)

    def _end(self) -> None:
        self._complete = True


def _is_known_type(content_type: str) -> bool:
    """Whether it says something; senders that do not know say that it is some bytes."""
    is_type = len(content_type) <= TYPE_CHARACTERS and re.match(TYPE_PATTERN, content_type) is not None
    return is_type and content_type != UNKNOWN_TYPE


def _malformed(reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"the body is no upload form: {reason}", status=400)
