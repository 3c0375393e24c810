"""`memory://{namespace}/{key}`: an entry's name as a URI. Both parts are names, not paths: they may hold anything."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from quarterdeck.storage.errors import InvalidArgumentError

from .checks import check_names

TEMPLATE = "memory://{namespace}/{key}"

_PART = "((?:[^/?#%]|%[0-9A-Fa-f]{2})+)"
_URI = re.compile(f"memory://{_PART}/{_PART}")


def uri_of(namespace: str, key: str) -> str:
    """The URI of an entry: what is not a letter, a digit or one of `-._~` is percent-encoded."""
    return f"memory://{quote(namespace, safe='')}/{quote(key, safe='')}"


def name_of(uri: str) -> tuple[str, str]:
    """The namespace and key that a URI names, however much of it is encoded.

    Raises:
        InvalidArgumentError: it names none.
    """
    parts = _URI.fullmatch(uri)
    try:
        namespace, key = [unquote(part, errors="strict") for part in parts.groups()] if parts else ("", "")
    except UnicodeDecodeError:
        namespace, key = "", ""
    if not namespace:
        raise InvalidArgumentError(
            f"uri: must be {TEMPLATE}, each part percent-encoded UTF-8 (the id that memory_usage answers), "
            f"got {uri[:80]!a}"
        )
    check_names(namespace, key)
    return namespace, key
