"""Contents for an object store, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from quarterdeck.storage.objects.base import Contents, Reader

Piece = bytes | Callable[[], bytes]


def contents(*pieces: Piece) -> Contents:
    """One piece after the other, each in reads of its own; one that is a function is made when it is wanted."""

    def open_them() -> Reader:
        return _Pieces(piece() if callable(piece) else piece for piece in pieces)

    return open_them


class _Pieces:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        length = min(len(buffer), len(self._rest))
        buffer[:length] = self._rest[:length]
        self._rest = self._rest[length:]
        return length

    def close(self) -> None:
        """There is nothing to be given back."""
