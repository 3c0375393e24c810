"""The last step of a search: candidates are scored by their vectors, in double precision, and become hits."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from .base import Hit, Metric, Payload
from .matrix import Matrix
from .reader import FoundRow

Ranked: TypeAlias = list[tuple[int, float]]  # keys and scores, the best first


def rank(
    query: Matrix, keys: Sequence[int], points: Matrix, metric: Metric, limit: int, threshold: float | None
) -> Ranked:
    """The best `limit` of the points, whose vectors and keys these are; equal scores in the order of the keys given."""
    scores: list[float] = score(points, query, metric).tolist()
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=metric != "l2")[:limit]
    if threshold is not None:
        passes = operator.le if metric == "l2" else operator.ge
        order = [place for place in order if passes(scores[place], threshold)]
    return [(keys[place], scores[place]) for place in order]


def to_hits(ranked: Sequence[Ranked], rows: Mapping[int, FoundRow]) -> list[list[Hit]]:
    """With their payloads, all of which are decoded at once: that takes a quarter of the time."""
    keys = list({key for key, _ in chain(*ranked)})
    texts = ",".join([rows[key][2] for key in keys])
    payloads: dict[int, Payload] = dict(zip(keys, from_json(f"[{texts}]"), strict=True))
    return [[Hit(rows[key][1], value, payloads[key]) for key, value in some] for some in ranked]


def score(points: Matrix, query: Matrix, metric: Metric) -> NDArray[np.float64]:
    """By the definition."""
    wide, asked = points.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        difference = wide - asked
        distances: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        return distances
    products: NDArray[np.float64] = wide @ asked
    if metric == "dot":
        return products
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide) * (asked @ asked))
    cosines: NDArray[np.float64] = np.minimum(np.maximum(products / lengths, -1), 1)
    return cosines
