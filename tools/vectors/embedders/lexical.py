"""The built-in embedder: feature hashing, offline and deterministic. It finds words, not meaning.

A text is the bag of its words. Each word stands for itself and for its character trigrams, so that inflected and
misspelt forms stay near each other. Every such feature is hashed to a place and a sign (Weinberger et al., 2009); a
word counts 1 + ln(times), and the whole is scaled to length 1. "car" and "automobile" are strangers to each other.
"""

from __future__ import annotations

import asyncio
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from quarterdeck.storage.errors import InvalidArgumentError

TRIGRAM_SHARE = 0.6  # of a word's squared length
INLINE_CHARS = 2000  # texts that are embedded on the event loop: about a millisecond
CACHED_WORDS = 20_000

_WORD = re.compile(r"[^\W_]{1,64}")  # a longer run is no word: it goes in pieces


class LexicalEmbedder:
    """An `Embedder`."""

    name = "lexical"

    def __init__(self, dimension: int = 384) -> None:
        self.dimension = dimension
        self._word_vector = lru_cache(CACHED_WORDS)(self._hash_word)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if sum(map(len, texts)) <= INLINE_CHARS:
            return self._embed(texts)
        return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """There is nothing to give back."""

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self._embed_one(text) for text in texts], np.float32).reshape(len(texts), self.dimension)

    def _embed_one(self, text: str) -> NDArray[np.float64]:
        counts = Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
        if not counts:
            raise InvalidArgumentError(f"no letter or digit to embed in the text {text[:40]!r}")
        places: list[int] = []
        weights: list[float] = []
        for word, times in counts.items():
            frequency = 1 + math.log(times)
            for place, weight in self._word_vector(word):
                places.append(place)
                weights.append(weight * frequency)
        vector = np.bincount(places, weights, self.dimension)
        return vector / np.linalg.norm(vector)

    def _hash_word(self, word: str) -> Sequence[tuple[int, float]]:
        """The places and signed weights of a word's features; they do not depend on the process."""
        marked = f"<{word}>"
        trigrams = [marked[start : start + 3] for start in range(len(word))]
        weight = math.sqrt(TRIGRAM_SHARE / len(trigrams))
        features = [(word, math.sqrt(1 - TRIGRAM_SHARE)), *((f"#{trigram}", weight) for trigram in trigrams)]
        return [self._hash(*feature) for feature in features]

    def _hash(self, feature: str, weight: float) -> tuple[int, float]:
        number = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
        return (number >> 1) % self.dimension, weight if number & 1 else -weight
