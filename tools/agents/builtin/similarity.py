"""How much text two documents share: word shingles for the whole, difflib for the passages.

Shingles (A. Broder, "On the resemblance and containment of documents", 1997) see only exact runs of words, so passages
that were reworded here and there are found by comparing paragraphs word by word.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from .markup import Markup
from .words import words

SHINGLE_WORDS = 5
PASSAGE_WORDS = 12  # shorter paragraphs resemble each other by chance
PASSAGE_WORDS_MOST = 400  # of a longer one the beginning decides: the word by word comparison is quadratic
NEAR_DUPLICATE = 0.75  # the least share of words in common, in order (difflib's ratio)
PASSAGES_REPORTED = 10
EXCERPT = 200  # characters


class Passage(NamedTuple):
    line: int
    text: str
    words: list[str]
    vocabulary: frozenset[str]


class Prepared(NamedTuple):
    """A document in the form in which pairs are compared."""

    shingles: frozenset[tuple[str, ...]]
    passages: list[Passage]


def prepare(markup: Markup) -> Prepared:
    """Read the paragraphs of a document for `compare`."""
    passages: list[Passage] = []
    shingles: set[tuple[str, ...]] = set()
    for paragraph in markup.prose:
        found = [word.lower() for word in words(paragraph.text)]
        shingles.update(zip(*(found[n:] for n in range(SHINGLE_WORDS)), strict=False))
        if len(found) >= PASSAGE_WORDS:
            found = found[:PASSAGE_WORDS_MOST]
            passages.append(Passage(paragraph.line, paragraph.text, found, frozenset(found)))
    return Prepared(frozenset(shingles), passages)


def compare(first: Prepared, second: Prepared, safe_point: Callable[[], None]) -> dict[str, Any]:
    """Compare two documents.

    Returns `similarity` (shared shingles over all) and `containment` (over those of the smaller document), both 0 to 1,
    and the near-duplicate `passages`, most alike first, with `passagesFound` for all.
    """
    shared = len(first.shingles & second.shingles)
    either = len(first.shingles) + len(second.shingles) - shared
    smaller = min(len(first.shingles), len(second.shingles))
    passages = sorted(_near_duplicates(first, second, safe_point), key=lambda p: (-p["similarity"], p["firstLine"]))
    return {
        "similarity": round(shared / either, 4) if either else 0.0,
        "containment": round(shared / smaller, 4) if smaller else 0.0,
        "passagesFound": len(passages),
        "passages": passages[:PASSAGES_REPORTED],
    }


def _near_duplicates(first: Prepared, second: Prepared, safe_point: Callable[[], None]) -> list[dict[str, Any]]:
    """For each passage of the first document the passage of the second that is most like it, if one is like it."""
    found: list[dict[str, Any]] = []
    matcher: SequenceMatcher[str] = SequenceMatcher(None, autojunk=False)
    for passage in first.passages:
        safe_point()
        best, ratio = None, 0.0
        for other in second.passages:
            if _may_resemble(passage, other):
                matcher.set_seqs(passage.words, other.words)
                if matcher.quick_ratio() > max(ratio, NEAR_DUPLICATE - 1e-9) and matcher.ratio() > ratio:
                    best, ratio = other, matcher.ratio()
        if best is not None and ratio >= NEAR_DUPLICATE:
            found.append(
                {
                    "similarity": round(ratio, 3),
                    "firstLine": passage.line,
                    "secondLine": best.line,
                    "firstText": _excerpt(passage.text),
                    "secondText": _excerpt(best.text),
                }
            )
    return found


def _may_resemble(passage: Passage, other: Passage) -> bool:
    """Cheap tests before the costly one: the lengths bound the ratio, and near-duplicates share most of their words."""
    shorter, longer = sorted((len(passage.words), len(other.words)))
    if 2 * shorter < NEAR_DUPLICATE * (shorter + longer):
        return False
    common = len(passage.vocabulary & other.vocabulary)
    return 2 * common >= min(len(passage.vocabulary), len(other.vocabulary))


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= EXCERPT else flat[: EXCERPT - 1] + "…"
