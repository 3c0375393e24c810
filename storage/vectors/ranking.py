"""The last step of a search: candidates are scored by their vectors, in double precision, and become hits."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from .base import Hit, Metric, Payload
from .matrix import Matrix
from .reader import FoundRow

Ranked: TypeAlias = list[tuple[int, float]]  # keys and scores, the best first


def rank(
    queries: Matrix,
    counts: Sequence[int],
    keys: Sequence[int],
    points: Matrix,
    metric: Metric,
    limit: int,
    threshold: float | None,
) -> list[Ranked]:
    """For each query the best `limit` of its keys, equal scores in the order given.

    The first of `counts` says how many of the keys, and of the points that have them, are the first query's, and so on.
    """
    paired = queries if len(counts) == 1 else np.repeat(queries, counts, axis=0)
    scored = zip(keys, score(points, paired, metric).tolist(), strict=True)
    ranked = [sorted(islice(scored, count), key=itemgetter(1), reverse=metric != "l2") for count in counts]
    if threshold is not None:
        passes = operator.le if metric == "l2" else operator.ge
        ranked = [[pair for pair in some if passes(pair[1], threshold)] for some in ranked]
    return [some[:limit] for some in ranked]


def to_hits(ranked: Sequence[Ranked], rows: Mapping[int, FoundRow]) -> list[list[Hit]]:
    """With their payloads, all of which are decoded at once: that takes a quarter of the time."""
    keys = list({key for key, _ in chain(*ranked)})
    texts = ",".join([rows[key][2] for key in keys])
    payloads: dict[int, Payload] = dict(zip(keys, from_json(f"[{texts}]"), strict=True))
    return [[Hit(rows[key][1], value, payloads[key]) for key, value in some] for some in ranked]


def score(points: Matrix, queries: Matrix, metric: Metric) -> NDArray[np.float64]:
    """Of each point with the query in the same row, or with the only one, by the definition."""
    wide, asked = points.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        difference = wide - asked
        distances: NDArray[np.float64] = np.sqrt(np.vecdot(difference, difference))
        return distances
    products: NDArray[np.float64] = np.vecdot(wide, asked)
    if metric == "dot":
        return products
    lengths = np.sqrt(np.vecdot(wide, wide) * np.vecdot(asked, asked))
    cosines: NDArray[np.float64] = np.minimum(np.maximum(products / lengths, -1), 1)
    return cosines
