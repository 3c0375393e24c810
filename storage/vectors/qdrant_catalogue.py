"""Which collections a Qdrant server holds for the deck: one point for each in a small collection of their own.

A deck's collection is a Qdrant collection of another, unique name, so that a successor can take its name over in one
step. Its point in the catalogue says what Qdrant does not keep (the embedder), and has a new `change` after every write
of any deck: what was read under one `change` stays as it is until there is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ..errors import ConflictError, NotFoundError
from ..remote import check_schema
from .base import CollectionInfo
from .qdrant_server import Server

CATALOGUE = "quarterdeck"
SCHEMA = 1  # of the catalogue and of the points
PAGE = 500

_NOWHERE = [1.0]  # every point needs a vector


@dataclass(frozen=True, slots=True)
class Head:
    """A collection's point in the catalogue."""

    info: CollectionInfo
    stored_as: str  # the name of the Qdrant collection
    change: str
    has_ends: bool = False  # some of its points have had an expiry

    @classmethod
    def new(cls, info: CollectionInfo) -> Head:
        return cls(info, f"{CATALOGUE}.{info.name}.{uuid4().hex[:12]}", new_change())


def new_change() -> str:
    return uuid4().hex[:16]


def point_id(name: str) -> str:
    """The UUID that stands for a text in Qdrant, which takes no other ids."""
    return str(uuid5(NAMESPACE_URL, name))


class Catalogue:
    """All methods raise StorageError if the server fails."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = server.client

    async def prepare(self) -> None:
        """Make the catalogue if this server has none."""
        with self._server.explained():
            if not await self._client.collection_exists(CATALOGUE):
                params = models.VectorParams(size=len(_NOWHERE), distance=models.Distance.DOT)
                try:
                    await self._client.create_collection(CATALOGUE, vectors_config=params)
                except UnexpectedResponse as exc:
                    if exc.status_code != 409:  # another deck was faster
                        raise

    async def read(self, name: str) -> Head:
        """Raises NotFoundError: there is no such collection."""
        with self._server.explained():
            found = await self._client.retrieve(CATALOGUE, [point_id(name)])
        if not found:
            raise NotFoundError(f"collection '{name}' does not exist")
        return self._head(found[0].payload or {})

    async def read_all(self) -> list[Head]:
        """By name."""
        heads: list[Head] = []
        offset: Any = None
        while True:
            with self._server.explained():
                found, offset = await self._client.scroll(CATALOGUE, limit=PAGE, offset=offset)
            heads += [self._head(record.payload or {}) for record in found]
            if offset is None:
                return sorted(heads, key=lambda head: head.info.name)

    async def add(self, head: Head) -> None:
        """Raises ConflictError: the name is taken."""
        with self._server.explained():
            await self._client.upsert(CATALOGUE, [_point(head)], update_mode=models.UpdateMode.INSERT_ONLY)
        if (await self.read(head.info.name)).stored_as != head.stored_as:
            raise ConflictError(f"collection '{head.info.name}' exists already")

    async def announce(self, head: Head, changes: Mapping[str, Any]) -> Head:
        """Note what a write to the collection of `head` has changed, and return its head as it is then.

        Raises:
            ConflictError: the collection has been replaced or dropped meanwhile, and the write with it.
        """
        name = head.info.name
        same = models.Filter(
            must=[
                models.HasIdCondition(has_id=[point_id(name)]),
                models.FieldCondition(key="stored_as", match=models.MatchValue(value=head.stored_as)),
            ]
        )
        with self._server.explained():
            await self._client.set_payload(CATALOGUE, {"change": new_change(), **changes}, points=same)
        try:
            after = await self.read(name)
        except NotFoundError:
            after = None
        if after is None or after.stored_as != head.stored_as:
            raise ConflictError(f"collection '{name}' was replaced or dropped meanwhile: try again")
        return after

    async def move(self, head: Head, successor: Head) -> Head:
        """Let what is stored for `successor` have the name of `head`, and return the head that this makes."""
        info = CollectionInfo(**{**asdict(successor.info), "name": head.info.name})
        moved = Head(info, successor.stored_as, new_change(), successor.has_ends)
        gone = models.PointIdsList(points=[point_id(successor.info.name)])
        with self._server.explained():
            await self._client.batch_update_points(
                CATALOGUE,
                [
                    models.UpsertOperation(upsert=models.PointsList(points=[_point(moved)])),
                    models.DeleteOperation(delete=gone),
                ],
            )
        return moved

    async def remove(self, head: Head) -> None:
        with self._server.explained():
            await self._client.delete(CATALOGUE, [point_id(head.info.name)])

    def _head(self, payload: Mapping[str, Any]) -> Head:
        check_schema(self._server.address, f"collection '{payload['name']}'", payload["schema"], SCHEMA)
        info = CollectionInfo(**{field: payload.get(field) for field in CollectionInfo.__slots__})
        return Head(info, payload["stored_as"], payload["change"], payload["has_ends"])


def _point(head: Head) -> models.PointStruct:
    payload = {
        **asdict(head.info),
        "schema": SCHEMA,
        "stored_as": head.stored_as,
        "change": head.change,
        "has_ends": head.has_ends,
    }
    return models.PointStruct(id=point_id(head.info.name), vector=_NOWHERE, payload=payload)
