"""An embedder that remembers the vectors of texts: the same text under the same name gives the same vector."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from quarterdeck.storage.cache import Made, TieredCache

from .base import Embedder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TEXTS = 100  # of a call that goes through the cache, as a search has; larger ones are points, whose texts are new


class CachingEmbedder:
    """An `Embedder` around another one."""

    def __init__(self, embedder: Embedder, cache: TieredCache) -> None:
        self._embedder = embedder
        self._cache = cache
        self.close = embedder.close

    @property
    def name(self) -> str:
        return self._embedder.name

    @property
    def dimension(self) -> int:
        return self._embedder.dimension

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np  # the embedder has done so

        if not 0 < len(texts) <= MOST_TEXTS:
            return await self._embedder.embed(texts)

        async def make(places: Sequence[int]) -> Made:
            made = await self._embedder.embed([texts[place] for place in places])
            return Made([row.astype("<f4").tobytes() for row in made], keep=True)

        values = await self._cache.through(self.name, [self._digest(text) for text in texts], make)
        rows = np.frombuffer(b"".join(values), "<f4").reshape(len(texts), self.dimension)
        return rows.astype(np.float32)  # a copy, and the caller's own

    def _digest(self, text: str) -> bytes:
        about = f"{self.name}\0{self.dimension}\0{text}"
        return blake2b(about.encode(errors="surrogatepass"), digest_size=24).digest()
