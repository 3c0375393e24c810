"""What a word is to every backend: a run of letters and digits, in which case and accents do not matter."""

from __future__ import annotations

import hashlib
import re
import unicodedata

SNIPPET_CHARS = 200
SNIPPET_BEFORE = 40  # of them before the word

_TOKEN = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")


def tokens(text: str) -> list[str]:
    """The runs of letters and digits in `text`, as they are compared."""
    if not text.isascii():
        bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
        text = unicodedata.normalize("NFC", bare)
    return _TOKEN.findall(text.casefold())


def namespace_tag(namespace: str) -> str:
    """What the indexed words of a namespace begin with, so that a search reads no other's; where two namespaces share
    one, only time is lost."""
    return hashlib.sha256(namespace.encode()).hexdigest()[:4]


def snippet(body: str, word: str) -> str:
    """The part of `body` around the first `word`, or its beginning where that is not in it as it is spelled."""
    start = max(body.lower().find(word.lower()) - SNIPPET_BEFORE, 0)
    return body[start : start + SNIPPET_CHARS]
