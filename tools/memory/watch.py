"""Sees when an entry changes that somebody listens to: by this server, by its agents, or by other servers.

No backend tells of changes made elsewhere (and none of expiries), so the watch looks: while anybody listens, one read
a namespace, without values, for exactly the entries listened to. While nobody does, nothing runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

from quarterdeck.storage.errors import InvalidArgumentError, LimitError
from quarterdeck.storage.memory.base import Entry

from .service import MemoryService
from .uri import name_of

log = logging.getLogger(__name__)

INTERVAL = 0.25  # seconds that a look waits for `look_soon`
REST = 0.05  # seconds after each look, so that a busy client causes 20 a second at most
MAX_WATCHED = 1_000  # URIs of all listeners of a server

Name = tuple[str, str]  # namespace, key


class MemoryWatch:
    """Publishes the URI of every entry that was written, touched, deleted, restored or has expired."""

    def __init__(self, memory: MemoryService, publish: Callable[[str], Awaitable[None]]) -> None:
        self._memory = memory
        self._publish = publish
        self._listeners: list[Mapping[str, Name]] = []  # by URI: each may spell a name in its own way
        self._seen: dict[Name, Entry | None] = {}
        self._wanted = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watching(self, uris: Iterable[str]) -> AsyncGenerator[None]:
        """Publish what changes until the block ends. URIs that name no entry are accepted, and nothing happens to them.

        Raises:
            LimitError: too many are listened to.
            StorageError: the store could not be read.
        """
        listener = _names(uris)
        if sum(map(len, self._listeners), len(listener)) > MAX_WATCHED:
            raise LimitError(f"resourceSubscriptions: a server watches at most {MAX_WATCHED} memory URIs at once")
        if not listener:
            yield
            return
        heads = await self._heads(listener.values())
        self._seen = heads | self._seen  # who listens already still waits for what came after the older look
        self._listeners.append(listener)
        if self._looking is None:
            self._wanted.clear()
            self._looking = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            self._listeners.remove(listener)
            names = set(self._watched().values())
            self._seen = {name: head for name, head in self._seen.items() if name in names}
            if not names:
                self._looking.cancel()
                self._looking = None

    def look_soon(self) -> None:
        """Look before the interval is over, if anybody listens."""
        self._wanted.set()

    def _watched(self) -> dict[str, Name]:
        return {uri: name for listener in self._listeners for uri, name in listener.items()}

    async def _look_on(self) -> None:
        failed = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._look()
                failed = False
            except Exception:  # the top of a background task; once the store can be read again, no change is lost
                if not failed:
                    log.exception("cannot see which memories change")
                failed = True
            await asyncio.sleep(REST)

    async def _look(self) -> None:
        heads = await self._heads(self._seen)
        changed = {name: head for name, head in heads.items() if self._seen.get(name, head) != head}
        self._seen |= changed
        for uri, name in self._watched().items():  # those who came during the read too
            if name in changed:
                await self._publish(uri)

    async def _heads(self, names: Iterable[Name]) -> dict[Name, Entry | None]:
        """The entries without their values; None where there is none."""
        store, now = await self._memory.begin()
        keys: dict[str, list[str]] = {}
        for namespace, key in set(names):
            keys.setdefault(namespace, []).append(key)
        heads: dict[Name, Entry | None] = {}
        for namespace, wanted in keys.items():
            found = await store.heads(namespace, wanted, now=now)
            heads |= {(namespace, key): found.get(key) for key in wanted}
        return heads


def _names(uris: Iterable[str]) -> dict[str, Name]:
    names: dict[str, Name] = {}
    for uri in uris:
        with suppress(InvalidArgumentError):
            names[uri] = name_of(uri)
    return names
