"""Uploads: batches of files into the object store, and what was stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NotRequired, TypeVar

from anyio import Semaphore, create_task_group
from typing_extensions import TypedDict

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import ConflictError, DeckError, InvalidArgumentError, LimitError, NotFoundError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.objects.base import ObjectInfo, ObjectStore, Stored

from ..changes import nobody, tells
from .naming import PREFIX, keys, printable
from .sources import PathSource, Prepared, Roots, Source
from .types import type_of

T = TypeVar("T")

MAX_FILES = 20
MAX_FILE_BYTES = 104_857_600
STORED_AT_ONCE = 64  # files of all batches: each that waits for a slow store holds a chunk of its contents

Report = Callable[[float, float], Awaitable[None]]
"""Takes the bytes that are done and those of the whole batch."""


class UploadedFile(TypedDict):
    """`path` is the key, `size` in bytes, `duration` in milliseconds."""

    originalName: str
    path: str
    size: int
    type: str
    sha256: str | None
    duration: float
    chunks: NotRequired[int]  # in the collection, where the batch was to be indexed


class UploadResult(TypedDict):
    """`status` is the HTTP code: 200 all were stored, 207 some were."""

    success: bool
    status: int
    files: list[UploadedFile]
    count: int
    warnings: NotRequired[list[str]]
    message: NotRequired[str]


class UploadService:
    """Uploads over any object store; paths are read under `roots` only."""

    def __init__(self, store: OnFirstUse[ObjectStore], roots: Sequence[Path], clock: Clock) -> None:
        self._store = store
        self._roots = Roots(roots)
        self.on_change: Callable[[], None] = nobody
        self._clock = clock
        self._places = Semaphore(STORED_AT_ONCE)
        self._writing: set[str] = set()  # keys that this process is about to take

    def file(self, path: str, content_type: str | None = None) -> Source:
        """Name a file for `upload`; a relative path starts at the first root."""
        return PathSource(self._roots, path, content_type)

    @tells
    async def upload(self, sources: Sequence[Source], report: Report | None = None) -> UploadResult:
        """Prepare all, then store all side by side; each one fails for itself.

        Raises:
            DeckError: nothing was stored; its details have the `status` 400 (the batch is refused) or 500 (all failed).
        """
        if not sources:
            raise InvalidArgumentError("No files uploaded", status=400)
        if len(sources) > MAX_FILES:
            raise LimitError(f"Maximum {MAX_FILES} files allowed", status=400)
        prepared = await settle([source.prepare for source in sources])
        too_large = [
            f"File {printable(source.name)} exceeds 100MB limit"
            for source, file in zip(sources, prepared, strict=True)
            if isinstance(file, Prepared) and file.size > MAX_FILE_BYTES
        ]
        if too_large:
            raise LimitError(f"Validation failed: {', '.join(too_large)}", status=400)
        progress = _Progress(sum(file.size for file in prepared if isinstance(file, Prepared)), report)
        now = self._clock.now()
        stored = await settle(
            [
                partial(self._store_one, source, file, now, progress)
                for source, file in zip(sources, prepared, strict=True)
            ]
        )
        return _result(sources, stored)

    async def _store_one(
        self, source: Source, file: Prepared | DeckError, now: int, progress: _Progress
    ) -> UploadedFile:
        if isinstance(file, DeckError):
            raise file
        async with self._places:
            started = self._clock.monotonic()
            info = await self._put(source, file, now, progress)
        return {
            "originalName": info.name,
            "path": info.key,
            "size": info.size,
            "type": info.type,
            "sha256": info.sha256,
            "duration": round((self._clock.monotonic() - started) * 1000, 1),
        }

    async def _put(self, source: Source, file: Prepared, now: int, progress: _Progress) -> ObjectInfo:
        """Store it under the first key that is free; the store decides which are."""
        store = await self._store()
        content_type = source.content_type or type_of(file.start, source.name)
        for key in keys(source.name, now):
            if key in self._writing:  # would be read to its end before it loses the key
                continue
            self._writing.add(key)
            try:
                return await store.put(
                    key,
                    source.open,
                    size=file.size,
                    name=printable(source.name),
                    content_type=content_type,
                    created_at=now,
                    stored=progress.of(source),
                )
            except ConflictError:
                continue
            finally:
                self._writing.discard(key)
        raise AssertionError("keys never end")

    async def stat(self, key: str) -> ObjectInfo:
        """Describe an upload.

        Raises:
            InvalidArgumentError, NotFoundError: the key cannot be one of an upload, or is of none.
        """
        _check_key(key)
        info = await (await self._store()).stat(key)
        if info is None:
            raise _unknown(key)
        return info

    async def read(self, key: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; none behind the end.

        Raises:
            InvalidArgumentError, NotFoundError: the key cannot be one of an upload, or is of none.
        """
        _check_key(key)
        try:
            return await (await self._store()).read(key, offset, length)
        except NotFoundError:
            raise _unknown(key) from None

    async def list(
        self, prefix: str = PREFIX, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[ObjectInfo], str | None]:
        """Return a page of uploads in order of their keys, which is that of time, and the next page's cursor.

        Other programs can have put objects there that are no uploads: a page is shorter by those.

        Raises:
            InvalidArgumentError: the prefix or the cursor is one of no upload.
        """
        if not prefix.startswith(PREFIX):
            raise InvalidArgumentError(f"prefix: every upload's key starts with '{PREFIX}', got {prefix[:80]!r}")
        if cursor is not None and not cursor.startswith(PREFIX):
            raise InvalidArgumentError("cursor: pass the nextCursor of the page before, unchanged, or none")
        found = await (await self._store()).list(prefix, cursor or "", limit + 1)
        page = found[:limit]
        return [info for info in page if _is_key(info.key)], page[-1].key if len(found) > limit else None

    async def presign(self, key: str, seconds: int) -> str:
        """Return a URL from which anybody can download the upload for so many seconds.

        Raises:
            InvalidArgumentError, NotFoundError: the key cannot be one of an upload, or is of none.
            UnsupportedError: the store has no URLs.
        """
        _check_key(key)
        try:
            return await (await self._store()).presign(key, seconds)
        except NotFoundError:
            raise _unknown(key) from None

    @tells
    async def delete(self, key: str) -> None:
        """Remove an upload for good.

        Raises:
            InvalidArgumentError, NotFoundError: the key cannot be one of an upload, or is of none.
        """
        _check_key(key)
        if not await (await self._store()).delete(key):
            raise _unknown(key)


class _Progress:
    """Counts what the store has. It never runs backwards, though a file may start again under another key."""

    def __init__(self, total: int, report: Report | None) -> None:
        self._total = total
        self._report = report
        self._stored: dict[Source, int] = {}
        self._reported = 0

    def of(self, source: Source) -> Stored:
        async def note(size: int) -> None:
            self._stored[source] = size
            stored = sum(self._stored.values())
            if self._report is not None and stored > self._reported:
                self._reported = stored
                await self._report(stored, self._total)

        return note


async def settle(jobs: Sequence[Callable[[], Awaitable[T]]]) -> list[T | DeckError]:
    """Run all side by side; each leaves its result or its error, in the order of the jobs."""
    settled: dict[int, T | DeckError] = {}

    async def run(number: int, job: Callable[[], Awaitable[T]]) -> None:
        try:
            settled[number] = await job()
        except DeckError as exc:
            settled[number] = exc

    async with create_task_group() as group:
        for number, job in enumerate(jobs):
            group.start_soon(run, number, job)
    return [settled[number] for number in range(len(jobs))]


def _result(sources: Sequence[Source], stored: Sequence[UploadedFile | DeckError]) -> UploadResult:
    files = [file for file in stored if not isinstance(file, DeckError)]
    failures = [
        f"{printable(source.name)} - {error.message}"
        for source, error in zip(sources, stored, strict=True)
        if isinstance(error, DeckError)
    ]
    if not failures:
        return {"success": True, "status": 200, "files": files, "count": len(files)}
    warnings = [f"Upload failed: {failure}" for failure in failures]
    if not files:
        raise DeckError(f"All uploads failed: {'; '.join(failures)}", status=500, warnings=warnings)
    return {
        "success": True,
        "status": 207,
        "files": files,
        "count": len(files),
        "warnings": warnings,
        "message": f"{len(files)} uploaded, {len(failures)} failed",
    }


def _is_key(key: str) -> bool:
    name = key.removeprefix(PREFIX)
    return key.startswith(PREFIX) and "/" not in name and name not in ("", ".", "..")


def _check_key(key: str) -> None:
    if not _is_key(key):
        raise InvalidArgumentError(
            f"key: {key[:80]!r} is no upload's, they are '{PREFIX}' and a name; `uploads` with action list shows them"
        )


def _unknown(key: str) -> NotFoundError:
    return NotFoundError(f"there is no upload {key!r}; `uploads` with action list shows the keys")
