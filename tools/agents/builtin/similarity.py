"""How much text two documents share: word shingles for the whole, difflib for the passages.

Shingles (A. Broder, "On the resemblance and containment of documents", 1997) see only exact runs of words, so sentences
that were reworded here and there are found by comparing them word by word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from .documents import Document
from .words import shorten, words

SHINGLE_WORDS = 5
SENTENCE_WORDS = 8  # shorter sentences resemble each other by chance
SENTENCE_WORDS_MOST = 200  # of a longer one the beginning decides: the comparison is quadratic
NEAR_DUPLICATE = 0.75  # the least share of words in common, in order (difflib's ratio)
PASSAGES_REPORTED = 10
EXCERPT = 200  # characters


class PreparedSentence(NamedTuple):
    line: int
    text: str
    words: list[str]
    vocabulary: frozenset[str]


class Prepared(NamedTuple):
    """A document in the form in which pairs are compared."""

    shingles: frozenset[tuple[str, ...]]
    sentences: list[PreparedSentence]


class Match(NamedTuple):
    """Two sentences by their places in the documents, and their ratio."""

    first: int
    second: int
    ratio: float


def prepare(document: Document) -> Prepared:
    """Read the prose of a document for `compare`."""
    prepared: list[PreparedSentence] = []
    shingles: set[tuple[str, ...]] = set()
    for paragraph in document.markup.prose:
        found = [word.lower() for word in words(paragraph.text)]
        shingles.update(zip(*(found[n:] for n in range(SHINGLE_WORDS)), strict=False))
    for sentence in document.sentences():
        found = [word.lower() for word in words(sentence.text)[:SENTENCE_WORDS_MOST]]
        if len(found) >= SENTENCE_WORDS:
            prepared.append(PreparedSentence(sentence.line, sentence.text, found, frozenset(found)))
    return Prepared(frozenset(shingles), prepared)


def compare(first: Prepared, second: Prepared, safe_point: Callable[[], None]) -> dict[str, Any]:
    """Compare two documents.

    Returns `similarity` (shared shingles over all) and `containment` (over those of the smaller document), both 0 to 1,
    and the near-duplicate `passages`, runs of sentences, the longest first, with `passagesFound` for all.
    """
    shared = len(first.shingles & second.shingles)
    either = len(first.shingles) + len(second.shingles) - shared
    smaller = min(len(first.shingles), len(second.shingles))
    passages = _runs(_near_duplicates(first, second, safe_point))
    passages.sort(key=lambda run: (-len(run), run[0].first))
    return {
        "similarity": round(shared / either, 4) if either else 0.0,
        "containment": round(shared / smaller, 4) if smaller else 0.0,
        "passagesFound": len(passages),
        "passages": [_describe(run, first.sentences, second.sentences) for run in passages[:PASSAGES_REPORTED]],
    }


def _near_duplicates(first: Prepared, second: Prepared, safe_point: Callable[[], None]) -> list[Match]:
    """For each sentence of the first document the one of the second that is most like it, if one is like it."""
    found: list[Match] = []
    matcher: SequenceMatcher[str] = SequenceMatcher(None, autojunk=False)
    for i, sentence in enumerate(first.sentences):
        safe_point()
        best = Match(i, -1, 0.0)
        for j, other in enumerate(second.sentences):
            if _may_resemble(sentence, other):
                matcher.set_seqs(sentence.words, other.words)
                if matcher.quick_ratio() >= NEAR_DUPLICATE and (ratio := matcher.ratio()) > best.ratio:
                    best = Match(i, j, ratio)
        if best.ratio >= NEAR_DUPLICATE:
            found.append(best)
    return found


def _may_resemble(sentence: PreparedSentence, other: PreparedSentence) -> bool:
    """Cheap tests before the costly one: the lengths bound the ratio, and near-duplicates share most of their words."""
    shorter, longer = len(sentence.words), len(other.words)
    if shorter > longer:
        shorter, longer = longer, shorter
    if 2 * shorter < NEAR_DUPLICATE * (shorter + longer):
        return False
    common = len(sentence.vocabulary & other.vocabulary)
    return 2 * common >= min(len(sentence.vocabulary), len(other.vocabulary))


def _runs(matches: list[Match]) -> list[list[Match]]:
    """Matches that follow each other in both documents belong together."""
    runs: list[list[Match]] = []
    for match in matches:
        if runs and (match.first, match.second) == (runs[-1][-1].first + 1, runs[-1][-1].second + 1):
            runs[-1].append(match)
        else:
            runs.append([match])
    return runs


def _describe(
    run: list[Match], first: Sequence[PreparedSentence], second: Sequence[PreparedSentence]
) -> dict[str, Any]:
    return {
        "sentences": len(run),
        "similarity": round(sum(match.ratio for match in run) / len(run), 3),
        "firstLine": first[run[0].first].line,
        "secondLine": second[run[0].second].line,
        "firstText": shorten(" ".join(first[match.first].text for match in run), EXCERPT),
        "secondText": shorten(" ".join(second[match.second].text for match in run), EXCERPT),
    }
