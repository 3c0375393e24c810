"""The collections as one process serves them: each index follows the file, and is built anew beside the searches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..clock import Clock
from ..errors import NotFoundError
from .build import Builder, BuildStoppedError
from .generation import Generation, Structure
from .reader import Collection, Reader
from .replica import Replica
from .snapshots import Snapshots
from .sqlite import PointDatabase
from .threads import Threads

T = TypeVar("T")
log = logging.getLogger(__name__)


class Replicas:
    def __init__(
        self, database: PointDatabase, snapshots: Snapshots, threads: Threads, clock: Clock, *, indexed: bool
    ) -> None:
        self._database = database
        self._snapshots = snapshots
        self._threads = threads
        self._clock = clock
        self._indexed = indexed
        self._replicas: dict[str, Replica] = {}

    def find(self, name: str) -> Collection:
        return self._database.read_once(lambda reader: self.find_in(reader, name))

    def find_in(self, reader: Reader, name: str) -> Collection:
        try:
            return reader.find(name)
        except NotFoundError:
            self.forget(name)  # another process may have dropped it
            raise

    def of(self, collection: Collection) -> Replica:
        name = collection.info.name
        replica = self._replicas.get(name)
        if replica is None or replica.key != collection.key:
            replica = self._replicas[name] = Replica(collection.key, indexed=self._indexed)
        return replica

    def forget(self, name: str) -> None:
        self._replicas.pop(name, None)

    def rename(self, old: str, new: str) -> None:
        """`new`, if there is one, gives way."""
        self.forget(new)
        if old in self._replicas:
            self._replicas[new] = self._replicas.pop(old)

    def outdate(self, name: str) -> None:
        """This process has just changed the collection: spare the next search to find that out by itself."""
        replica = self._replicas.get(name)
        if replica is not None and replica.generation is not None:
            replica.generation.followed = None

    def latest(self, name: str) -> tuple[Collection, Generation] | None:
        """The collection as a search last found it, and its index; None where the next will not find it so.

        Another process may have changed it meanwhile: `Reader.found` tells.
        """
        replica = self._replicas.get(name)
        generation = replica.generation if replica is not None and not replica.lock.locked() else None
        if generation is None or generation.followed is None:
            return None
        generation.slots.expire(self._clock.now())
        return generation.followed, generation

    def at_once(self, reader: Reader, collection: Collection) -> Generation | None:
        """The collection's index as `reader` sees it, on the event loop; None if that would take long."""
        replica = self.of(collection)
        generation = replica.generation
        if generation is None or replica.lock.locked() or not generation.is_near(reader, collection):
            return None
        is_behind = generation.sequence != collection.sequence
        generation.follow(reader, collection)
        if is_behind:
            self._build_if_due(replica, collection)
        generation.slots.expire(self._clock.now())
        return generation

    async def follow(
        self, name: str, work: Callable[[Reader, Collection, Generation], None] | None = None
    ) -> tuple[Replica, Collection, Generation]:
        """The collection's index as it is now; `work` has it for itself."""

        def note(reader: Reader, collection: Collection, generation: Generation) -> tuple[Collection, Generation]:
            if work is not None:
                work(reader, collection, generation)
            return collection, generation

        collection, generation = await self.use(name, note)
        return self.of(collection), collection, generation

    async def use(self, name: str, work: Callable[[Reader, Collection, Generation], T]) -> T:
        """Bring the index up to date in a thread, and let `work` use it there."""
        while True:
            replica = self.of(self.find(name))
            done = await self._threads.tasks.finish(self._exclusively(name, replica, work))
            if done:
                return done[0]

    async def _exclusively(
        self, name: str, replica: Replica, work: Callable[[Reader, Collection, Generation], T]
    ) -> list[T]:
        """The result of `work`; none if the name has been given to another collection meanwhile."""

        def follow_and_work() -> tuple[Collection, list[T]]:
            with self._database.read() as reader:
                collection = reader.find(name)
                if collection.key != replica.key:
                    return collection, []
                generation = replica.follow(reader, collection, self._snapshots, self._clock.now())
                return collection, [work(reader, collection, generation)]

        async with replica.lock:
            collection, done = await self._threads.run(follow_and_work)
        if done:
            self._build_if_due(replica, collection)
        return done

    # ---- building

    async def build(self, name: str) -> None:
        """Build now what is wished for, and wait until it serves."""
        replica = self.of(self.find(name))
        while replica.building is not None:
            await asyncio.shield(replica.building)
        now = self._clock.now()
        with self._database.read_inline() as reader:
            collection = self.find_in(reader, name)
            points = reader.count(collection, now)
        self._start_building(name, replica, replica.wish(collection.info, points))
        if replica.building is not None:
            await asyncio.shield(replica.building)

    def _build_if_due(self, replica: Replica, collection: Collection) -> None:
        if (wish := replica.next_structure(collection.info)) is not None:
            self._start_building(collection.info.name, replica, wish)

    def _start_building(self, name: str, replica: Replica, wish: Structure) -> None:
        if self._threads.stop.is_set():
            return
        replica.building_kind = wish[0]
        replica.building = self._threads.tasks.start(self._build(name, replica, wish))

    async def _build(self, name: str, replica: Replica, wish: Structure) -> None:
        try:
            built = await self._threads.run_build(partial(self._built, replica, wish))
            if built is None:
                return
            generation, folder = built
            while not await self._swapped(replica, generation):
                await self._threads.run_build(partial(self._catch_up, replica, generation))
            await self.keep(replica, folder)
        except BuildStoppedError:
            log.debug("building the index of %s was stopped", name)
            return
        except Exception as exc:  # the top of a background task: searches go on with what there is
            log.exception("the index of %s could not be built", name)
            replica.build_failed(wish, str(exc))
            return
        finally:
            replica.building = replica.building_kind = None
        if (following := replica.next_structure(generation.info)) is not None:
            self._start_building(name, replica, following)  # for what has come meanwhile

    def _built(self, replica: Replica, wish: Structure) -> tuple[Generation, str] | None:
        """In a thread: a new index and the folder that keeps it; None if the collection is gone."""
        with self._database.read() as reader:
            collection = reader.of_key(replica.key)
            if collection is None:
                return None
            fields = replica.generation.postings.fields if replica.generation is not None else []
            folder = self._snapshots.new_folder(replica.key)
            try:
                generation = Builder(reader, collection, folder, self._threads.stop).build(wish, fields)
                self._snapshots.save(generation, folder)
            except BaseException:
                self._snapshots.discard(folder)
                raise
        return generation, folder.name

    async def _swapped(self, replica: Replica, generation: Generation) -> bool:
        """False if so much has come meanwhile that searches would wait for it."""
        async with replica.lock:
            is_there = await self._threads.run(partial(self._advance, replica.key, generation))
            if is_there:
                replica.generation = generation
        return is_there

    def _advance(self, key: int, generation: Generation, *, patient: bool = False) -> bool:
        with self._database.read() as reader:
            collection = reader.of_key(key)
            return collection is None or generation.follow(reader, collection, patient=patient)

    def _catch_up(self, replica: Replica, generation: Generation) -> None:
        """In the builders' thread, where nobody waits for it."""
        if self._threads.stop.is_set():
            raise BuildStoppedError
        self._advance(replica.key, generation, patient=True)

    async def keep(self, replica: Replica, folder: str) -> None:
        """Make this the collection's snapshot, and remove the one before it."""
        before = await self._threads.write(lambda writer: writer.keep_snapshot(replica.key, folder))
        if before is None:
            await self._threads.run(partial(self._snapshots.remove_all, replica.key))
        else:
            await self._threads.run(partial(self._snapshots.prune, replica.key, folder, before.snapshot))
        await self._threads.alone(self._database.fold_log)
