"""The skeleton that texts share, with slots where they differ.

One text is the example; every other one is aligned with it word by word (difflib), and what most of them have in common
with it, in order, is fixed. A template is then tried on every text, so that its figures are those of real matches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, NamedTuple

from .words import shorten

SUPPORT = 0.8  # the least share of the texts that have a fixed word
MOST_TOKENS = 300  # of a text; the alignment is quadratic
FEWEST_WORDS = 2  # that are fixed, or it is no template
TEMPLATE_CHARACTERS = 2000
SLOTS_REPORTED = 10
EXAMPLES = 3  # of what stands in a slot
EXAMPLE_CHARACTERS = 60

_TOKEN = re.compile(r"\w+|[^\w\s]")


class _Text(NamedTuple):
    text: str
    tokens: list[str]  # words and signs, at most MOST_TOKENS
    spans: list[tuple[int, int]]

    @staticmethod
    def read(text: str) -> _Text:
        found = list(islice(_TOKEN.finditer(text), MOST_TOKENS))
        return _Text(text, [match[0] for match in found], [match.span() for match in found])


class _Part(NamedTuple):
    """A fixed run of the example's tokens."""

    start: int
    end: int


def find_template(texts: Sequence[str], safe_point: Callable[[], None]) -> dict[str, Any] | None:
    """The template of texts, the first of which is the example; None if they share no FEWEST_WORDS words in order.

    Returns `{template, texts, matches, fixedShare, slotCount, slots: [{slot, filled, distinct, examples}]}`. Slot n
    stands as {n} in `template`; `matches` counts the texts that have all fixed parts in order, `filled` those of them
    with something in the slot; `fixedShare` is that of the example's words and signs.
    """
    example, *others = read = [_Text.read(text) for text in texts]
    parts = _fixed_parts(example, others, safe_point)
    fixed = [token for part in parts for token in example.tokens[part.start : part.end]]
    if sum(map(_is_word, fixed)) < FEWEST_WORDS:
        return None
    found = [gaps for text in read if (gaps := _match(example.tokens, parts, text)) is not None]
    slots = [place for place in range(len(parts) + 1) if any(gaps[place] for gaps in found)]
    return {
        "template": _render(example, parts, slots),
        "texts": len(texts),
        "matches": len(found),
        "fixedShare": round(len(fixed) / len(example.tokens), 3),
        "slotCount": len(slots),
        "slots": [
            _describe(number, [gaps[place] for gaps in found])
            for number, place in enumerate(slots[:SLOTS_REPORTED], start=1)
        ],
    }


def _is_word(token: str) -> bool:
    return token[0].isalnum() or token[0] == "_"


def _fixed_parts(example: _Text, others: Sequence[_Text], safe_point: Callable[[], None]) -> list[_Part]:
    size = len(example.tokens)
    having = [1] * size  # texts that have this token
    joined = [1] * size  # and the one before it right before it
    matcher: SequenceMatcher[str] = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(example.tokens)
    for other in others:
        safe_point()
        matcher.set_seq1(other.tokens)
        for block in matcher.get_matching_blocks():
            for offset in range(block.size):
                having[block.b + offset] += 1
                joined[block.b + offset] += offset > 0
    needed = math.ceil(SUPPORT * (1 + len(others)))
    parts: list[_Part] = []
    for place in range(size):
        if having[place] >= needed:
            if parts and parts[-1].end == place and joined[place] >= needed:
                parts[-1] = _Part(parts[-1].start, place + 1)
            else:
                parts.append(_Part(place, place + 1))
    return [part for part in parts if any(map(_is_word, example.tokens[part.start : part.end]))]


def _match(example: list[str], parts: Sequence[_Part], text: _Text) -> list[str] | None:
    """What stands before, between and behind the parts in a text; None if it lacks one. Each is taken at the first
    place behind the one before, which finds a match if there is one."""
    gaps: list[str] = []
    token = place = 0
    for part in parts:
        wanted = example[part.start : part.end]
        starts = range(token, len(text.tokens) - len(wanted) + 1)
        start = next((n for n in starts if text.tokens[n : n + len(wanted)] == wanted), None)
        if start is None:
            return None
        gaps.append(text.text[place : text.spans[start][0]].strip())
        token = start + len(wanted)
        place = text.spans[token - 1][1]
    return [*gaps, text.text[place:].strip()]


def _render(example: _Text, parts: Sequence[_Part], slots: Sequence[int]) -> str:
    bounds = [(example.spans[part.start][0], example.spans[part.end - 1][1]) for part in parts]
    ends = [0, *(end for _, end in bounds)]
    starts = [*(start for start, _ in bounds), len(example.text)]
    rendered: list[str] = []
    for place, (end, start) in enumerate(zip(ends, starts, strict=True)):
        gap = example.text[end:start]
        rendered.append(_slot(slots.index(place) + 1, gap) if place in slots else gap)
        rendered.append(example.text[start : ends[place + 1]] if place < len(parts) else "")
    return shorten("".join(rendered), TEMPLATE_CHARACTERS)


def _slot(number: int, gap: str) -> str:
    """Spaced as the example is."""
    return f"{' ' if gap[:1].isspace() else ''}{{{number}}}{' ' if gap[-1:].isspace() else ''}"


def _describe(number: int, gaps: Sequence[str]) -> dict[str, Any]:
    filled = [shorten(gap, EXAMPLE_CHARACTERS) for gap in gaps if gap]
    distinct = list(dict.fromkeys(filled))
    return {"slot": number, "filled": len(filled), "distinct": len(distinct), "examples": distinct[:EXAMPLES]}
