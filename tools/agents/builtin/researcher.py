"""The researcher: what documents say, in figures, key terms and a summary; their index; what they share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from ..worker.task import PromptError, Task
from .documents import NAMESPACE, Document, Result, keep, read_documents
from .markup import LineCounter
from .similarity import Prepared, compare, prepare
from .words import key_terms, shorten, summarise, terms, weigh, words

WORDS_PER_MINUTE = 238  # silent reading of English non-fiction (M. Brysbaert, Journal of Memory and Language 109, 2019)
KEY_TERMS = 15
SUMMARY_SENTENCES = 4
CHUNK_CHARACTERS = 1000
POINTS_PER_CALL = 64
PAIRS_REPORTED = 50
HEADINGS_REPORTED = 500


def analyze_document(task: Task) -> Result:
    """Figures, outline, key terms (tf-idf across several documents) and an extractive summary of each document."""
    documents = read_documents(task)
    counts = [terms(_prose(document)) for document in documents]
    results: list[tuple[str, Result]] = []
    for number, (document, count, weights) in enumerate(zip(documents, counts, weigh(counts), strict=True)):
        task.progress(number, len(documents), document.title)
        markup = document.markup
        found = document.sentences()
        in_paragraphs = [sentence.text for sentence in found if sentence.kind == "paragraph"]
        word_count = len(words(_prose(document)))
        analysis = {
            **document.about(),
            "characters": len(document.text),
            "words": word_count,
            "sentences": len(found),
            "paragraphs": len(markup.paragraphs),
            "codeBlocks": len(markup.code),
            "links": len(markup.links),
            "readingMinutes": round(word_count / WORDS_PER_MINUTE, 1),
            "headings": [
                {**heading._asdict(), "text": shorten(heading.text, 200)}
                for heading in markup.headings[:HEADINGS_REPORTED]
            ],
            "keyTerms": key_terms(weights, count, KEY_TERMS),
            "summary": summarise(in_paragraphs, weights, SUMMARY_SENTENCES),
        }
        results.append((document.name, analysis))
    stored = keep(task, "analysis", results)
    task.progress(len(documents), len(documents), "done")
    return {"documents": [analysis for _, analysis in results], "stored": stored}


def _prose(document: Document) -> str:
    return "\n\n".join(paragraph.text for paragraph in document.markup.prose)


def index_document(task: Task) -> Result:
    """Put the documents' text, in chunks of whole paragraphs, into the vector collection `documents`.

    A point's id is `{document}#{chunk}` and its payload {document, upload, chunk, line, title, text} and, for a PDF,
    page; indexing a document again replaces its points.
    """
    documents = read_documents(task)
    indexed: list[Result] = []
    for number, document in enumerate(documents):
        points = list(_points(document))
        for first in range(0, len(points), POINTS_PER_CALL):
            task.progress(number + first / len(points), len(documents), document.title)
            task.call("vector_upsert", collection=NAMESPACE, points=points[first : first + POINTS_PER_CALL])
        if points:  # what an earlier, longer version has left
            stale = {"document": document.name, "chunk": {"gte": len(points)}}
            task.call("vector_delete", collection=NAMESPACE, filter=stale)
        indexed.append({**document.about(), "chunks": len(points)})
    stored = keep(task, "index", [(d.name, result) for d, result in zip(documents, indexed, strict=True)])
    task.progress(len(documents), len(documents), "done")
    return {"collection": NAMESPACE, "documents": indexed, "stored": stored}


def _points(document: Document) -> Iterator[dict[str, Any]]:
    for number, (line, text) in enumerate(chunks(document)):
        payload: dict[str, Any] = {
            "document": document.name,
            "upload": document.upload,
            "chunk": number,
            "line": line,
            "title": document.title,
            "text": text,
        }
        if (page := document.page(line)) is not None:
            payload["page"] = page
        yield {"id": f"{document.name}#{number}", "text": text, "payload": payload}


def chunks(document: Document) -> Iterator[tuple[int, str]]:
    """The document's headings, paragraphs and code in order, packed to about CHUNK_CHARACTERS: (first line, text)."""
    markup = document.markup
    pieces = [(heading.line, heading.text) for heading in markup.headings]
    pieces += [(paragraph.line, paragraph.text) for paragraph in markup.paragraphs]
    pieces += [(block.line, block.code) for block in markup.code]
    packed: list[str] = []
    first_line = size = 0
    for line, text in _cut(sorted(piece for piece in pieces if any(map(str.isalnum, piece[1])))):
        if packed and size + len(text) > CHUNK_CHARACTERS:
            yield first_line, "\n\n".join(packed)
            packed, size = [], 0
        if not packed:
            first_line = line
        packed.append(text)
        size += len(text)
    if packed:
        yield first_line, "\n\n".join(packed)


def _cut(pieces: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Cut pieces that are longer than a chunk, at the last white space that fits."""
    for line, text in pieces:
        start = 0
        counter = LineCounter(line)
        while len(text) - start > CHUNK_CHARACTERS:
            end = max(text.rfind(space, start + 1, start + CHUNK_CHARACTERS) for space in (" ", "\n"))
            end = end if end > start else start + CHUNK_CHARACTERS
            yield counter.line(text, start), text[start:end].strip()
            start = end
        if any(map(str.isalnum, rest := text[start:].strip())):
            yield counter.line(text, start), rest


def compare_documents(task: Task) -> Result:
    """Compare every two of the documents: how much text they share, and which passages are near-duplicates."""
    documents = read_documents(task)
    if len(documents) < 2:
        raise PromptError("compare_documents needs at least two different uploads")
    prepared: list[Prepared] = []
    for document in documents:
        task.check()
        prepared.append(prepare(document))
    total = len(documents) * (len(documents) - 1) // 2
    done = passages = 0
    pairs: list[Result] = []
    for i, first in enumerate(documents):
        for j in range(i + 1, len(documents)):
            second = documents[j]
            task.progress(done, total, f"{first.title} / {second.title}")
            overlap = compare(prepared[i], prepared[j], task.check)
            passages += overlap["passagesFound"]
            if overlap["similarity"] or overlap["passagesFound"]:
                pairs.append({"first": first.name, "second": second.name, **overlap})
            done += 1
    pairs.sort(key=lambda pair: (-pair["passagesFound"], -pair["similarity"], pair["first"], pair["second"]))
    result: Result = {
        "documents": [document.about() for document in documents],
        "pairsCompared": total,
        "pairsSharing": len(pairs),
        "passagesFound": passages,
        "pairs": pairs[:PAIRS_REPORTED],
    }
    names = "\n".join(sorted(document.name for document in documents))
    stored = keep(task, "comparison", [(hashlib.sha256(names.encode()).hexdigest()[:12], result)])
    task.progress(total, total, "done")
    return {**result, "stored": stored}
