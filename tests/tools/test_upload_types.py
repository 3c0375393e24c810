"""Types by contents, and by name where those leave it open."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import puremagic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.tools.uploads import types
from quarterdeck.tools.uploads.types import type_of


def archive(*names: str) -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w") as written:
        for name in names:
            written.writestr(name, "x")
    return buffer.getvalue()


DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("start", "name", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a", "image/png"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a.txt", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(50), "a.pdf", "image/jpeg"),
        (b"GIF89a" + bytes(20), "", "image/gif"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a.docx", "application/pdf"),
        (b"%PDF-1.7\n1 0 obj", "a", "application/pdf"),
        (archive("a"), "a", "application/zip"),
        (archive("a"), "a.zip", "application/zip"),
        (archive("word/document.xml"), "a.docx", DOCX),
        (archive("word/document.xml"), "a.DOCX", DOCX),
        (gzip.compress(b"x", mtime=0), "a.tar.gz", "application/x-gzip"),
        (Path("/bin/sh").read_bytes()[:4096], "sh", "application/octet-stream"),
        (b"<!DOCTYPE html><html><body>x", "page", "text/html"),
        (b"<p>a fragment</p>", "page.html", "text/html"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "a", "image/svg+xml"),
        (b"# Title\n\ntext", "a.md", "text/markdown"),
        (b"# Title\n\ntext", "a", "text/plain"),
        (b'{"a": 1}', "a.json", "application/json"),
        (b"import os\n", "a.py", "text/x-python"),
        (b"a,b\n1,2\n", "a.csv", "text/csv"),
        (b"plain words", "a.png", "text/plain"),
        (b"plain words", "a.zip", "text/plain"),
        (b"BMW builds cars, no bitmaps", "a", "text/plain"),
        (b"MZ and PK are letters too", "a", "text/plain"),
        ("naïve 日本".encode()[:-1], "a", "text/plain"),  # cut within a character
        ("naïve".encode("latin-1"), "a.txt", "text/plain"),
        (bytes(range(256)), "a", "application/octet-stream"),
        (bytes(range(256)), "a.woff2", "font/woff2"),
        (b"", "a", "application/octet-stream"),
        (b"", "a.csv", "text/csv"),
        (b"", "a.csv.gz", "application/octet-stream"),
    ],
)
def test_types(start: bytes, name: str, expected: str) -> None:
    assert type_of(start, name) == expected


@given(st.binary(max_size=100), st.text(max_size=20))
def test_anything_has_a_type(start: bytes, name: str) -> None:
    major, _, minor = type_of(start, name).partition("/")
    assert major
    assert minor


def test_no_signature_is_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most files are known to have none without a look at each of them."""
    tables: Any = puremagic
    noise = b"\xfe" * 4096
    kinds = [*tables.magic_header_array[::10], *tables.magic_footer_array[::10]]
    starts = [noise[: max(kind.offset, 0)] + kind.byte_match + noise[: max(kind.offset, 0)] for kind in kinds]
    found = [type_of(start, "") for start in starts]
    monkeypatch.setattr(types, "_marks", lambda: {0: (b"",)})  # looks at each
    assert found == [type_of(start, "") for start in starts]
    assert found.count("application/octet-stream") < len(found) / 2
