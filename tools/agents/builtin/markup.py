"""What a document consists of: headings, paragraphs, code and links with their line numbers, whatever it is written in.

Regular expressions here have bounded repeats: a hostile text must not make one match take long (worker/main.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

URL = re.compile(r"\bhttps?://[^\s<>\"'`|\\^{}\[\]]{1,2000}")
_HEADER_FIELD = re.compile(r"([A-Za-z][A-Za-z-]{0,40}):[ \t]?(.*)")
_RST_SIGNS = re.compile(r"^\.\. [\w|-][^\n]{0,200}::|`__?(?!\w)|::$|^([=~^*\"+#-])\1{3,}$", re.M)
_MARKDOWN_SIGNS = re.compile(r"^#{1,6} |^ {0,3}(?:```|~~~)|\]\(|\]: http", re.M)


class Heading(NamedTuple):
    line: int
    level: int
    text: str


class Paragraph(NamedTuple):
    """Text without its markup; it keeps its line breaks, so that a place in it has a line number."""

    line: int
    kind: str  # paragraph, item, quote, table
    text: str


class CodeBlock(NamedTuple):
    line: int  # of the first line of code
    kind: str  # fenced, indented, directive, literal, doctest
    language: str | None  # as the document says
    code: str


class Link(NamedTuple):
    line: int
    text: str
    target: str
    image: bool = False


class Problem(NamedTuple):
    """Something wrong that only the parser can see."""

    line: int
    check: str
    message: str


@dataclass
class Markup:
    """A parsed document."""

    format: str  # markdown, rst, plain
    title: str | None = None
    headings: list[Heading] = field(default_factory=list[Heading])
    paragraphs: list[Paragraph] = field(default_factory=list[Paragraph])
    code: list[CodeBlock] = field(default_factory=list[CodeBlock])
    links: list[Link] = field(default_factory=list[Link])
    anchors: set[str] = field(default_factory=set[str])  # names given by hand that a link can point to
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def prose(self) -> list[Paragraph]:
        """Paragraphs of sentences: all but tables."""
        return [paragraph for paragraph in self.paragraphs if paragraph.kind != "table"]


def lines_of(text: str) -> list[str]:
    """Lines as editors count them, whatever ends them."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse(text: str, name: str = "") -> Markup:
    """Parse a document in Markdown, reStructuredText or plain text; a package's METADATA header is understood.

    The format is what the METADATA says, else what the ending of `name` says, else what the text looks like.
    """
    from . import markdown, rst

    lines = lines_of(text)
    header, body = _read_header(lines)
    body_format = _declared_format(header, name) or _guess_format("\n".join(lines[body:]))
    document = Markup(body_format)
    for line, (key, value) in enumerate(header, start=1):
        if url := URL.search(value):
            document.links.append(Link(line, value[: url.start()].rstrip(" ,") or key, url[0]))
    scan = {"markdown": markdown.scan, "rst": rst.scan, "plain": _scan_plain}[body_format]
    scan(lines, body, document)
    titles = [heading.text for heading in document.headings]
    document.title = next(iter(titles), None) or dict(header).get("Name")
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


def bare_links(text: str, line: int) -> list[Link]:
    """Web addresses that stand in the text as such."""
    found: list[Link] = []
    for match in URL.finditer(text):
        url = match[0].rstrip(".,;:!?*_")
        if url.endswith(")") and "(" not in url:
            url = url.rstrip(").,")
        found.append(Link(line + text.count("\n", 0, match.start()), url, url))
    return found


def slug(text: str) -> str:
    """The anchor that GitHub and PyPI give a heading: lower case, spaces to hyphens, punctuation dropped."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
