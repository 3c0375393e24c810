"""The demo's input: real texts, of the installed packages or of a folder that the user names."""

from __future__ import annotations

import email
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from itertools import accumulate
from pathlib import Path

from quarterdeck.storage.errors import DeckError

MOST = 20  # what one `upload` takes
PACKAGE_BYTES = 80_000  # longer descriptions are mostly change logs
SHORT_BYTES = 5_000
MODEL_BYTES = 25_000  # in all: a sentence model makes some 20 vectors of 1 KB in seconds
FILE_BYTES = 1 << 20

SUFFIXES = {"text/markdown": ".md", "text/plain": ".txt"}  # else reStructuredText, as the packaging standard says

_SENTENCE = re.compile(r"(?<=[.!?] )[A-Z][a-z][\w ,;'()-]{40,160}\.(?= |$)")  # nothing but words: no markup in it
_BEGINNING = re.compile(r".{1,200}")
_WORD = re.compile(r"[^\W_]{2,}")


@dataclass(frozen=True, slots=True)
class Document:
    """A file that is to be uploaded, and its contents."""

    path: Path
    contents: bytes

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def text(self) -> str:
        return self.contents.decode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.contents).hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """A search whose answer is known: the documents in which the sentence stands, word for word."""

    sentence: str
    answers: frozenset[Path]


def package_documents(folder: Path) -> list[Document]:
    """Write the descriptions of installed packages into `folder`: the ten longest of up to 80 KB and the ten longest of
    up to 5 KB, by name.

    Raises:
        DeckError: no package brings one.
    """
    found: dict[str, bytes] = {}
    for distribution in distributions():
        if described := _description(distribution):
            name, text = described
            found.setdefault(name, text)
    longest = sorted(found, key=lambda name: (-len(found[name]), name))
    short = [name for name in longest[MOST // 2 :] if len(found[name]) <= SHORT_BYTES]
    chosen = longest[: MOST // 2] + short[: MOST // 2]
    documents = [Document(folder / name, found[name]) for name in sorted(chosen)]
    if not documents:
        raise DeckError("the installed packages bring no descriptions: name a folder of texts")
    folder.mkdir()
    for document in documents:
        document.path.write_bytes(document.contents)
    return documents


def _description(distribution: Distribution) -> tuple[str, bytes] | None:
    """A file name and the long description, if the package has one."""
    try:
        metadata = distribution.read_text("METADATA")
    except UnicodeDecodeError:
        return None
    message = email.message_from_string(metadata or "")
    contents = str(message.get_payload()).encode()
    if not message["Name"] or not contents.strip() or len(contents) > PACKAGE_BYTES:
        return None
    content_type = str(message.get("Description-Content-Type", "")).partition(";")[0].strip().lower()
    return message["Name"].lower() + SUFFIXES.get(content_type, ".rst"), contents


def shortest(documents: Sequence[Document]) -> list[Document]:
    """Those of which a sentence model makes vectors in seconds, at least one."""
    ordered = sorted(documents, key=lambda document: len(document.contents))
    sizes = accumulate(len(document.contents) for document in ordered)
    return [document for document, size in zip(ordered, sizes, strict=True) if size <= MODEL_BYTES] or ordered[:1]


def folder_documents(folder: Path) -> list[Document]:
    """The first 20 texts of `folder`, by name.

    Raises:
        DeckError: it is no folder, cannot be read, or holds none.
    """
    documents: list[Document] = []
    try:
        for path in sorted(folder.resolve(strict=True).iterdir()):
            if len(documents) < MOST and path.is_file() and not path.is_symlink() and (contents := _text(path)):
                documents.append(Document(path, contents))
    except OSError as exc:
        raise DeckError(f"cannot read the folder {folder}: {exc.strerror}") from exc
    if not documents:
        raise DeckError(f"{folder} holds no text: the demo takes files in UTF-8 of at most 1 MiB")
    return documents


def _text(path: Path) -> bytes | None:
    if path.stat().st_size > FILE_BYTES:
        return None
    contents = path.read_bytes()
    try:
        text = contents.decode()
    except UnicodeDecodeError:
        return None
    return contents if _WORD.search(text) and "\0" not in text else None


def questions(documents: Sequence[Document], count: int) -> list[Question]:
    """The sentences with the rarest words, at most one of each document; first words where no document has any."""
    texts = {document.path: " ".join(document.text.split()) for document in documents}
    frequency = Counter(word for text in texts.values() for word in set(_words(text)))

    def rareness(sentence: str) -> tuple[float, str]:
        return sum(1 / frequency[word] for word in set(_words(sentence))), sentence

    found = {max(sentences, key=rareness) for text in texts.values() if (sentences := _SENTENCE.findall(text))}
    found = found or {_BEGINNING.findall(text)[0] for text in texts.values()}
    return [
        Question(sentence, frozenset(path for path, text in texts.items() if sentence in text))
        for sentence in sorted(found, key=rareness, reverse=True)[:count]
    ]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
