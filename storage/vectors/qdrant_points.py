"""Points as Qdrant holds them.

The id is a UUID made of the point's own. The payload holds that own id, the payload as JSON text (so that it comes back
as it was), what filters need (`qdrant_filters`) and the expiry.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from qdrant_client import models

from .base import CollectionInfo, Metric, Payload, Point
from .matrix import STORED, Matrix, decode, to_unit_length
from .qdrant_filters import index_fields
from .reader import PointRow
from .rows import to_rows

ID, PAYLOAD, EXPIRY = "id", "payload", "expires_at"
_GIVEN = "given"  # the vector in base64, where Qdrant does not keep it as it was

SLACK = 1e-6  # the server's threshold is exclusive and in float32: it gets a wider one
UNIT = 5e-7  # of a squared length from 1: under cosine, Qdrant keeps such a vector as it is


def uuid_of(own_id: str) -> str:
    """The UUID that stands for a text in Qdrant, which takes no texts as ids."""
    return str(uuid5(NAMESPACE_URL, own_id))


def uuid_after(own_id: str) -> str:
    """The first UUID behind that of a point, in the order in which Qdrant scrolls."""
    return str(UUID(int=UUID(uuid_of(own_id)).int + 1))


def to_structs(points: Sequence[Point], info: CollectionInfo) -> list[models.PointStruct]:
    """Check and encode a batch; raises as `VectorStore.upsert` does."""
    return [_to_struct(row, point.payload, info) for row, point in zip(to_rows(points, info), points, strict=True)]


def _to_struct(row: PointRow, payload: Payload, info: CollectionInfo) -> models.PointStruct:
    own_id, blob, text, expires_at = row
    fields: dict[str, Any] = {ID: own_id, PAYLOAD: text, **index_fields(payload)}
    if expires_at is not None:
        fields[EXPIRY] = expires_at
    vector = decode([blob], info)[0]
    if info.metric == "cosine" and not (_is_unit(vector) and info.stored == "float32"):
        fields[_GIVEN] = b64encode(vector.astype(STORED).tobytes()).decode()  # Qdrant keeps only the direction
        vector = to_unit_length(vector[None, :])[0]
    return models.PointStruct(id=uuid_of(own_id), vector=vector.tolist(), payload=fields)


def _is_unit(vector: Matrix) -> bool:
    wide = vector.astype(np.float64)
    return bool(abs(wide @ wide - 1) <= UNIT)


def to_point(record: models.Record) -> Point:
    fields = record.payload or {}
    given = fields.get(_GIVEN)
    kept: Any = record.vector if given is None else np.frombuffer(b64decode(given), STORED)
    return Point(fields[ID], np.array(kept, np.float32), json.loads(fields[PAYLOAD]), fields.get(EXPIRY))


def payload_of(found: models.Record | models.ScoredPoint) -> Payload:
    payload: Payload = json.loads((found.payload or {})[PAYLOAD])
    return payload


def scored(
    points: Sequence[models.ScoredPoint], metric: Metric, threshold: float | None
) -> Iterator[tuple[str, float, Payload]]:
    """Id, score and payload of those within the threshold."""
    for point in points:
        fields = point.payload or {}
        score = min(1.0, max(-1.0, point.score)) if metric == "cosine" else point.score
        if threshold is None or (score <= threshold if metric == "l2" else score >= threshold):
            yield fields[ID], score, payload_of(point)


def wide_threshold(threshold: float | None, metric: Metric) -> float | None:
    """What to ask the server for, so that nothing within `threshold` is missed."""
    if threshold is None:
        return None
    slack = SLACK * max(1.0, abs(threshold))
    return threshold + slack if metric == "l2" else threshold - slack


def ended(now: int) -> models.FieldCondition:
    return models.FieldCondition(key=EXPIRY, range=models.Range(lte=now))


def live(now: int, condition: models.Condition | None = None) -> models.Filter:
    """The points that have not ended and meet `condition`."""
    return models.Filter(must=None if condition is None else [condition], must_not=[ended(now)])
