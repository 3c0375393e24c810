"""The embedders that the user's configuration offers, by name, each opened at its first use."""

from __future__ import annotations

from collections.abc import Mapping

from quarterdeck.storage.errors import ConflictError, InvalidArgumentError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.vectors.base import CollectionInfo

from .base import Embedder


class Embedders:
    """`default` is the name of the one for new collections. A name is `KIND` or `KIND:MODEL`."""

    def __init__(self, offered: Mapping[str, OnFirstUse[Embedder]], default: str) -> None:
        self._offered = offered
        self._default = default

    async def named(self, name: str | None) -> Embedder:
        """The one of that name, or of that kind; None: the default.

        Raises:
            InvalidArgumentError: there is none.
            EmbedderError: it cannot be opened.
        """
        if name is None:
            return await self._offered[self._default]()
        for offered, embedder in self._offered.items():
            if name in (offered, offered.partition(":")[0]):
                return await embedder()
        names = ", ".join(self._offered)
        raise InvalidArgumentError(
            f"embedder: {name!r} is not configured here (valid: {names}); QUARTERDECK_EMBEDDER adds one"
        )

    async def of(self, info: CollectionInfo) -> Embedder:
        """The one that made the collection's vectors.

        Raises:
            ConflictError: its callers did, or an embedder that is not offered, or makes other dimensions now.
            EmbedderError: it cannot be opened.
        """
        about = f"collection '{info.name}' holds"
        if info.embedder is None:
            raise ConflictError(
                f"{about} vectors of its callers ({info.dimension} numbers), not of an embedder: give 'vector' or "
                f"'vectors', or use another collection"
            )
        if info.embedder not in self._offered:
            raise ConflictError(
                f"{about} texts embedded by '{info.embedder}' ({info.dimension} numbers), which is not configured here "
                f"(configured: {', '.join(self._offered)}): set QUARTERDECK_EMBEDDER to it, or convert the collection "
                f"with vector_collections reembed"
            )
        embedder = await self._offered[info.embedder]()
        if embedder.dimension != info.dimension:
            raise ConflictError(
                f"{about} texts embedded by '{info.embedder}' in {info.dimension} numbers, and it makes "
                f"{embedder.dimension} now: convert the collection with vector_collections reembed"
            )
        return embedder

    async def close(self) -> None:
        for embedder in self._offered.values():
            if embedder.opened is not None:
                await embedder.opened.close()
