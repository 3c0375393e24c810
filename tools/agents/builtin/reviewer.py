"""The reviewer: how well documents read, with comments by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..worker.task import Task
from .documents import Document, Result, Sentence, work_through
from .markup import LineCounter
from .words import reading_ease, words

SENTENCE_WORDS = 35
COMMENTS_REPORTED = 200
DUPLICATE_WORDS = 8  # shorter paragraphs may well occur twice

RIGHTLY_REPEATED = {"that", "had", "is", "bla", "very", "ha", "no", "so"}
HEDGES = frozenset(
    """actually apparently arguably basically essentially fairly generally hopefully likely mostly perhaps possibly
    presumably probably quite rather relatively seemingly simply somewhat supposedly virtually""".split()  # noqa: SIM905
)
_IRREGULAR = (
    "built|bound|broken|brought|chosen|done|drawn|driven|fed|found|given|held|hidden|kept|known|left|lost|made|meant|put"
    "|read|run|seen|sent|set|shown|spent|split|taken|thrown|told|understood|written"
)
_PASSIVE = re.compile(rf"\b(?:am|is|are|was|were|be|been|being)(?:\s+\w+ly)?\s+(?:\w{{2,30}}ed|{_IRREGULAR})\b", re.I)
_REPEATED = re.compile(r"\b([^\W\d_]+)(\s+)\1\b", re.I)


class Comment(NamedTuple):
    line: int
    kind: str
    comment: str


def review_document(task: Task) -> Result:
    """Readability, and comments on long sentences, repeated words and repeated paragraphs."""
    return work_through(task, "review", _review)


def _review(document: Document) -> Result:
    found = document.sentences()
    all_words = [word for sentence in found for word in words(sentence.text)]
    comments = sorted([*_long_sentences(found), *_repeated_words(document), *_repeated_paragraphs(document)])
    ease = reading_ease(all_words, len(found))
    passive = sum(1 for sentence in found if _PASSIVE.search(sentence.text))
    return {
        "readingEase": ease,
        "readingLevel": reading_level(ease),
        "words": len(all_words),
        "sentences": len(found),
        "wordsPerSentence": round(len(all_words) / len(found), 1) if found else None,
        "passiveSentences": passive,
        "hedgeWords": sum(1 for word in all_words if word.lower() in HEDGES),
        "commentsFound": len(comments),
        "comments": [comment._asdict() for comment in comments[:COMMENTS_REPORTED]],
    }


def reading_level(ease: float | None) -> str | None:
    """Flesch's own names for the bands of his scale."""
    if ease is None:
        return None
    bands = ((90, "very easy"), (80, "easy"), (70, "fairly easy"), (60, "standard"), (50, "fairly difficult"))
    for least, name in (*bands, (30, "difficult")):
        if ease >= least:
            return name
    return "very difficult"


def _long_sentences(found: list[Sentence]) -> Iterator[Comment]:
    for sentence in found:
        count = len(words(sentence.text))
        if count > SENTENCE_WORDS:
            start = sentence.text[:60].rsplit(" ", 1)[0]
            yield Comment(sentence.line, "long-sentence", f"{count} words in one sentence: {start} …")


def _repeated_words(document: Document) -> Iterator[Comment]:
    for paragraph in document.markup.prose:
        counter = LineCounter(paragraph.line)
        for match in _REPEATED.finditer(paragraph.text):
            if match[1].lower() not in RIGHTLY_REPEATED and match[0].split()[1][0].islower():
                line = counter.line(paragraph.text, match.end())
                yield Comment(line, "repeated-word", f"{' '.join(match[0].split())!r}")


def _repeated_paragraphs(document: Document) -> Iterator[Comment]:
    first_lines: dict[str, int] = {}
    for paragraph in document.markup.prose:
        text = " ".join(paragraph.text.split())
        if len(words(text)) >= DUPLICATE_WORDS:
            first = first_lines.setdefault(text, paragraph.line)
            if first != paragraph.line:
                yield Comment(paragraph.line, "repeated-paragraph", f"the same as on line {first}")
