"""Vectors from outside, checked and laid out as the backends need them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError
from .base import CollectionInfo, Metric, Stored, Vector

Matrix: TypeAlias = NDArray[np.float32]

STORED = np.dtype("<f4")
"""How a vector is written to disk, unless a collection stores float16."""
STORED_AS: dict[Stored, np.dtype[Any]] = {"float32": STORED, "float16": np.dtype("<f2")}

ORDINARY = 1e-20  # the least square of a length that float32 sums well enough; the inverse is the greatest
MAX_LENGTH = 1e18  # of a vector: the square of a greater one does not fit a float32 any more


def to_matrix(vectors: Sequence[Vector], labels: Sequence[str], dimension: int, metric: Metric) -> Matrix:
    """Copy `vectors` into an array of shape (len(vectors), dimension).

    Raises:
        InvalidArgumentError: a wrong dimension, a number that is not finite or too large, a zero vector under
            cosine; the text names the vector by its label.
    """
    return _checked(vectors, labels, dimension, metric)[0]


def to_queries(vectors: Sequence[Vector], info: CollectionInfo) -> Matrix:
    """As `to_matrix`, for a collection, and laid out as `decode_comparable` does."""
    labels = [f"query {number}" for number in range(len(vectors))]
    matrix, lengths = _checked(vectors, labels, info.dimension, info.metric)
    return _scaled(matrix, lengths) if info.metric == "cosine" else matrix


def _checked(
    vectors: Sequence[Vector], labels: Sequence[str], dimension: int, metric: Metric
) -> tuple[Matrix, NDArray[Any]]:
    """The matrix, and the lengths of its rows."""
    for vector, label in zip(vectors, labels, strict=True):
        if len(vector) != dimension:
            raise InvalidArgumentError(f"{label} has dimension {len(vector)}, the collection has {dimension}")
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        matrix = np.array(vectors, dtype=np.float32).reshape(len(vectors), dimension)
        lengths, ordinary = _lengths(matrix)
    if not ordinary:
        good = lengths <= MAX_LENGTH  # False for NaN
        if metric == "cosine":
            good &= lengths > 0
        if not good.all():
            row = int(np.argmin(good))
            raise InvalidArgumentError(f"{labels[row]} {_defect(matrix[row], lengths[row])}")
    return matrix, lengths


def decode(blobs: Iterable[bytes], info: CollectionInfo) -> Matrix:
    """Stored vectors as an array of shape (number, dimension)."""
    numbers = np.frombuffer(b"".join(blobs), STORED_AS[info.stored])
    return numbers.astype(np.float32).reshape(-1, info.dimension)


def decode_comparable(blobs: Iterable[bytes], info: CollectionInfo) -> Matrix:
    """Stored vectors as an index holds them, and is asked with them: under cosine scaled to length 1."""
    matrix = decode(blobs, info)
    return to_unit_length(matrix) if info.metric == "cosine" else matrix


def to_unit_length(matrix: Matrix) -> Matrix:
    """Return the rows, none of which is zero, scaled to length 1."""
    return _scaled(matrix, _lengths(matrix)[0])


def _scaled(matrix: Matrix, lengths: NDArray[Any]) -> Matrix:
    scaled: Matrix = (matrix / lengths[:, None]).astype(np.float32, copy=False)
    return scaled


def _lengths(matrix: Matrix) -> tuple[NDArray[Any], bool]:
    """Euclidean lengths, and whether all are ordinary: finite, and neither so small nor so great that squares in
    single precision vanish or overflow. Those of other rows are in double precision; no row's depends on the rest."""
    squares = np.vecdot(matrix, matrix)
    lengths: NDArray[Any] = np.sqrt(squares)
    if not len(squares) or (squares.min() > ORDINARY and squares.max() < 1 / ORDINARY):  # False for NaN
        return lengths, True
    wide = matrix.astype(np.float64)
    ordinary = (squares > ORDINARY) & (squares < 1 / ORDINARY)
    lengths = np.where(ordinary, lengths, np.sqrt(np.vecdot(wide, wide)))
    return lengths, False


def _defect(row: NDArray[np.float32], length: np.float64) -> str:
    if not np.isfinite(row).all():
        place = int(np.argmin(np.isfinite(row)))
        return f"is not finite (NaN, infinite, or beyond float32) at position {place}"
    if length > MAX_LENGTH:
        return f"has length {length:.3g}; at most {MAX_LENGTH:.0e} can be compared"
    return "is a zero vector, which has no direction: cosine cannot compare it"
