"""How the documents crew gets its documents and keeps its results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..worker.task import PromptError, Task
from .markup import LineCounter, Markup
from .reader import parse
from .words import sentences, shorten

NAMESPACE = "documents"
PAGE_BYTES = 1 << 20
TITLE_CHARACTERS = 200
MAX_BYTES = 16 << 20  # a larger upload is data, not a document that someone reads

Result = dict[str, Any]


class Sentence(NamedTuple):
    line: int
    kind: str  # of its paragraph
    text: str  # on one line


class Document(NamedTuple):
    name: str  # the upload's key, or the title that came with the text, or a digest of the text
    upload: str | None
    title: str
    text: str
    markup: Markup

    def about(self) -> Result:
        """What every result says of its document."""
        return {"title": self.title, "upload": self.upload, "format": self.markup.format}

    def sentences(self) -> list[Sentence]:
        """The sentences of all prose; a list item without a full stop is one too."""
        found: list[Sentence] = []
        for paragraph in self.markup.prose:
            counter = LineCounter(paragraph.line)
            for offset, text in sentences(paragraph.text):
                line = counter.line(paragraph.text, offset)
                found.append(Sentence(line, paragraph.kind, " ".join(text.split())))
        return found


def read_documents(task: Task) -> list[Document]:
    """The documents that the prompt names by `upload` or `uploads`, or brings as `text`.

    Raises:
        PromptError: the prompt has none or more than one of the three, or an upload is too large.
        CallError: the deck could not read an upload.
    """
    prompt = task.prompt
    if sum(source in prompt for source in ("upload", "uploads", "text")) != 1:
        raise PromptError("give one of: upload (a key), uploads (a list of keys), text (and a title)")
    if "text" in prompt:
        text = prompt["text"]
        title = _printable(prompt.get("title", ""))
        name = title or "text-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
        return [_document(name, None, title, text)]
    keys = list(dict.fromkeys(prompt.get("uploads") or [prompt["upload"]]))
    found: list[Document] = []
    for number, key in enumerate(keys):
        task.progress(number, len(keys), f"reading {key}")
        title = _printable(prompt.get("title", "")) if len(keys) == 1 else ""
        found.append(_document(key, key, title, _read_upload(task, key)))
    return found


def _printable(title: str) -> str:
    """A title that can be part of a key."""
    return shorten("".join(char if char.isprintable() else " " for char in title), TITLE_CHARACTERS)


def _document(name: str, upload: str | None, title: str, text: str) -> Document:
    markup = parse(text, name)
    return Document(name, upload, title or _printable(markup.title or "") or name, text, markup)


def _read_upload(task: Task, key: str) -> str:
    parts: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = task.call("uploads", action="read", key=key, offset=offset, length=PAGE_BYTES, encoding="text")
        if page["size"] > MAX_BYTES:
            raise PromptError(f"{key} has {page['size']} bytes; documents have at most {MAX_BYTES}")
        parts.append(page["content"])
        offset = page.get("nextOffset")
    return "".join(parts)


def keep(task: Task, kind: str, results: Sequence[tuple[str, Result]]) -> Result:
    """Store each result in memory under `kind:name`; returns where they are."""
    keys: list[str] = []
    for name, result in results:
        key = f"{kind}:{name}"
        task.call("memory_usage", action="store", namespace=NAMESPACE, key=key, value=result)
        keys.append(key)
    return {"namespace": NAMESPACE, "keys": keys}


def work_through(task: Task, kind: str, work: Callable[[Document], Result]) -> Result:
    """Do `work` on one document after another and keep each result: `{documents: [result], stored}`."""
    documents = read_documents(task)
    results: list[tuple[str, Result]] = []
    for number, document in enumerate(documents):
        task.progress(number, len(documents), document.title)
        results.append((document.name, {**document.about(), **work(document)}))
    stored = keep(task, kind, results)
    task.progress(len(documents), len(documents), "done")
    return {"documents": [result for _, result in results], "stored": stored}
