"""From a document's text to its markup, whatever it is written in."""

from __future__ import annotations

import re

from . import markdown, rst
from .markup import URL, Link, Markup, Paragraph, bare_links, lines_of

_HEADER_FIELD = re.compile(r"([A-Za-z][A-Za-z-]{0,40}):[ \t]?(.*)")
_RST_SIGNS = re.compile(r"^\.\. [\w|-][^\n]{0,200}::|`__?(?!\w)|::$|^([=~^*\"+#-])\1{3,}$", re.M)
_MARKDOWN_SIGNS = re.compile(r"^#{1,6} |^ {0,3}(?:```|~~~)|\]\(|\]: http", re.M)


def parse(text: str, name: str = "", known_format: str | None = None) -> Markup:
    """Parse a document in Markdown, reStructuredText or plain text; a package's METADATA header is understood.

    Where the format is not known, it is what the METADATA says, else what the ending of `name` says, else what the
    text looks like.
    """
    lines = lines_of(text)
    header, body = _read_header(lines)
    body_format = known_format or _declared_format(header, name) or _guess_format("\n".join(lines[body:]))
    document = Markup(body_format)
    for line, (key, value) in enumerate(header, start=1):
        if url := URL.search(value):
            document.links.append(Link(line, value[: url.start()].rstrip(" ,") or key, url[0]))
    scan = {"markdown": markdown.scan, "rst": rst.scan, "plain": _scan_plain}[body_format]
    scan(lines, body, document)
    document.title = dict(header).get("Name") or next((heading.text for heading in document.headings), None)
    return document


def _read_header(lines: list[str]) -> tuple[list[tuple[str, str]], int]:
    """The header fields of a METADATA file, one entry a line, and the index of the line where the body starts."""
    if not lines[0].startswith("Metadata-Version:"):
        return [], 0
    header: list[tuple[str, str]] = []
    for line in lines:
        if not line.strip():
            break
        match = _HEADER_FIELD.match(line)
        header.append((match[1], match[2].strip()) if match else ("", line.strip()))
    return header, len(header)


def _declared_format(header: list[tuple[str, str]], name: str) -> str | None:
    declared = dict(header).get("Description-Content-Type", "").split(";")[0].strip().lower()
    by_type = {"text/markdown": "markdown", "text/x-rst": "rst", "text/plain": "plain"}
    by_ending = {"md": "markdown", "markdown": "markdown", "rst": "rst"}
    return by_type.get(declared) or by_ending.get(name.lower().rpartition(".")[2])


def _guess_format(body: str) -> str:
    markdown, rst = (sum(1 for _ in signs.finditer(body)) for signs in (_MARKDOWN_SIGNS, _RST_SIGNS))
    if not markdown and not rst:
        return "plain"
    return "markdown" if markdown >= rst else "rst"


def _scan_plain(lines: list[str], start: int, document: Markup) -> None:
    first = start
    for number in range(start, len(lines) + 1):
        if number == len(lines) or not lines[number].strip():
            if number > first:
                text = "\n".join(lines[first:number])
                document.paragraphs.append(Paragraph(first + 1, "paragraph", text))
                document.links += bare_links(text, first + 1)
            first = number + 1
