"""Vectors that lie as sentence embeddings do: topics within topics, of few real dimensions, of length 1.

Uniform random vectors have no neighbours to speak of: every quantiser looks bad on them, and that says nothing. On
these 4-bit PQ codes with a re-rank of 16 candidates for each of ten neighbours find about as many as on MiniLM
embeddings of short texts; the benchmark prints the recall beside its figures.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]

SPECTRUM = 0.6  # the n-th direction is as long as n to the power of minus this
WIDE, NARROW = 64, 24  # how many wide topics there are, and points of a narrow one
APART, OWN = 0.9, 0.6  # how far a narrow topic is from its wide one, and a point from its narrow one


def clustered(count: int, dimension: int, *, world: int, seed: int = 0) -> Matrix:
    """Points of a world of so many, of shape (count, dimension); another seed gives held-out ones of the same topics.

    Equal for equal arguments.
    """
    topics = np.random.default_rng(world)
    turn, _ = np.linalg.qr(topics.normal(size=(dimension, dimension)))
    axes = ((np.arange(1, dimension + 1) ** -SPECTRUM)[:, None] * turn).astype(np.float32)
    narrow = max(1, world // NARROW)
    centres = topics.standard_normal((WIDE, dimension), np.float32)[topics.integers(WIDE, size=narrow)]
    centres += APART * topics.standard_normal((narrow, dimension), np.float32)
    random = np.random.default_rng((world, seed))
    own = OWN * random.lognormal(0, 0.5, (count, 1)).astype(np.float32)
    points = (
        centres[random.integers(narrow, size=count)] + own * random.standard_normal((count, dimension), np.float32)
    ) @ axes
    return points / np.linalg.norm(points, axis=1, keepdims=True)
