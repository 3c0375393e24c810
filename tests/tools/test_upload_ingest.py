"""Indexing on arrival: real documents through the real reading process into a real collection."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.uploads import ingest, reading
from quarterdeck.tools.uploads.ingest import Ingest
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.sources import InlineSource, Source
from quarterdeck.tools.vectors.service import VectorService
from tests.clock import ManualClock
from tests.embedders import offering
from tests.papers import HTML, docx, pdf
from tests.ready import ready
from tests.until import until


@dataclass(frozen=True, slots=True)
class Library:
    ingest: Ingest
    uploads: UploadService
    vectors: VectorService

    async def points(self, name: str = "library") -> list[dict[str, Any]]:
        return [{"id": point.id, **point.payload} for point in await self.vectors.page(name, limit=500)]


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    clock = ManualClock()
    objects = LocalObjectStore(tmp_path / "objects")
    points = await FaissVectorStore.open(tmp_path / "vectors.db", clock)
    uploads = UploadService(ready(objects), [tmp_path], clock)
    vectors = VectorService(ready(points), offering(), clock)
    yield Library(Ingest(uploads, vectors), uploads, vectors)
    await points.close()
    await objects.close()


def readers() -> list[psutil.Process]:
    found = psutil.Process().children()
    return [child for child in found if "quarterdeck.tools.agents.library" in child.cmdline()]


async def test_every_format_is_found_by_what_it_says(library: Library) -> None:
    batch: list[Source] = [
        InlineSource("fleet.pdf", pdf(["Anchors hold the fleet.", "", "Barnacles slow a hull."], title="Fleet")),
        InlineSource("report.docx", docx()),
        InlineSource("sailing.html", HTML.encode()),
        InlineSource("notes.md", b"# Tides\n\nSpring tides follow the full moon.\n"),
        InlineSource("pilot.py", b"def steer(heading):\n    return heading\n"),
    ]
    answer = await library.ingest.upload(batch, "library")
    assert (answer["status"], answer["count"], answer.get("warnings")) == (200, 5, None)
    assert [file.get("chunks") for file in answer["files"]] == [2, 1, 1, 1, 1]
    keys = {file["originalName"]: file["path"] for file in answer["files"]}
    for query, name, page in (
        ("anchors", "fleet.pdf", 1),
        ("barnacles", "fleet.pdf", 3),
        ("beagle", "report.docx", None),
        ("sailing", "sailing.html", None),
        ("moon", "notes.md", None),
        ("steer", "pilot.py", None),
    ):
        ((hit,),) = (await library.vectors.search("library", texts=[query], limit=1)).results
        assert (hit.payload["key"], hit.payload.get("page")) == (keys[name], page), query
        assert query in hit.payload["text"].lower()
    titles = {point["key"]: point["title"] for point in await library.points()}
    assert (titles[keys["fleet.pdf"]], titles[keys["notes.md"]]) == ("Fleet", "notes.md")


async def test_chunks_are_numbered_in_order(library: Library) -> None:
    text = "\n\n".join(f"Paragraph {number} about ships. " * 20 for number in range(12))
    (file,) = (await library.ingest.upload([InlineSource("a.txt", text.encode())], "library"))["files"]
    points = sorted(await library.points(), key=lambda point: point["chunk"])
    assert file.get("chunks") == len(points) > 5
    assert [point["id"] for point in points] == [f"{file['path']}#{number}" for number in range(len(points))]
    assert "\n\n".join(point["text"] for point in points).split() == text.split()


async def test_without_an_index_nothing_is_read(library: Library) -> None:
    answer = await library.ingest.upload([InlineSource("a.txt", b"words")])
    assert "chunks" not in answer["files"][0]
    with pytest.raises(NotFoundError):
        await library.vectors.describe("library")


async def test_what_cannot_be_read_is_a_warning_and_stays_stored(library: Library) -> None:
    locked = pdf(["secret"], password="p")
    batch: list[Source] = [
        InlineSource("good.txt", b"words"),
        InlineSource("noise.bin", bytes(range(256))),
        InlineSource("locked.pdf", locked),
        InlineSource("broken.pdf", b"%PDF-1.7\nbut no more"),
        InlineSource("empty.txt", b""),
        InlineSource("rule.md", b"---\n\n***\n"),
        library.uploads.file("missing.txt"),
    ]
    answer = await library.ingest.upload(batch, "library")
    assert (answer["success"], answer["status"], answer["count"]) == (True, 207, 6)
    assert [file.get("chunks") for file in answer["files"]] == [1, 0, 0, 0, 0, 0]
    warnings = answer.get("warnings", [])
    assert [warning.partition(" - ")[0] for warning in warnings] == [
        "Upload failed: missing.txt",
        "Indexing failed: noise.bin",
        "Indexing failed: locked.pdf",
        "Indexing failed: broken.pdf",
        "Indexing failed: empty.txt",
        "Indexing failed: rule.md",
    ]
    assert "password" in warnings[2]
    assert warnings[4].endswith("there is no text in it")
    stored, _ = await library.uploads.list()
    assert len(stored) == 6
    assert await library.uploads.read(answer["files"][2]["path"], 0, len(locked)) == locked


async def test_a_bad_collection_stops_the_batch_before_it_starts(library: Library) -> None:
    with pytest.raises(InvalidArgumentError, match="index: collection: a name is") as refused:
        await library.ingest.upload([InlineSource("a.txt", b"words")], "no/name")
    assert refused.value.details == {"status": 400}
    assert await library.uploads.list() == ([], None)


async def test_a_collection_for_other_vectors_is_a_warning(library: Library) -> None:
    await library.vectors.create("library", 3)
    answer = await library.ingest.upload([InlineSource("a.txt", b"words")], "library")
    (warning,) = answer.get("warnings", [])
    assert warning.startswith("Indexing failed: a.txt - collection 'library' has dimension 3")
    assert await library.points() == []


async def test_progress_counts_both_steps_and_ends_at_the_whole(library: Library) -> None:
    reports: list[tuple[float, float | None]] = []
    messages: list[str | None] = []

    async def report(progress: float, total: float | None = None, message: str | None = None) -> None:
        reports.append((progress, total))
        messages.append(message)

    batch = [InlineSource("a.txt", b"words"), InlineSource("b.bin", b"\xff" * 95), InlineSource("empty", b"")]
    await library.ingest.upload(batch, "library", report)
    done = [done for done, _ in reports]
    assert done == sorted(set(done))
    assert {total for _, total in reports} == {200}
    assert len(done) == 4
    assert (done[1], done[-1]) == (100, 200)
    assert messages[:2] == [None, None]
    assert set(messages[2:]) == {"a.txt: indexed, chunks: 1", "b.bin: not indexed"}


async def test_a_file_that_takes_too_long_is_given_up(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.001)
    answer = await library.ingest.upload([InlineSource("a.txt", b"words")], "library")
    (warning,) = answer.get("warnings", [])
    assert warning == "Indexing failed: a.txt - reading takes more than 0.001 s: split it"
    await until(lambda: readers() == [])


async def test_no_reading_process_is_a_warning(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "COMMAND", ("/no/such/python",))
    answer = await library.ingest.upload([InlineSource("a.txt", b"words")], "library")
    assert answer.get("warnings") == [
        "Indexing failed: a.txt - the reading process cannot be started: No such file or directory"
    ]


async def test_a_reading_process_that_dies_is_a_warning(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()
    killed = asyncio.Event()
    read = library.uploads.read

    async def held(key: str, offset: int, length: int) -> bytes:
        begun.set()
        await killed.wait()
        return await read(key, offset, length)

    monkeypatch.setattr(library.uploads, "read", held)
    uploading = asyncio.create_task(library.ingest.upload([InlineSource("a.txt", b"words")], "library"))
    async with asyncio.timeout(30):
        await begun.wait()
        (process,) = readers()
        os.kill(process.pid, signal.SIGKILL)
        killed.set()
        answer = await uploading
    assert answer.get("warnings") == ["Indexing failed: a.txt - the reading process ended with code -9"]


async def test_a_caller_that_leaves_ends_the_reading(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def hang(*_: object) -> bytes:
        begun.set()
        return await asyncio.Future()

    monkeypatch.setattr(library.uploads, "read", hang)
    uploading = asyncio.create_task(library.ingest.upload([InlineSource("a.txt", b"words")], "library"))
    async with asyncio.timeout(30):
        await begun.wait()
        assert len(readers()) == 1
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
    await until(lambda: readers() == [])
    assert len((await library.uploads.list())[0]) == 1


async def test_what_is_no_document_by_its_size_is_not_read(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "INDEX_BYTES", 4)
    answer = await library.ingest.upload([InlineSource("a.txt", b"12345"), InlineSource("b.txt", b"1234")], "library")
    assert answer.get("warnings") == ["Indexing failed: a.txt - 5 bytes are no document: at most 4 are read"]
    assert [file.get("chunks") for file in answer["files"]] == [0, 1]
