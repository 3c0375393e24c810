"""How the documents crew gets its documents and keeps its results."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..worker.library import call_library
from ..worker.task import PromptError, Task
from .markup import LineCounter, Markup, lines_of
from .reader import parse
from .words import sentences, shorten

NAMESPACE = "documents"
PAGE_BYTES = 1 << 20
TITLE_CHARACTERS = 200
MAX_BYTES = 32 << 20  # of an upload; a larger one is data, not a document that someone reads
MAX_CHARACTERS = 16 << 20
MARKUP = {"docx": "markdown", "html": "markdown", "pdf": "plain"}  # that the text of these formats is in

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
    format: str
    pages: Sequence[int] = ()  # the first line of each, where the format has pages

    def about(self) -> Result:
        """What every result says of its document."""
        about: Result = {"title": self.title, "upload": self.upload, "format": self.format}
        return {**about, "pages": len(self.pages)} if self.pages else about

    def page(self, line: int) -> int | None:
        """The page that a line is on, from 1."""
        return bisect_right(self.pages, line) or None

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
        CallError: the deck could not read an upload, or there is no text to be had from it.
    """
    prompt = task.prompt
    if sum(source in prompt for source in ("upload", "uploads", "text")) != 1:
        raise PromptError("give one of: upload (a key), uploads (a list of keys), text (and a title)")
    if "text" in prompt:
        text = prompt["text"]
        title = _printable(prompt.get("title", ""))
        name = title or "text-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
        return [_document(name, None, title, _Read("text", None, [text]))]
    keys = list(dict.fromkeys(prompt.get("uploads") or [prompt["upload"]]))
    found: list[Document] = []
    for number, key in enumerate(keys):
        task.progress(number, len(keys), f"reading {key}")
        title = _printable(prompt.get("title", "")) if len(keys) == 1 else ""
        found.append(_document(key, key, title, _read_upload(task, key)))
    return found


class _Read(NamedTuple):
    """What was read: `format` is text, or the format that the text was taken out of, `title` what that says itself."""

    format: str
    title: str | None
    sections: list[str]


def _printable(title: str) -> str:
    """A title that can be part of a key."""
    return shorten("".join(char if char.isprintable() else " " for char in title), TITLE_CHARACTERS)


def _document(name: str, upload: str | None, title: str, read: _Read) -> Document:
    pages: list[int] = []
    line = 1
    if read.format == "pdf":
        for section in read.sections:
            pages.append(line)
            line += len(lines_of(section)) + 1  # an empty line follows
    text = "\n\n".join(read.sections)
    markup = parse(text, name, MARKUP.get(read.format))
    title = title or _printable(markup.title or read.title or "") or name
    shown = markup.format if read.format == "text" else read.format
    return Document(name, upload, title, text, markup, shown, pages)


def _read_upload(task: Task, key: str) -> _Read:
    contents, content_type = _download(task, key)
    text = _plain_text(contents, content_type)
    if text is None:
        encoded = b64encode(contents).decode()
        found = call_library(task, "extract_text", contents=encoded, name=key, content_type=content_type)
        read = _Read(found["format"], found["title"], [section["text"] for section in found["sections"]])
    else:
        read = _Read("text", None, [text])
    size = sum(map(len, read.sections))
    if size > MAX_CHARACTERS:
        raise PromptError(f"{key} has {size} characters; documents have at most {MAX_CHARACTERS}")
    return read


def _download(task: Task, key: str) -> tuple[bytes, str]:
    """An upload's contents and content type."""
    parts: list[bytes] = []
    content_type = ""
    offset: int | None = 0
    while offset is not None:
        page = task.call("uploads", action="read", key=key, offset=offset, length=PAGE_BYTES, encoding="base64")
        if page["size"] > MAX_BYTES:
            raise PromptError(f"{key} has {page['size']} bytes; documents have at most {MAX_BYTES}")
        parts.append(b64decode(page["content"]))
        content_type = page["type"]
        offset = page.get("nextOffset")
    return b"".join(parts), content_type


def _plain_text(contents: bytes, content_type: str) -> str | None:
    """UTF-8 that is surely no other format as it is; None for what `uploads/extract.py` has to look at."""
    if "html" in content_type or contents[:1024].lstrip().startswith((b"<", b"%PDF-")):
        return None
    try:
        return contents.decode()
    except UnicodeDecodeError:
        return None


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
