"""What a memory may be called, hold, and how long it may live: every check, with an error that states the bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from quarterdeck.storage.errors import InvalidArgumentError, LimitError
from quarterdeck.storage.memory.base import Entry

MAX_VALUE_BYTES = 1 << 20
MAX_DEPTH = 100  # of lists and objects in each other; JSON readers give up not far above
MAX_KEY = 512  # characters
MAX_NAMESPACE = 128
MAX_TTL = 100 * 365 * 24 * 3600  # seconds
MAX_VERSION = 2**53 - 1  # beyond it a number of JSON is no longer exact

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_text(value: Any) -> tuple[str, int]:
    """The value as JSON text and its size in UTF-8."""
    try:
        text = _encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(
            f"value: holds the lone surrogate {exc.object[exc.start]!r}, not a character"
        ) from None
    except RecursionError:
        raise LimitError(f"value: lists and objects may be nested {MAX_DEPTH} deep at most") from None
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError(f"value: is not JSON: {exc}") from None
    if size > MAX_VALUE_BYTES:
        raise LimitError(f"value: {size} bytes of JSON, at most {MAX_VALUE_BYTES}: split it over several keys")
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise LimitError(f"value: lists and objects may be nested {MAX_DEPTH} deep at most")
    return text, size


def _is_deeper(value: Any, depth: int) -> bool:
    layer = [value]
    for _ in range(depth + 1):
        layer = [child for container in layer for child in _children(container)]
        if not layer:
            return False
    return True


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list | tuple) else ()


def check_names(namespace: str, key: str) -> None:
    check_text("namespace", namespace, MAX_NAMESPACE)
    check_text("key", key, MAX_KEY)


def check_text(name: str, text: str, longest: int) -> None:
    if not 0 < len(text) <= longest or _UNPRINTABLE.search(text):
        raise InvalidArgumentError(
            f"{name}: must be 1 to {longest} characters without control characters and lone surrogates, "
            f"got {len(text)}: {text[:40]!a}"
        )


def check_loaded(entry: Entry, now: int) -> None:
    """Raises InvalidArgumentError if the version or the times of another deck's entry make no sense here."""
    if not 1 <= entry.version <= MAX_VERSION:
        raise InvalidArgumentError(f"version: must be 1 to {MAX_VERSION}, got {entry.version}")
    latest = now + MAX_TTL * 1000
    if not all(0 <= moment <= latest for moment in (entry.created_at, entry.updated_at, entry.expires_at or 0)):
        raise InvalidArgumentError("createdAt, updatedAt, expiresAt: must be from 1970 to a hundred years from now")
    if entry.expires_at is not None and entry.expires_at <= entry.updated_at:
        raise InvalidArgumentError("expiresAt: must be after updatedAt")


def check_version(version: int | None) -> None:
    if version is not None and (isinstance(version, bool) or not 0 <= version <= MAX_VERSION):
        raise InvalidArgumentError(
            f"ifVersion: must be the version last seen, or 0 for 'must not exist', got {version}"
        )


def milliseconds(ttl: float) -> int:
    """A lifetime in seconds; a positive one never becomes the 0 that keeps for ever."""
    if isinstance(ttl, bool) or not 0 <= ttl <= MAX_TTL:  # NaN too compares false
        raise InvalidArgumentError(f"ttl: must be seconds from 0 (keep for ever) to {MAX_TTL}, got {ttl!r}")
    return max(round(ttl * 1000), 1) if ttl else 0


def words_of(query: str) -> list[str]:
    """The words to look for: what stands between blanks and has a letter or digit."""
    parts = query.split()
    check_text("query", " ".join(parts), MAX_KEY)
    words = [part for part in parts if any(map(str.isalnum, part))]
    if not words:
        raise InvalidArgumentError(f"query: must hold a letter or digit, got {query[:40]!r}")
    return words
