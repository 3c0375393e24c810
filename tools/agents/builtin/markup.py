"""What a document consists of: headings, paragraphs, code and links with their line numbers, whatever it is written in.

Regular expressions here have bounded repeats: a hostile text must not make one match take long (worker/main.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

URL = re.compile(r"\bhttps?://[^\s<>\"'`|\\^{}\[\]]{1,2000}")


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


class LineCounter:
    """Line numbers of places in a text whose first line is `first`; cheap as long as the places ascend."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._text = ""
        self._at = 0
        self._line = first

    def line(self, text: str, place: int) -> int:
        """The line of `text[place]`."""
        if text is not self._text or place < self._at:
            self._text, self._at, self._line = text, 0, self._first
        self._line += text.count("\n", self._at, place)
        self._at = place
        return self._line


def lines_of(text: str) -> list[str]:
    """Lines as editors count them, whatever ends them."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def bare_links(text: str, line: int) -> list[Link]:
    """Web addresses that stand in the text as such."""
    found: list[Link] = []
    counter = LineCounter(line)
    for match in URL.finditer(text):
        url = match[0].rstrip(".,;:!?*_")
        if url.endswith(")") and "(" not in url:
            url = url.rstrip(").,")
        found.append(Link(counter.line(text, match.start()), url, url))
    return found


def slug(text: str) -> str:
    """The anchor that GitHub and PyPI give a heading: lower case, spaces to hyphens, punctuation dropped."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
