"""Reading an upload form, however it is cut into pieces and whatever is wrong with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from quarterdeck.server.web import multipart
from quarterdeck.server.web.multipart import read_form
from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.tools.uploads import service
from quarterdeck.tools.uploads.spool import Spool
from tests.faults.test_upload_faults import largest_file

Read = list[tuple[str, str | None, bytes]]
"""Name, type and contents of each file."""


def part(contents: bytes, disposition: bytes, *headers: bytes) -> bytes:
    head = b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *headers])
    return b"--cut\r\n" + head + b"\r\n\r\n" + contents + b"\r\n"


def file(name: bytes, contents: bytes, *headers: bytes) -> bytes:
    return part(contents, b'name="files"; filename="' + name + b'"', *headers)


def index(value: bytes) -> bytes:
    return part(value, b'name="index"')


END = b"--cut--\r\n"


async def read(
    pieces: Sequence[bytes],
    folder: Path,
    content_type: str = "multipart/form-data; boundary=cut",
    *,
    stays: bool = False,
) -> tuple[Read, str | None]:
    """What is read from a body that arrives so; `stays`: and then nothing more comes."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "more_body": False})

    async def receive() -> dict[str, Any]:
        if len(messages) == 1 and stays:
            await asyncio.Event().wait()
        return messages.pop(0)

    request = Request({"type": "http", "headers": [(b"content-type", content_type.encode())]}, receive)
    with closing(Spool(folder)) as spool:
        form = await read_form(request, spool)
        files: Read = []
        for source in form.files:
            size, start = await source.prepare()
            buffer = bytearray(size + 1)
            contents = bytes(buffer[: source.open().readinto(memoryview(buffer))])
            assert (size, start) == (len(contents), contents[:4096])
            files.append((source.name, source.content_type, contents))
        return files, form.index


async def refusal(
    body: bytes, folder: Path, content_type: str = "multipart/form-data; boundary=cut"
) -> tuple[int, str]:
    with pytest.raises(DeckError) as refused:
        await read([body], folder, content_type)
    return refused.value.details["status"], refused.value.message


CONTENTS = st.binary(max_size=300) | st.sampled_from([b"\r\n--cut", b"\r\n--cu", b"--cut--", b"\r\n\r\n", b"\r"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text("ab é日.", min_size=1), CONTENTS.filter(lambda c: b"\r\n--cut" not in c)), max_size=5),
    st.lists(st.integers(0, 3000), max_size=10),
)
def test_every_cut_gives_the_same_files(files: list[tuple[str, bytes]], cuts: list[int]) -> None:
    body = b"".join(file(name.encode(), contents) for name, contents in files) + index(b"library") + END
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[start:end] for start, end in pairwise(edges)]
    with TemporaryDirectory() as folder:
        found = asyncio.run(read([piece for piece in pieces if piece], Path(folder)))
    assert found == ([(name, None, contents) for name, contents in files], "library")


@given(st.binary(max_size=400), st.booleans())
def test_no_body_makes_it_fail_otherwise_than_by_a_refusal(noise: bytes, begins_well: bool) -> None:
    async def attempt(folder: Path) -> None:
        body = file(b"a", b"x") + b"--cut\r\n" + noise if begins_well else noise
        with pytest.raises(InvalidArgumentError, match="the body is no upload form"):
            await read([body] if body else [], folder)

    if b"--cut--" not in noise:
        with TemporaryDirectory() as folder:
            asyncio.run(attempt(Path(folder)))


async def test_large_files_come_back_whole(tmp_path: Path) -> None:
    contents = os.urandom(3 << 20)
    body = file(b"a", contents) + file(b"b", contents[::-1]) + END
    pieces = [body[start : start + 60_000] for start in range(0, len(body), 60_000)]
    files, _ = await read(pieces, tmp_path)
    assert files == [("a", None, contents), ("b", None, contents[::-1])]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Content-Type: text/x-python", "text/x-python"),
        (b"content-type:text/plain; charset=latin-1", "text/plain; charset=latin-1"),
        (b"Content-Type: application/octet-stream", None),  # what senders say that do not know
        (b"Content-Type: nonsense", None),
        (b"Content-Type: text/\xe9", None),
        (b"Content-Type: text/" + b"x" * 200, None),
        (b"Content-Type: text/plain\x01", None),
        (b"X-Other: text/plain", None),
    ],
)
async def test_the_type_is_taken_from_who_knows_it(tmp_path: Path, header: bytes, expected: str | None) -> None:
    files, _ = await read([file(b"a", b"x", header) + END], tmp_path)
    assert files == [("a", expected, b"x")]


async def test_the_empty_field_of_a_page_is_no_file(tmp_path: Path) -> None:
    assert await read([file(b"", b"") + index(b"") + END], tmp_path) == ([], None)
    assert (await read([file(b"", b"x") + file(b"e", b"") + END], tmp_path))[0] == [("", None, b"x"), ("e", None, b"")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "it ends in the middle"),
        (b"no form at all", "Expected boundary character"),
        (file(b"a", b"x"), "it ends in the middle"),
        (b"--cut\r\n\r\nx\r\n" + END, "field '': files belong into 'files'"),
        (part(b"x", b'name="document"; filename="a"') + END, "file 'document': files belong into 'files'"),
        (part(b"x", b'name="files"') + END, "field 'files': files belong into 'files', each with a filename"),
        (part(b"x", b"name=files; filename*=UTF-8''a") + END, "field 'files'"),
        (part(b"x", b'name="\xff"') + END, "field '\ufffd'"),
        (index(b"a") + index(b"a") + END, "there are two fields 'index'"),
        (index(b"a" * 1025) + END, "the field 'index' has more than 1024 bytes"),
        (index(b"\xff") + END, "the field 'index' is not UTF-8"),
        (file(b"a", b"x", *[b"X: y"] * 20) + END, "Maximum header count exceeded"),
        (file(b"a" * 5000, b"x") + END, "Maximum header size exceeded"),
        (b"--cut\r\nContent Disposition: x\r\n\r\n", "Found invalid character"),
    ],
)
async def test_a_bad_form_is_explained(tmp_path: Path, body: bytes, expected: str) -> None:
    status, text = await refusal(body, tmp_path)
    assert (status, text.partition(": ")[0]) == (400, "the body is no upload form")
    assert expected in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=cut", "multipart/form-data; boundary="],
)
async def test_what_is_no_form_is_refused(tmp_path: Path, content_type: str) -> None:
    status, text = await refusal(END, tmp_path, content_type)
    assert status == 400
    assert text.startswith("the body must be multipart/form-data")


async def test_a_boundary_nobody_needs_is_refused(tmp_path: Path) -> None:
    status, text = await refusal(END, tmp_path, f"multipart/form-data; boundary={'x' * 300}")
    assert status == 400
    assert "Boundary length" in text


async def test_a_file_too_many_or_too_large_is_counted_but_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "MAX_FILE_BYTES", 1000)
    kept: list[int] = []

    class CountingSpool(Spool):
        async def append(self, piece: bytes | bytearray) -> None:
            kept.append(len(piece))
            await super().append(piece)

    async def sizes(body: bytes) -> list[int]:
        kept.clear()
        messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return messages.pop()

        headers = [(b"content-type", b"multipart/form-data; boundary=cut")]
        with closing(CountingSpool(tmp_path)) as spool:
            form = await read_form(Request({"type": "http", "headers": headers}, receive), spool)
            return [(await source.prepare()).size for source in form.files]

    assert await sizes(file(b"a", b"x" * 1000) + file(b"b", b"y") + END) == [1000, 1]
    assert sum(kept) == 1001
    large = file(b"a", b"x") + file(b"b", b"y" * 5000) + file(b"c", b"z" * 900) + END
    assert await sizes(large) == [1, 5000, 900]
    assert sum(kept) == 1
    assert await sizes(file(b"a", b"xy") * 1000 + END) == [2] * (service.MAX_FILES + 1)
    assert sum(kept) == 2 * service.MAX_FILES


async def test_a_body_without_a_length_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "BODY_BYTES", 1000)
    status, text = await refusal(file(b"a", b"x" * 2000) + END, tmp_path)
    assert status == 413
    assert "at most 1000 bytes" in text


async def test_a_client_that_sends_nothing_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "IDLE_SECONDS", 0.01)
    with pytest.raises(DeckError, match=r"nothing came for 0\.01 s") as refused:
        await read([file(b"a", b"x")], tmp_path, stays=True)
    assert refused.value.details["status"] == 408


async def test_a_client_that_leaves_is_told_apart(tmp_path: Path) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    headers = [(b"content-type", b"multipart/form-data; boundary=cut")]
    with closing(Spool(tmp_path)) as spool, pytest.raises(ClientDisconnect):
        await read_form(Request({"type": "http", "headers": headers}, receive), spool)


async def test_a_full_disk_is_an_answer(tmp_path: Path) -> None:
    with largest_file(100_000):
        status, text = await refusal(file(b"a", b"x" * 1_000_000) + END, tmp_path)
    assert (status, text) == (500, "cannot keep what arrives: File too large")


async def test_a_folder_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    with pytest.raises(DeckError, match="cannot keep what arrives: No such file or directory"):
        Spool(tmp_path / "missing")
