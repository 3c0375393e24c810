"""What an object store is: whole files under keys, written once, never overwritten."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import ConflictError, InvalidArgumentError, NotFoundError

BUFFER_BYTES = 256 << 10
"""What a file moves through: small enough to be hashed and written while a core has it at hand."""


class Reader(Protocol):
    """Contents on their way, from the beginning to the end. It blocks; what it raises passes through the store."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer or the beginning of it and return how far; 0 at the end."""
        ...

    def close(self) -> None: ...


Contents = Callable[[], Reader]
"""Opens the contents, which blocks too; every call starts from the beginning."""

Stored = Callable[[int], Awaitable[None]]
"""Is told how many bytes of one object the store has by now."""

PRESIGN_SECONDS = 7 * 24 * 3600
"""How long a URL may be valid at most."""

KEY_BYTES = 200
_KEY = re.compile(r"[^\x00-\x1f\x7f~\\./][^\x00-\x1f\x7f~\\]*")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object without its contents. `size` is in bytes, `created_at` in milliseconds since the epoch.

    `sha256` is None for what another program has put into a store that is shared.
    """

    key: str
    name: str  # what its giver called it
    type: str
    size: int
    sha256: str | None
    created_at: int


class ObjectStore(Protocol):
    """Every method raises InvalidArgumentError for a key that `check_key` refuses, StorageError if the store fails."""

    async def put(
        self,
        key: str,
        contents: Contents,
        *,
        size: int,
        name: str,
        content_type: str,
        created_at: int,
        stored: Stored | None = None,
    ) -> ObjectInfo:
        """Keep the `size` bytes of `contents` under `key`, durably and as a whole, or leave no trace.

        Raises:
            ConflictError: the key exists; of several puts at the same time exactly one wins.
            InvalidArgumentError: `contents` has more or fewer bytes.
        """
        ...

    async def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's description, None if there is none."""
        ...

    async def read(self, key: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`: fewer at the end, none behind it.

        Raises:
            NotFoundError: there is no such object.
        """
        ...

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        """Return the first `limit` objects, in order of their keys, that start with `prefix` and come after `after`."""
        ...

    async def delete(self, key: str) -> bool:
        """Remove the object for good; False if there was none."""
        ...

    async def presign(self, key: str, seconds: int) -> str:
        """Return a URL from which anybody can download the object, for 1 to PRESIGN_SECONDS seconds from now.

        Raises:
            NotFoundError: there is no such object.
            UnsupportedError: this store has no URLs.
        """
        ...

    async def close(self) -> None:
        """Give back what the store holds; it cannot be used afterwards."""
        ...


def taken(key: str) -> ConflictError:
    return ConflictError(f"the key {key} exists")


def missing(key: str) -> NotFoundError:
    return NotFoundError(f"there is no object {key}")


def wrong_size(key: str, size: int) -> InvalidArgumentError:
    return InvalidArgumentError(f"the contents for {key} are not the {size} bytes that were announced")


def check_key(key: str) -> None:
    """Refuse a key that not every store can hold.

    Raises:
        InvalidArgumentError: it is not 1 to 200 bytes of UTF-8, has a control character, `~` or a backslash,
            or starts with a dot or slash.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not (0 < size <= KEY_BYTES and _KEY.fullmatch(key)):
        raise InvalidArgumentError(
            f"the key {key[:KEY_BYTES]!r} cannot be used: 1 to {KEY_BYTES} bytes of UTF-8 without control characters, "
            "'~' and backslash, not starting with '.' or '/'"
        )
