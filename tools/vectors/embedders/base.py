"""What turns text into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from quarterdeck.storage.errors import DeckError, InvalidArgumentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EmbedderError(DeckError):
    """An embedder cannot be used: its package, model or server is not there, or it answers what it must not."""

    code = "embedder"


class Embedder(Protocol):
    """Vectors of embedders with the same name and dimension can be compared, in whichever process they were made."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return an array of shape (len(texts), dimension), each row of length 1. Long work runs beside the event loop.

        Raises:
            InvalidArgumentError: nothing in a text can be embedded; the message shows the text.
            EmbedderError: the embedder cannot do it now.
        """
        ...

    async def close(self) -> None: ...


def check_texts(texts: Sequence[str]) -> None:
    """Raises InvalidArgumentError if one is blank: a model would give it a vector that means nothing."""
    for text in texts:
        if not text.strip():
            raise InvalidArgumentError(f"nothing to embed in the text {text[:40]!r}")
