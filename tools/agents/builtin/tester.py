"""The tester: concrete defects of documents, each with its line, and a verdict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

from ..worker.task import Task
from .documents import Document, Result, work_through
from .markup import LineCounter, Markup, lines_of, slug
from .words import shorten, words

PARAGRAPH_WORDS = 200
ISSUES_REPORTED = 200

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_LEFTOVER = re.compile(r"\b(?:TODO|FIXME|XXX|TBD)\b|(?i:\blorem ipsum\b)|^(?:<{7}|>{7}) ", re.M)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//")


class Issue(NamedTuple):
    line: int
    severity: str  # error: the verdict is fail; warning
    check: str
    message: str


def validate_document(task: Task) -> Result:
    """Check each document; the verdict is `fail` if there is an error, warnings alone pass."""
    return work_through(task, "validation", _validate)


def _validate(document: Document) -> Result:
    issues = sorted(set(check(document)))
    by_check = Counter(issue.check for issue in issues)
    severities = Counter(issue.severity for issue in issues)
    return {
        "verdict": "fail" if severities["error"] else "pass",
        "errors": severities["error"],
        "warnings": severities["warning"],
        "byCheck": dict(sorted(by_check.items())),
        "issues": [{**issue._asdict(), "message": shorten(issue.message, 300)} for issue in issues[:ISSUES_REPORTED]],
    }


def check(document: Document) -> Iterator[Issue]:
    """All issues of a document, in no particular order."""
    if not document.text.strip():
        yield Issue(1, "error", "empty", "the document is empty")
        return
    markup = document.markup
    yield from _check_characters(document.text)
    yield from (Issue(problem.line, "error", problem.check, problem.message) for problem in markup.problems)
    yield from _check_headings(markup)
    yield from _check_links(markup)
    yield from _check_paragraphs(markup)


def _check_characters(text: str) -> Iterator[Issue]:
    for number, line in enumerate(lines_of(text), start=1):
        if "\ufffd" in line:
            count = line.count("\ufffd")
            yield Issue(number, "error", "replacement-character", f"{count} x U+FFFD: text was lost in a conversion")
        if match := _CONTROL.search(line):
            yield Issue(number, "error", "control-character", f"control character U+{ord(match[0]):04X}")


def _check_headings(markup: Markup) -> Iterator[Issue]:
    if not markup.headings:
        yield Issue(1, "warning", "missing-title", "no heading at all")
    for previous, heading in zip(markup.headings, markup.headings[1:], strict=False):
        if heading.level > previous.level + 1:
            message = f"{heading.text!r} is at level {heading.level}, after level {previous.level}"
            yield Issue(heading.line, "warning", "heading-jump", message)


def heading_anchors(markup: Markup) -> set[str]:
    """What a link inside the document can point to."""
    anchors = {anchor.lower() for anchor in markup.anchors} | {"", "top"}
    seen: Counter[str] = Counter()
    for heading in markup.headings:
        name = slug(heading.text)
        anchors |= {f"{name}-{seen[name]}" if seen[name] else name, " ".join(heading.text.lower().split())}
        seen[name] += 1
    return anchors


def _check_links(markup: Markup) -> Iterator[Issue]:
    anchors = heading_anchors(markup)
    for link in markup.links:
        target = unquote(link.target)
        if not target:
            yield Issue(link.line, "error", "empty-link", f"[{link.text}] leads nowhere")
        elif target.startswith("#"):
            if target[1:].lower() not in anchors:
                yield Issue(link.line, "error", "broken-anchor", f"{target} is no heading or anchor of this document")
        elif not _SCHEME.match(target):
            message = f"{target} is relative: it works in the repository only, not where the text stands alone"
            yield Issue(link.line, "warning", "relative-link", message)


def _check_paragraphs(markup: Markup) -> Iterator[Issue]:
    for paragraph in markup.paragraphs:
        counter = LineCounter(paragraph.line)
        for match in _LEFTOVER.finditer(paragraph.text):
            number = counter.line(paragraph.text, match.start())
            yield Issue(number, "warning", "leftover", f"{match[0].strip()!r} was left in the text")
        count = len(words(paragraph.text))
        if paragraph.kind == "paragraph" and count > PARAGRAPH_WORDS:
            yield Issue(
                paragraph.line, "warning", "long-paragraph", f"{count} words; over {PARAGRAPH_WORDS} few read on"
            )
