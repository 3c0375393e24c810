"""A collection as one process serves it: its index, who may use it now, and the next one that is being built."""

from __future__ import annotations

import asyncio

from .base import CollectionInfo, IndexKind
from .generation import Generation, Structure
from .index import wanted
from .reader import Collection, Reader
from .snapshots import Snapshots


class Replica:
    def __init__(self, key: int, *, indexed: bool) -> None:
        self.key = key
        self.generation: Generation | None = None  # None: nobody has searched it yet
        self.lock = asyncio.Lock()  # held while a thread may use the generation
        self.building: asyncio.Task[None] | None = None
        self.building_kind: IndexKind | None = None
        self._indexed = indexed

    def follow(self, reader: Reader, collection: Collection, snapshots: Snapshots, now: int) -> Generation:
        """Bring the generation to the state that `reader` sees, or begin one: from its snapshot, or from nothing."""
        if self.generation is None and self._indexed:
            self.generation = snapshots.load(collection)
        if self.generation is None:
            self.generation = Generation.empty(collection.info)
        if not self.generation.follow(reader, collection):
            self.generation = Generation.empty(collection.info)
            self.generation.follow(reader, collection)
        self.generation.slots.expire(now)
        return self.generation

    def wish(self, info: CollectionInfo, points: int) -> Structure:
        return wanted(info, points) if self._indexed else ("exact", "none")

    def next_structure(self, info: CollectionInfo) -> Structure | None:
        """What is to be built now; None: nothing."""
        generation = self.generation
        if generation is None or self.building is not None:
            return None
        points = generation.slots.living
        wish = self.wish(info, points)
        return wish if generation.is_outdated(wish, self.wish(info, 2 * points)) else None

    def build_failed(self, wish: Structure, reason: str) -> None:
        """Serve on with what there is, until there are twice as many points."""
        if self.generation is not None:
            self.generation.wish = wish
            self.generation.built = self.generation.slots.living
            self.generation.note = f"{wish[0]} could not be built: {reason}"
