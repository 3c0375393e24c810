"""The way of a batch through every door: into the store and, if that is wanted, on into a vector collection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from anyio import Semaphore

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError, NotFoundError

from ..vectors.service import NewPoint, VectorService
from .reading import Document, read_document
from .service import UploadedFile, UploadResult, UploadService, settle
from .sources import Source

INDEX_BYTES = 32 << 20  # of a file; a larger one is data, not a document that someone reads
READERS = 2  # files that are read at once


class Report(Protocol):
    """Takes the bytes that are done and those of all steps, and what has just happened."""

    async def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> None: ...


class Ingest:
    """One pipeline: what is stored is read, cut into chunks and indexed. Progress counts every byte once for each of
    the two steps."""

    def __init__(self, uploads: UploadService, vectors: VectorService) -> None:
        self._uploads = uploads
        self._vectors = vectors
        self._readers = Semaphore(READERS)

    async def upload(
        self, sources: Sequence[Source], index: str | None = None, report: Report | None = None
    ) -> UploadResult:
        """As `UploadService.upload`; then index the stored files in the collection `index`.

        A file that cannot be indexed is a warning and stays stored.

        Raises:
            DeckError: as there; 400 also if `index` cannot be the name of a collection.
        """
        if index is None:
            return await self._uploads.upload(sources, report)
        await self._check(index)
        progress = _Progress(report)
        result = await self._uploads.upload(sources, progress.stored)
        progress.indexing(result["files"])
        indexed = await settle([partial(self._index, file, index, progress) for file in result["files"]])
        result["files"] = [
            {**file, "chunks": 0 if isinstance(count, DeckError) else count}
            for file, count in zip(result["files"], indexed, strict=True)
        ]
        failures = [
            f"Indexing failed: {file['originalName']} - {count.message}"
            for file, count in zip(result["files"], indexed, strict=True)
            if isinstance(count, DeckError)
        ]
        if failures:
            result["warnings"] = [*result.get("warnings", []), *failures]
        return result

    async def _check(self, index: str) -> None:
        try:
            await self._vectors.describe(index)
        except NotFoundError:
            return  # the first points make it
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"index: {exc.message}", status=400) from None

    async def _index(self, file: UploadedFile, index: str, progress: _Progress) -> int:
        """Index one file, all of it or nothing, and return how many chunks it has."""
        outcome = "not indexed"
        try:
            if file["size"] > INDEX_BYTES:
                raise LimitError(f"{file['size']} bytes are no document: at most {INDEX_BYTES} are read")
            async with self._readers:
                read = partial(self._uploads.read, file["path"])
                document = await read_document(read, file["size"], file["originalName"], file["type"])
                points = _points(file, document)
                if not points:
                    raise InvalidArgumentError("there is no text in it")
                count = await self._vectors.upsert(index, points)
                outcome = f"indexed, chunks: {count}"
                return count
        finally:
            await progress.indexed(file, outcome)


def _points(file: UploadedFile, document: Document) -> list[NewPoint]:
    """The chunks as points. Agents call the key `document` in indexes of their own: so they can search here too."""
    key, title = file["path"], document.title or file["originalName"]
    points: list[NewPoint] = []
    for number, chunk in enumerate(document.chunks):
        page = {} if chunk.page is None else {"page": chunk.page}
        payload = {"key": key, "document": key, "title": title, "chunk": number, **page}
        points.append(NewPoint(f"{key}#{number}", text=chunk.text, payload=payload))
    return points


class _Progress:
    """Every byte counts twice: when it is stored and when it is indexed. What fails counts as done."""

    def __init__(self, report: Report | None) -> None:
        self._report = report
        self._total = 0.0
        self._done = 0.0
        self._reported = 0.0

    async def stored(self, stored: float, total: float) -> None:
        self._done, self._total = stored, 2 * total
        await self._tell()

    def indexing(self, files: Sequence[UploadedFile]) -> None:
        self._done = self._total - sum(file["size"] for file in files)

    async def indexed(self, file: UploadedFile, outcome: str) -> None:
        self._done += file["size"]
        await self._tell(f"{file['originalName']}: {outcome}")

    async def _tell(self, message: str | None = None) -> None:
        if self._report is not None and self._done > self._reported:  # an empty file is no progress
            self._reported = self._done
            await self._report(self._done, self._total, message)
