"""From the name that a client gave to a key that every store can hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import PurePosixPath

PREFIX = "uploads/"
NAME_BYTES = 150
EXTENSION_BYTES = 20  # what follows the last dot is no extension if it is longer
_SLASHES = re.compile(r"[/\\]+")


def keys(name: str, now: int) -> Iterator[str]:
    """Yield the keys for a file of that name at `now` (ms since the epoch): the plain one, then numbered ones."""
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-%dT%H-%M-%S")
    path = PurePosixPath(safe_name(name))
    yield f"{PREFIX}{stamp}_{path}"
    for number in count(2):
        yield f"{PREFIX}{stamp}_{path.stem}_{number}{path.suffix}"


def safe_name(name: str) -> str:
    """Return a file name of letters, digits, `.`, `_` and `-` in at most 150 bytes; the extension is kept."""
    parts = [part for part in _SLASHES.split(name) if part.strip(".")]
    text = unicodedata.normalize("NFC", parts[-1] if parts else "")
    safe = "".join(char if _is_plain(char) else "_" for char in text).lstrip(".").rstrip("._") or "file"
    suffix = PurePosixPath(safe).suffix
    if len(suffix.encode()) > EXTENSION_BYTES:
        suffix = ""
    stem = safe.removesuffix(suffix).encode()[: NAME_BYTES - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix


def _is_plain(char: str) -> bool:
    return char in "._-" or unicodedata.category(char)[0] in "LMN"


def printable(text: str) -> str:
    r"""Return the text as it was given; half characters, as names that are no UTF-8 have them, become `\udcNN`."""
    return text.encode(errors="backslashreplace").decode()
