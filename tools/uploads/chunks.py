"""Cutting a text into pieces that are worth finding by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

CHUNK_CHARACTERS = 1000
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n")
_WORD = re.compile(r"\s+")


def chunks(text: str) -> Iterator[str]:
    """Pieces of at most CHUNK_CHARACTERS in order, cut at an empty line if there is one in the second half, else at
    the end of a line, else between words. Those without a letter or digit are left out.
    """
    start = 0
    while start < len(text):
        end = _end(text, start)
        piece = text[start:end].strip("\n").rstrip()
        if any(map(str.isalnum, piece)):
            yield piece
        start = end


def _end(text: str, start: int) -> int:
    furthest = start + CHUNK_CHARACTERS
    if len(text) <= furthest:
        return len(text)
    for space in (_PARAGRAPH, _LINE, _WORD):
        ends = [found.end() for found in space.finditer(text, start + CHUNK_CHARACTERS // 2, furthest)]
        if ends:
            return ends[-1]
    return furthest
