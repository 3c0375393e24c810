"""Points to the rows that are stored, checked, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ..errors import InvalidArgumentError, LimitError
from .base import MAX_ID_CHARS, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH, CollectionInfo, Payload, Point
from .matrix import STORED_AS, decode, to_matrix
from .reader import PointRow

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def to_rows(points: Sequence[Point], info: CollectionInfo) -> list[PointRow]:
    """Check and encode a batch for the collection that `info` describes.

    Raises:
        InvalidArgumentError, LimitError: as `VectorStore.upsert` does.
    """
    seen = set[str]()
    for point in points:
        check_id(point.id)
        if point.id in seen:
            raise InvalidArgumentError(f"point '{point.id}' is twice in this batch: give each id once")
        seen.add(point.id)
    labels = [f"point '{point.id}'" for point in points]
    matrix = to_matrix([point.vector for point in points], labels, info.dimension, info.metric)
    with np.errstate(over="ignore"):
        stored = matrix.astype(STORED_AS[info.stored])
    if info.stored != "float32":  # what it makes of them must be valid too
        rounded = [f"{label} as {info.stored}" for label in labels]
        to_matrix(list(stored.astype(np.float32)), rounded, info.dimension, info.metric)
    return [
        (point.id, row.tobytes(), _to_text(point.payload, label), point.expires_at)
        for point, row, label in zip(points, stored, labels, strict=True)
    ]


def to_point(row: PointRow, info: CollectionInfo) -> Point:
    point_id, vector, payload, expires_at = row
    return Point(point_id, decode([vector], info)[0], json.loads(payload), expires_at)


def check_id(point_id: str) -> None:
    """Raise InvalidArgumentError if no point can have this id."""
    if not 1 <= len(point_id) <= MAX_ID_CHARS or _UNPRINTABLE.search(point_id):
        raise InvalidArgumentError(
            f"a point's id is 1 to {MAX_ID_CHARS} characters without control characters and lone surrogates, "
            f"got {len(point_id)}: {point_id[:40]!a}"
        )


def _to_text(payload: Payload, label: str) -> str:
    try:
        text = _encode(payload)
        size = len(text.encode())
    except RecursionError:
        raise _too_deep(label) from None
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError(f"the payload of {label} is not JSON: {exc}") from None
    if size > MAX_PAYLOAD_BYTES:
        raise LimitError(f"the payload of {label} has {size} bytes of JSON, at most {MAX_PAYLOAD_BYTES} are kept")
    if text.count("[") + text.count("{") > MAX_PAYLOAD_DEPTH and _is_deeper(payload, MAX_PAYLOAD_DEPTH):
        raise _too_deep(label)
    return text


def _is_deeper(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        children = list(cast("dict[str, Any]", value).values())
    else:
        children = cast("list[Any]", value) if isinstance(value, list | tuple) else []
    return any(depth == 0 or _is_deeper(child, depth - 1) for child in children)


def _too_deep(label: str) -> LimitError:
    return LimitError(f"the payload of {label} is nested deeper than {MAX_PAYLOAD_DEPTH} lists and objects")
