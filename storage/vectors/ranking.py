"""The last step of a search: candidates are scored by their vectors as stored, in double precision, and become hits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .base import CollectionInfo, Hit
from .matrix import Matrix, decode
from .reader import FoundRow


def rank(
    query: Matrix,
    keys: Sequence[int],
    rows: Mapping[int, FoundRow],
    info: CollectionInfo,
    limit: int,
    threshold: float | None,
) -> list[Hit]:
    """The best `limit` of the points with these keys; equal scores in the order of the keys given."""
    if not keys:
        return []
    found = [rows[key] for key in keys]
    scores = score(decode((row[3] for row in found), info), query, info)
    order = np.argsort(scores if info.metric == "l2" else -scores, kind="stable")[:limit]
    if threshold is not None:
        order = order[scores[order] <= threshold if info.metric == "l2" else scores[order] >= threshold]
    decode_json = json.JSONDecoder().raw_decode  # `loads` looks for blanks around, which no stored payload has
    best: list[int] = order.tolist()
    values: list[float] = scores[order].tolist()
    return [
        Hit(found[place][1], value, decode_json(found[place][2])[0]) for place, value in zip(best, values, strict=True)
    ]


def score(points: Matrix, query: Matrix, info: CollectionInfo) -> NDArray[np.float64]:
    """By the definition."""
    wide, asked = points.astype(np.float64), query.astype(np.float64)
    if info.metric == "l2":
        difference = wide - asked
        distances: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        return distances
    products: NDArray[np.float64] = wide @ asked
    if info.metric == "dot":
        return products
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide) * (asked @ asked))
    cosines: NDArray[np.float64] = (products / lengths).clip(-1, 1)
    return cosines
