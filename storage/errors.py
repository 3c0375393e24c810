"""Every error that the deck raises on purpose. Their texts reach the client; all others stay in the log."""

from __future__ import annotations

from typing import Any

DEFECT = "a defect of the server; its log has it"
"""What clients are told instead of any other exception's text."""


class DeckError(Exception):
    """An anticipated failure: `message` says what failed, the valid values and the next call.

    `details` are facts for programs; they stand beside `error` in the structured answer.
    """

    code = "failed"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidArgumentError(DeckError):
    """An argument has the wrong type, range or combination."""

    code = "invalid_argument"


class NotFoundError(DeckError):
    """The named thing does not exist (any more)."""

    code = "not_found"


class ConflictError(DeckError):
    """The thing exists but its version or state does not allow this."""

    code = "conflict"


class LimitError(DeckError):
    """A configured or fixed bound would be passed."""

    code = "limit"


class DeniedError(DeckError):
    """The configuration or the permission mode does not allow this."""

    code = "denied"


class UnsupportedError(DeckError):
    """This backend cannot do it, and says so instead of pretending."""

    code = "unsupported"


class StorageError(DeckError):
    """A store could not be read or written: disk full, locked for too long, damaged, too new."""

    code = "storage"
