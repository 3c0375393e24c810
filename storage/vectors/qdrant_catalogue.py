"""Which collections a Qdrant server holds for the deck: a point for each in one small collection.

A deck's collection is a Qdrant collection of another, unique name, so that a successor can take its name over in one
step. Its point in the catalogue says what Qdrant does not keep (the embedder), and has a new `change` after every write
of any deck: what is read under one `change` stays as it is until there is another.

What was read is believed for FRESH seconds, or until this deck writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from ..clock import Clock
from ..errors import ConflictError, NotFoundError
from ..remote import check_schema
from .base import CollectionInfo
from .qdrant_points import EXPIRY, uuid_of
from .qdrant_server import Server

CATALOGUE = "quarterdeck"
SCHEMA = 1  # of the catalogue and of the points
PAGE = 500
FRESH = 1.0  # seconds
NEVER = 1 << 62

_STORED_AS, _CHANGE = "stored_as", "change"
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
        return cls(info, f"{CATALOGUE}.{info.name}.{uuid4().hex[:12]}", _new_change())

    def token(self, next_end: int) -> str:
        return f"{self.stored_as}.{self.change}.{next_end}"

    def is_named_by(self, token: str) -> bool:
        """No deck has written since; that a point has ended is no change."""
        return token.startswith(self.token(0).removesuffix("0"))


@dataclass(slots=True)
class _Known:
    head: Head
    since: float  # monotonic
    next_end: int  # when the next point ends


class Catalogue:
    """All methods raise StorageError if the server fails, those that take a name NotFoundError if there is none."""

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._client = server.client
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._writes = 0  # of this deck: what was asked before one may be older than it

    async def prepare(self) -> None:
        """Make the catalogue if this server has none."""
        params = models.VectorParams(size=len(_NOWHERE), distance=models.Distance.DOT)
        with self._server.explained():
            if not await self._client.collection_exists(CATALOGUE):
                try:
                    await self._client.create_collection(CATALOGUE, vectors_config=params)
                except UnexpectedResponse as exc:
                    if exc.status_code != 409:  # another deck was faster
                        raise

    # ---- reads

    async def find(self, name: str, *, fresh: bool = False) -> Head:
        """`fresh`: as it is now."""
        return (await self._find(name, fresh=fresh)).head

    async def token(self, name: str) -> str:
        """Names the contents as they were at most FRESH ago, or after this deck's last write."""
        known = await self._find(name)
        return known.head.token(known.next_end)

    async def _find(self, name: str, *, fresh: bool = False) -> _Known:
        known = self._known.get(name)
        now = self._clock.monotonic()
        if fresh or known is None or now - known.since >= FRESH or known.next_end <= self._clock.now():
            self.forget(name)
            writes = self._writes
            head = await self._read(name)
            known = _Known(head, now, await self._next_end(head))
            if writes == self._writes:
                self._known[name] = known
        return known

    async def all(self) -> list[Head]:
        """By name, as they are now."""
        heads: list[Head] = []
        offset: Any = None
        while True:
            with self._server.explained():
                found, offset = await self._client.scroll(CATALOGUE, limit=PAGE, offset=offset)
            heads += [self._head(record) for record in found]
            if offset is None:
                return sorted(heads, key=lambda head: head.info.name)

    def forget(self, name: str) -> None:
        self._known.pop(name, None)

    def note_end(self, head: Head, end: int) -> None:
        """A point that ends then was found; another deck may just have written it."""
        known = self._known.get(head.info.name)
        if known is not None:
            known.next_end = min(known.next_end, end)

    # ---- writes

    async def add(self, head: Head) -> None:
        """Raises ConflictError: the name is taken."""
        with self._server.explained():
            await self._client.upsert(CATALOGUE, [_point(head)], update_mode=models.UpdateMode.INSERT_ONLY)
        if (await self.find(head.info.name, fresh=True)).stored_as != head.stored_as:
            raise ConflictError(f"collection '{head.info.name}' exists already")

    async def announce(self, head: Head, changes: Mapping[str, Any]) -> None:
        """Let every deck know of a write to the collection of `head`, which has also made `changes` to the head.

        Raises:
            ConflictError: the collection has been replaced or dropped meanwhile, and the write with it.
        """
        name = head.info.name
        same: list[models.Condition] = [
            models.HasIdCondition(has_id=[uuid_of(name)]),
            models.FieldCondition(key=_STORED_AS, match=models.MatchValue(value=head.stored_as)),
        ]
        try:
            with self._server.explained():
                payload = {_CHANGE: _new_change(), **changes}
                await self._client.set_payload(CATALOGUE, payload, points=models.Filter(must=same))
        finally:
            self._wrote(name)
        try:
            after = await self.find(name, fresh=True)
        except NotFoundError:
            after = None
        if after is None or after.stored_as != head.stored_as:
            raise ConflictError(f"collection '{name}' was replaced or dropped meanwhile: try again")

    async def move(self, head: Head, successor: Head, *, only_unchanged: bool) -> None:
        """Let what is stored for `successor` have the name of `head`. A deck that dies in between leaves the name as it
        was, and garbage behind.

        Raises:
            ConflictError: `only_unchanged`, and a deck has written since `head` was read.
        """
        name = head.info.name
        moved = replace(successor, info=replace(successor.info, name=name), change=_new_change())
        unchanged = models.FieldCondition(key=_CHANGE, match=models.MatchValue(value=head.change))
        await self.remove(successor)
        with self._server.explained():
            await self._client.upsert(
                CATALOGUE, [_point(moved)], update_filter=models.Filter(must=[unchanged]) if only_unchanged else None
            )
        self._wrote(name)
        if (await self.find(name, fresh=True)).stored_as != moved.stored_as:
            await self.add(successor)
            raise ConflictError(f"collection '{name}' was changed meanwhile: try again")

    async def remove(self, head: Head) -> None:
        with self._server.explained():
            await self._client.delete(CATALOGUE, [uuid_of(head.info.name)])
        self._wrote(head.info.name)

    def _wrote(self, name: str) -> None:
        self._writes += 1
        self.forget(name)

    # ---- points

    async def _read(self, name: str) -> Head:
        with self._server.explained():
            found = await self._client.retrieve(CATALOGUE, [uuid_of(name)])
        if not found:
            raise NotFoundError(f"collection '{name}' does not exist")
        return self._head(found[0])

    async def _next_end(self, head: Head) -> int:
        if not head.has_ends:
            return NEVER
        later = models.FieldCondition(key=EXPIRY, range=models.Range(gt=self._clock.now()))
        with self._server.explained(head.info.name):
            records, _ = await self._client.scroll(
                head.stored_as,
                models.Filter(must=[later]),
                limit=1,
                order_by=models.OrderBy(key=EXPIRY),
                with_payload=[EXPIRY],
            )
        return (records[0].payload or {})[EXPIRY] if records else NEVER

    def _head(self, record: models.Record) -> Head:
        payload = record.payload or {}
        check_schema(self._server.address, f"collection '{payload['name']}'", payload["schema"], SCHEMA)
        info = CollectionInfo(**{field: payload.get(field) for field in CollectionInfo.__slots__})  # type: ignore[arg-type]
        return Head(info, payload[_STORED_AS], payload[_CHANGE], payload["has_ends"])


def _new_change() -> str:
    return uuid4().hex[:16]


def _point(head: Head) -> models.PointStruct:
    payload = {
        **asdict(head.info),
        "schema": SCHEMA,
        _STORED_AS: head.stored_as,
        _CHANGE: head.change,
        "has_ends": head.has_ends,
    }
    return models.PointStruct(id=uuid_of(head.info.name), vector=_NOWHERE, payload=payload)
