"""What the backends that are servers share: addresses that may be shown, and failures in one line."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from .errors import StorageError

CONNECT_TIMEOUT = 10.0  # seconds
TIMEOUT = 30.0  # seconds, for an answer and for a free connection
UNCERTAIN = "a change may have been made or not: retrieve shows it"

_LOGIN = re.compile(r"^([^:@/]*):.*@", re.DOTALL)
_PARAMETER = re.compile(r"(password=)[^&#]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """`url` with `***` for its password, and for everything after the scheme if it is not well-formed."""
    scheme, found, rest = url.partition("://")
    try:
        _ = urlsplit(url).port  # a password that is not percent-encoded is likely to end up here
    except ValueError:
        rest = "***"
    rest = _PARAMETER.sub(r"\1***", _LOGIN.sub(r"\1:***@", rest))
    return f"{scheme}://{rest}" if found else "***"


def malformed(address: str) -> str:
    """What to say instead of a parser's text, which may quote a part of the password."""
    return f"{address}: not a valid address; special characters of a password must be percent-encoded"


def one_line(exc: Exception) -> str:
    return " ".join(str(exc).split()) or ("no answer in time" if isinstance(exc, TimeoutError) else type(exc).__name__)


def check_schema(address: str, part: str, found: int, known: int) -> None:
    """Raises StorageError: a newer program has written there."""
    if found > known:
        raise StorageError(
            f"{address}: {part} has schema {found}, this program knows up to {known}: upgrade quarterdeck"
        )
