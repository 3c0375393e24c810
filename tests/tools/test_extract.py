"""Text out of real documents, and plain errors for whatever cannot be read."""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, NumberObject, StreamObject

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError
from quarterdeck.tools.uploads import extract as module
from quarterdeck.tools.uploads.extract import MAX_XML_BYTES, Section, extract
from tests import papers

PAGES = ("Whales sing at dawn.\nThey dive.", "The naïve second page.")
PDF, DOCX = papers.pdf(PAGES, title="On whales"), papers.docx()


def test_a_pdf_gives_its_pages() -> None:
    found = extract(PDF, "whales.pdf")
    assert found == ("pdf", "On whales", [Section(PAGES[0], 1), Section(PAGES[1], 2)])


def test_what_it_is_decides_not_what_it_is_called() -> None:
    assert extract(PDF, "notes.txt", "text/plain").format == "pdf"
    assert extract(DOCX, "notes", None).format == "docx"
    assert extract(papers.HTML.encode(), "notes.md").format == "html"
    assert extract(b"<p>centred</p>\n\n# Title", "README.md").format == "text"
    assert extract(b"words <b>bold</b>", "page.htm") == ("html", None, [Section("words **bold**", None)])


def test_a_docx_becomes_markdown() -> None:
    found = extract(DOCX, "report.docx")
    assert found.sections == [
        Section(
            "# Fleet report\n\n# Ships\n\nWhales follow the snake_case ship. It is naïve — 漢字.\n\n"
            "- Argo\n- Beagle\n\n## Crews\n\n| ship | crew |\n| --- | --- |\n| Argo | fifty |",
            None,
        )
    ]


def test_html_is_reduced_to_what_one_reads() -> None:
    found = extract(papers.HTML.encode(), "page.html", "text/html")
    text = (
        "# Sailing\n\nWhales and [ships](https://one.example/x).\n\na sail\n\n"
        '```python\nprint("a < b")\nx = 1\n```'
    )  # fmt: skip
    assert found == ("html", "Sailing & more", [Section(text, None)])


@pytest.mark.parametrize(
    ("contents", "content_type"),
    [
        ("naïve", None),
        ("\ufeffnaïve", "text/plain"),
        ("naïve".encode("utf-16"), None),
        ("naïve".encode("latin-1"), "text/plain; charset=ISO-8859-1"),
        ("<html>naïve".encode("latin-1"), "text/html;charset=iso-8859-1"),
        ('<html><meta charset="iso-8859-1">naïve'.encode("latin-1"), "text/html"),
    ],
)
def test_text_is_decoded_as_its_mark_or_its_type_says(contents: str | bytes, content_type: str | None) -> None:
    data = contents.encode() if isinstance(contents, str) else contents
    assert extract(data, "x", content_type).sections[0].text == "naïve"


def zipped(**parts: bytes) -> bytes:
    out = BytesIO()
    with ZipFile(out, "w", ZIP_DEFLATED) as archive:
        for name, contents in parts.items():
            archive.writestr(name.replace("__", "/").replace("_xml", ".xml"), contents)
    return out.getvalue()


def with_body(xml: bytes) -> bytes:
    """The DOCX with another document.xml."""
    out = BytesIO()
    with ZipFile(BytesIO(DOCX)) as source, ZipFile(out, "w", ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, xml if name == "word/document.xml" else source.read(name))
    return out.getvalue()


def unpacking(size: int) -> bytes:
    """A PDF whose page unpacks to that many bytes."""
    writer = PdfWriter(BytesIO(PDF))
    stream = StreamObject()
    stream.set_data(zlib.compress(b" " * size, 9))
    stream[NameObject("/Filter")] = NameObject("/FlateDecode")
    stream[NameObject("/Length")] = NumberObject(len(stream.get_data()))
    writer.pages[0][NameObject("/Contents")] = stream
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


LAUGHS = b"".join(
    [
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "ha">',
        *(b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 12)),
        b"]><x>&e11;</x>",
    ]
)

REFUSALS: dict[str, tuple[Callable[[], bytes], str, type[DeckError], str]] = {
    "cut": (lambda: PDF[: len(PDF) // 2], "a.pdf", InvalidArgumentError, "a.pdf cannot be read as PDF: "),
    "no pdf": (lambda: b"words", "a.pdf", InvalidArgumentError, "cannot be read as PDF: "),
    "empty pdf": (lambda: b"", "a.pdf", InvalidArgumentError, "cannot be read as PDF: "),
    "password": (lambda: papers.pdf(PAGES, password="x"), "a.pdf", InvalidArgumentError, "protected by a password"),
    "no text": (lambda: papers.pdf([""]), "a.pdf", InvalidArgumentError, "a PDF without text: its pages are blank or"),
    "pdf bomb": (lambda: unpacking(100_000_000), "a.pdf", LimitError, "unpacks to more than can be read"),
    "cut docx": (lambda: DOCX[:-100], "a.docx", InvalidArgumentError, "cannot be read as DOCX: File is not a zip file"),
    "no docx": (lambda: zipped(x=b"y"), "a.docx", InvalidArgumentError, "is a ZIP archive but no DOCX"),
    "half a docx": (lambda: zipped(word__document_xml=b"<x/>"), "a.docx", InvalidArgumentError, "cannot be read as"),
    "not xml": (lambda: with_body(b"<x>"), "a.docx", InvalidArgumentError, "no element found"),
    "laughs": (lambda: with_body(LAUGHS), "a.docx", InvalidArgumentError, "amplification"),
    "docx bomb": (lambda: with_body(b" " * MAX_XML_BYTES), "a.docx", LimitError, "bytes of XML"),
    "office": (lambda: bytes.fromhex("d0cf11e0a1b11ae1"), "a.docx", InvalidArgumentError, "save it as .docx"),
    "deep html": (lambda: b"<html>" + b"<div>" * 20_000 + b"x", "a.html", InvalidArgumentError, "too deeply"),
    "empty html": (lambda: b"<html><script>x</script></html>", "a.html", InvalidArgumentError, "HTML without text"),
    "bytes": (lambda: b"\x7fELF\xff\xfe", "a.bin", InvalidArgumentError, "neither PDF, DOCX, HTML nor utf-8 text"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_read_is_refused_plainly(case: str) -> None:
    make, name, error, text = REFUSALS[case]
    with pytest.raises(error) as refusal:
        extract(make(), name)
    assert text in str(refusal.value)
    assert str(refusal.value).startswith(name)


def test_an_unknown_charset_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown charset 'klingon'"):
        extract(b"words", "a.txt", "text/plain; charset=klingon")


def test_a_pdf_that_anyone_may_open_is_read() -> None:
    contents = papers.pdf(PAGES, owner_password="hush")
    assert PdfReader(BytesIO(contents)).is_encrypted
    assert [section.text for section in extract(contents, "a.pdf").sections] == list(PAGES)


def test_too_many_pages_and_too_much_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAGES", 1)
    with pytest.raises(LimitError, match="has 2 pages, at most 1"):
        extract(PDF, "a.pdf")
    monkeypatch.setattr(module, "MAX_PAGES", 2)
    monkeypatch.setattr(module, "MAX_CHARACTERS", 40)
    for contents, name in ((PDF, "a.pdf"), (DOCX, "a.docx")):
        with pytest.raises(LimitError, match="more than 40 characters"):
            extract(contents, name)


@pytest.mark.parametrize(
    ("package", "contents", "name"),
    [("pypdf", PDF, "a.pdf"), ("mammoth", DOCX, "a.docx"), ("bs4", papers.HTML.encode(), "a.html")],
)
def test_without_the_extra_the_command_is_named(
    package: str, contents: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DeckError, match=rf"needs the package {package}: pip install 'quarterdeck\[documents\]'"):
        extract(contents, name)
    assert extract(b"# Words", "a.md").sections == [Section("# Words", None)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([PDF, DOCX, papers.HTML.encode()]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8)), max_size=6),
    st.floats(0.2, 1),
)
def test_damage_is_read_over_or_refused(contents: bytes, damage: list[tuple[float, bytes]], kept: float) -> None:
    spoiled = bytearray(contents)
    for place, data in damage:
        start = int(place * len(spoiled))
        spoiled[start : start + len(data)] = data
    texts: list[str] = []
    with contextlib.suppress(DeckError):  # and nothing else
        texts = [section.text for section in extract(bytes(spoiled[: int(kept * len(spoiled))]), "spoiled").sections]
    assert [text.encode().decode() for text in texts] == texts
