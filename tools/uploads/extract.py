"""Text out of documents: PDF, DOCX and HTML by a library each (the extra `documents`), all other text as it is.

DOCX and HTML become Markdown, so that headings, lists, tables, links and code stay what they are. Parsers take long on
large files, and a hostile one can keep them busy: call `extract` in another thread or, better, process.
"""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile, ZipFile

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError

Format = Literal["pdf", "docx", "html", "text"]

MAX_CHARACTERS = 16 << 20  # of text; more of it is data, not a document
MAX_PAGES = 10_000
MAX_XML_BYTES = 32 << 20  # of a DOCX, unpacked; reading takes some 30 times as much memory

_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_ENDINGS: dict[str, Format] = {"pdf": "pdf", "docx": "docx", "html": "html", "htm": "html", "xhtml": "html"}
_TYPES: dict[str, Format] = {
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/html": "html",
    "application/xhtml+xml": "html",
}
_NO_TEXT = ["script", "style", "noscript", "template", "head", "nav", "svg", "iframe", "object"]  # that one reads
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

# What the parsers let through when a file is not what it says, beside their own errors.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Section(NamedTuple):
    """A page of a PDF, or the whole of another document."""

    text: str
    page: int | None  # from 1; None where the format has no pages


class Extracted(NamedTuple):
    """`title` is what the file itself says; the text is Markdown for docx and html."""

    format: Format
    title: str | None
    sections: list[Section]


def extract(contents: bytes, name: str, content_type: str | None = None) -> Extracted:
    """Read a document, whose format is what its first bytes say, else what its type or the ending of its name says.

    Raises:
        InvalidArgumentError: it is damaged, protected by a password, without any text, or in none of the formats.
        LimitError: it has more than MAX_PAGES, MAX_CHARACTERS or MAX_XML_BYTES.
        DeckError: the packages that read its format are not installed.
    """
    declared = content_type or ""
    found_charset = _CHARSET.search(declared)
    charset = found_charset[1] if found_charset else None
    kind = _format_of(contents, name, declared.partition(";")[0].strip().lower())
    if kind == "text":
        return Extracted(kind, None, [Section(_decode(contents, name, charset), None)])
    with _explained(name, kind):
        if kind == "pdf":
            title, sections = _read_pdf(contents, name)
        elif kind == "docx":
            title, sections = _read_docx(contents, name)
        else:
            title, sections = _read_html(contents, charset)
    sections = [Section(_encodable(section.text), section.page) for section in sections]
    if not any(section.text for section in sections):
        hint = ": its pages are blank or pictures" if kind == "pdf" else ""
        raise InvalidArgumentError(f"{name} is a {kind.upper()} without text{hint}")
    if sum(len(section.text) for section in sections) > MAX_CHARACTERS:
        raise LimitError(f"{name} has more than {MAX_CHARACTERS} characters of text: split it")
    return Extracted(kind, _encodable(title or "") or None, sections)


def _format_of(contents: bytes, name: str, declared: str) -> Format:
    if contents.startswith(b"%PDF-"):
        return "pdf"
    if contents.startswith(b"\xd0\xcf\x11\xe0"):  # the container of .doc, and of whatever Office protects
        raise InvalidArgumentError(
            f"{name} is an old Office document or one with a password: save it as .docx without one"
        )
    if contents.startswith(b"PK\x03\x04"):
        return "docx"
    if _HTML.match(contents):
        return "html"
    return _TYPES.get(declared) or _ENDINGS.get(name.lower().rpartition(".")[2]) or "text"


def _decode(contents: bytes, name: str, charset: str | None) -> str:
    marked = next((code for mark, code in _BYTE_ORDER_MARKS.items() if contents.startswith(mark)), None)
    encoding = marked or charset or "utf-8"
    try:
        return contents.decode(encoding)
    except LookupError:
        raise InvalidArgumentError(f"{name}: its content type names the unknown charset {encoding!r}") from None
    except UnicodeDecodeError as exc:
        raise InvalidArgumentError(
            f"{name} is neither PDF, DOCX, HTML nor {encoding} text (byte {exc.start}): convert it, or upload it "
            "with the contentType text/plain; charset=…"
        ) from None


def _encodable(text: str) -> str:
    """Broken files yield halves of characters and NULs, which most stores refuse."""
    return text.replace("\0", "").encode(errors="replace").decode().strip()


@contextmanager
def _explained(name: str, kind: Format) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        raise DeckError(
            f"{name}: reading {kind.upper()} needs the package {exc.name}: pip install 'quarterdeck[documents]'"
        ) from exc
    except RecursionError:
        raise InvalidArgumentError(f"{name} is nested too deeply to be read") from None
    except _DAMAGE as exc:
        raise InvalidArgumentError(f"{name} cannot be read as {kind.upper()}: {exc or type(exc).__name__}") from exc


def _read_pdf(contents: bytes, name: str) -> tuple[str | None, list[Section]]:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, LimitReachedError, PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it logs every oddity that it reads over
    try:
        reader = PdfReader(BytesIO(contents))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidArgumentError(f"{name} is protected by a password: save it without one")
        if len(reader.pages) > MAX_PAGES:
            raise LimitError(f"{name} has {len(reader.pages)} pages, at most {MAX_PAGES} are read: split it")
        sections: list[Section] = []
        left = MAX_CHARACTERS
        for number, page in enumerate(reader.pages, start=1):
            text = page.extract_text()
            sections.append(Section(text, number))
            left -= len(text)
            if left < 0:
                break
        title = reader.metadata.title if reader.metadata else None
    except LimitReachedError as exc:
        raise LimitError(f"{name} unpacks to more than can be read: {exc}") from exc
    except (PyPdfError, DependencyError) as exc:
        raise ValueError(str(exc)) from exc
    return title, sections


def _read_docx(contents: bytes, name: str) -> tuple[str | None, list[Section]]:
    from xml.parsers.expat import ExpatError

    with ZipFile(BytesIO(contents)) as archive:
        if "word/document.xml" not in archive.namelist():
            raise InvalidArgumentError(f"{name} is a ZIP archive but no DOCX: upload the documents in it one by one")
        size = sum(part.file_size for part in archive.infolist() if part.filename.endswith((".xml", ".rels")))
    if size > MAX_XML_BYTES:
        raise LimitError(f"{name} unpacks to {size} bytes of XML, at most {MAX_XML_BYTES} are read: split it")
    mammoth: Any = import_module("mammoth")  # it has no types
    try:
        html = mammoth.convert_to_html(
            BytesIO(contents),
            style_map="p[style-name='Title'] => h1:fresh",
            convert_image=mammoth.images.img_element(_without_picture),
            include_embedded_style_map=False,
        ).value
    except ExpatError as exc:
        raise ValueError(str(exc)) from exc
    return _read_html(html, None)


def _without_picture(_: object) -> dict[str, str]:
    return {}


def _read_html(markup: bytes | str, charset: str | None) -> tuple[str | None, list[Section]]:
    from bs4 import BeautifulSoup
    from markdownify import ATX, MarkdownConverter

    soup = BeautifulSoup(markup, "html.parser", from_encoding=charset if isinstance(markup, bytes) else None)
    title = soup.title.get_text(" ", strip=True) if soup.title else None
    for element in [*soup(_NO_TEXT), *soup.select("[hidden], [aria-hidden=true]")]:
        element.decompose()
    for image in soup("img"):
        source = str(image.get("src") or "")
        if not source or source.startswith("data:"):
            image.replace_with(str(image.get("alt") or ""))
    root = soup.select_one("main, [role=main]") or soup.body or soup
    converter = MarkdownConverter(
        heading_style=ATX, bullets="-", escape_asterisks=False, escape_underscores=False,
        table_infer_header=True, code_language_callback=_code_language,
    )  # fmt: skip
    return title, [Section(converter.convert_soup(root), None)]


def _code_language(pre: Any) -> str | None:
    """The `language-…` class, which HTML recommends for the `code` in a `pre`."""
    classes = [name for element in (pre, pre.code) if element for name in element.get("class") or ()]
    return next((name.removeprefix("language-") for name in classes if name.startswith("language-")), None)
