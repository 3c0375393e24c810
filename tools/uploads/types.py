"""What kind of file something is: by its contents, and by its name where those leave it open."""

from __future__ import annotations

import codecs
import mimetypes
from functools import cache
from importlib import import_module
from pathlib import PurePath
from typing import Any

from .naming import safe_name

TYPE_PATTERN = r"^[A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+(; ?[A-Za-z0-9_.+-]+=[A-Za-z0-9_.+-]+)*$"
TYPE_CHARACTERS = 200
UNKNOWN_TYPE = "application/octet-stream"
TYPE_BYTES = 4096
"""How many of the first bytes `type_of` wants to see."""

SIGNATURE = 0.4  # puremagic's confidence in four matching bytes; of a text, fewer may as well be its first word
ARCHIVE = "application/zip"  # documents of many kinds are archives, and all of them begin alike
_TEXT_ENDINGS = ("+json", "+xml", "/json", "/javascript", "/sql", "/toml", "/xml", "/yaml", "/x-sh", "/x-tex")


def type_of(start: bytes, name: str) -> str:
    """The MIME type of a file that starts like this; its name decides between types whose files begin alike."""
    guessed, compression = mimetypes.guess_type(safe_name(name))
    named = guessed if compression is None else None
    if not start:
        return named or UNKNOWN_TYPE
    is_text = _is_text(start)
    matches = _signatures(start, least=SIGNATURE if is_text else 0.0)
    ending = PurePath(name).suffix.lower()
    for extension, mime_type in matches:
        if extension == ending or mime_type == named:
            return mime_type
    if matches:
        types = [mime_type for _, mime_type in matches]
        return ARCHIVE if ARCHIVE in types else types[0]
    if is_text:
        return named if named and _is_text_type(named) else "text/plain"
    return named or UNKNOWN_TYPE


def _signatures(start: bytes, *, least: float) -> list[tuple[str, str]]:
    """The extensions and types of the signatures that match best, if that is with `least` confidence."""
    puremagic: Any = import_module("puremagic")  # here, since it reads its tables; it has no complete types
    if not any(start.startswith(marks, offset) for offset, marks in _marks().items()):
        return []
    try:
        found = puremagic.magic_string(start)
    except puremagic.PureError:
        return []
    best = max(kind.confidence for kind in found)
    return [
        (kind.extension.lower(), kind.mime_type)
        for kind in found
        if kind.mime_type and least <= kind.confidence == best
    ]


@cache
def _marks() -> dict[int, tuple[bytes, ...]]:
    """All of puremagic's signatures by where they stand: ruling all out takes a twentieth of looking for each."""
    puremagic: Any = import_module("puremagic")
    marks: dict[int, list[bytes]] = {}
    for kind in [*puremagic.magic_header_array, *puremagic.magic_footer_array]:
        marks.setdefault(kind.offset, []).append(kind.byte_match)
    return {offset: tuple(found) for offset, found in marks.items()}


def _is_text(start: bytes) -> bool:
    """Whether it is UTF-8 as far as it goes, without NUL."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _is_text_type(mime_type: str) -> bool:
    return mime_type.startswith("text/") or mime_type.endswith(_TEXT_ENDINGS)
