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


def to_comparable(vectors: Sequence[Vector], labels: Sequence[str], dimension: int, metric: Metric) -> Matrix:
    """As `to_matrix`, then as `comparable`."""
    matrix, squares = _checked(vectors, labels, dimension, metric)
    return _to_unit_length(matrix, squares) if metric == "cosine" else matrix


def _checked(vectors: Sequence[Vector], labels: Sequence[str], dimension: int, metric: Metric) -> tuple[Matrix, Matrix]:
    """The matrix, and the squares of its rows' lengths in single precision."""
    for vector, label in zip(vectors, labels, strict=True):
        if len(vector) != dimension:
            raise InvalidArgumentError(f"{label} has dimension {len(vector)}, the collection has {dimension}")
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        matrix = np.array(vectors, dtype=np.float32).reshape(len(vectors), dimension)
        squares = np.vecdot(matrix, matrix)
    if not _all_ordinary(squares):
        lengths = _lengths(matrix)
        good = lengths <= MAX_LENGTH  # False for NaN
        if metric == "cosine":
            good &= lengths > 0
        if not good.all():
            row = int(np.argmin(good))
            raise InvalidArgumentError(f"{labels[row]} {_defect(matrix[row], lengths[row])}")
    return matrix, squares


def decode(blobs: Iterable[bytes], info: CollectionInfo) -> Matrix:
    """Stored vectors as an array of shape (number, dimension)."""
    numbers = np.frombuffer(b"".join(blobs), STORED_AS[info.stored])
    return numbers.astype(np.float32).reshape(-1, info.dimension)


def comparable(matrix: Matrix, metric: Metric) -> Matrix:
    """The rows as an index holds them, and is asked with them."""
    return to_unit_length(matrix) if metric == "cosine" else matrix


def to_unit_length(matrix: Matrix) -> Matrix:
    """Return the rows, none of which is zero, scaled to length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _to_unit_length(matrix, np.vecdot(matrix, matrix))


def _to_unit_length(matrix: Matrix, squares: Matrix) -> Matrix:
    """Each by itself: what a row becomes does not depend on those beside it."""
    lengths: Matrix = np.sqrt(squares)
    if _all_ordinary(squares):
        return matrix / lengths[:, None]
    ordinary = (squares > ORDINARY) & (squares < 1 / ORDINARY)
    lengths = np.where(ordinary, lengths, _lengths(matrix))
    return (matrix / lengths[:, None]).astype(np.float32)  # the bits of an ordinary row are those above


def _all_ordinary(squares: Matrix) -> bool:
    """Whether each is finite, and neither so small nor so great that single precision does not do."""
    return not len(squares) or bool(squares.min() > ORDINARY and squares.max() < 1 / ORDINARY)  # False for NaN


def _lengths(matrix: Matrix) -> NDArray[np.float64]:
    """Euclidean lengths, in double precision: squares of tiny and huge numbers must not vanish or overflow."""
    wide = matrix.astype(np.float64)
    lengths: NDArray[np.float64] = np.sqrt(np.vecdot(wide, wide))
    return lengths


def _defect(row: NDArray[np.float32], length: np.float64) -> str:
    if not np.isfinite(row).all():
        place = int(np.argmin(np.isfinite(row)))
        return f"is not finite (NaN, infinite, or beyond float32) at position {place}"
    if length > MAX_LENGTH:
        return f"has length {length:.3g}; at most {MAX_LENGTH:.0e} can be compared"
    return "is a zero vector, which has no direction: cosine cannot compare it"
