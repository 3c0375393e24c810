"""The system architect: how documents are built, where they link to, and how they refer to each other."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from ..worker.task import Task
from .documents import Document, Result, keep, read_documents
from .markup import LineCounter, Markup
from .tester import heading_anchors
from .words import shorten, words

LINKS_REPORTED = 100
HOSTS_REPORTED = 50
SECTIONS_REPORTED = 500
MENTION_CHARACTERS = 4  # shorter titles occur in any text

_UPLOAD_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d_")


def map_structure(task: Task) -> Result:
    """Section tree with sizes, the links by kind and host, and the references between the given documents."""
    documents = read_documents(task)
    results: list[tuple[str, Result]] = []
    for number, document in enumerate(documents):
        task.progress(number, len(documents), document.title)
        structure = {
            **document.about(),
            **section_tree(document.markup),
            **link_map(document.markup),
            "references": references(document, documents),
        }
        results.append((document.name, structure))
    stored = keep(task, "structure", results)
    task.progress(len(documents), len(documents), "done")
    return {"documents": [structure for _, structure in results], "stored": stored}


def section_tree(markup: Markup) -> Result:
    """`{depth, sectionCount, wordsBeforeFirstHeading, sections}`; a section is {line, level, title, words, totalWords,
    codeBlocks, sections}, where `totalWords` includes the sections inside."""
    roots: list[dict[str, Any]] = []
    path: list[dict[str, Any]] = []
    flat: list[dict[str, Any]] = []
    for heading in markup.headings[:SECTIONS_REPORTED]:
        section: dict[str, Any] = {
            "line": heading.line,
            "level": heading.level,
            "title": shorten(heading.text, 200),
            "words": 0,
            "totalWords": 0,
            "codeBlocks": 0,
            "sections": [],
        }
        while path and path[-1]["level"] >= heading.level:
            path.pop()
        (path[-1]["sections"] if path else roots).append(section)
        path.append(section)
        flat.append(section)
    before = 0
    for paragraph in markup.paragraphs:
        section_of_it = _section_at(flat, paragraph.line)
        if section_of_it is None:
            before += len(words(paragraph.text))
        else:
            section_of_it["words"] += len(words(paragraph.text))
    for block in markup.code:
        if (section_of_it := _section_at(flat, block.line)) is not None:
            section_of_it["codeBlocks"] += 1
    depth = max((_total(root) for root in roots), default=0)
    return {"depth": depth, "sectionCount": len(markup.headings), "wordsBeforeFirstHeading": before, "sections": roots}


def _section_at(sections: list[dict[str, Any]], line: int) -> dict[str, Any] | None:
    from bisect import bisect_right

    index = bisect_right(sections, line, key=lambda section: section["line"])
    return sections[index - 1] if index else None


def _total(section: dict[str, Any]) -> int:
    """Add up the words of the sections inside; returns the depth."""
    depth = max((_total(inner) for inner in section["sections"]), default=0)
    section["totalWords"] = section["words"] + sum(inner["totalWords"] for inner in section["sections"])
    return depth + 1


def link_map(markup: Markup) -> Result:
    """`{links: {internal, relative, external, images, brokenAnchors}, hosts: {host: count}, targets: […]}`."""
    anchors = heading_anchors(markup)
    kinds: Counter[str] = Counter(dict.fromkeys(("internal", "relative", "external", "images"), 0))
    hosts: Counter[str] = Counter()
    broken: list[dict[str, Any]] = []
    for link in markup.links:
        host = _host(link.target)
        kind = "internal" if link.target.startswith("#") else "external" if host is not None else "relative"
        kinds["images" if link.image else kind] += 1
        if host:
            hosts[host] += 1
        if kind == "internal" and link.target[1:].lower() not in anchors:
            broken.append({"line": link.line, "target": shorten(link.target, 500)})
    return {
        "links": dict(kinds),
        "brokenAnchors": broken[:LINKS_REPORTED],
        "hosts": dict(hosts.most_common(HOSTS_REPORTED)),
        "targets": [
            {**link._asdict(), "text": shorten(link.text, 200), "target": shorten(link.target, 500)}
            for link in markup.links[:LINKS_REPORTED]
        ],
    }


def _host(target: str) -> str | None:
    """The host of an absolute address, the empty text for one without a host (mailto), None for a relative one."""
    try:
        parts = urlsplit(target)
    except ValueError:  # such as http://[
        return None
    return parts.hostname or "" if parts.scheme or parts.netloc else None


def references(document: Document, others: list[Document]) -> list[Result]:
    """The other documents that this one links to or mentions by title: `[{document, links, mentions}]`, lines each."""
    found: list[Result] = []
    for other in others:
        if other.name == document.name:
            continue
        file_name = _UPLOAD_TIME.sub("", other.name.rsplit("/", 1)[-1]).lower()
        links = [link.line for link in document.markup.links if f"/{link.target}".lower().endswith(f"/{file_name}")]
        mentions = _mentions(document.markup, other.title)
        if links or mentions:
            found.append({"document": other.name, "links": links[:20], "mentions": mentions[:20]})
    return found


def _mentions(markup: Markup, title: str) -> list[int]:
    if len(title) < MENTION_CHARACTERS:
        return []
    pattern = re.compile(rf"(?<!\w){re.escape(title)}(?!\w)", re.I)
    found: list[int] = []
    for paragraph in markup.paragraphs:
        counter = LineCounter(paragraph.line)
        found += [counter.line(paragraph.text, match.start()) for match in pattern.finditer(paragraph.text)]
    return found
