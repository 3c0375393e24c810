"""What a client can read and complete of memory as resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.memory.base import Entry, MemoryStore

from .checks import MAX_KEY, MAX_NAMESPACE, check_text
from .uri import name_of

MAX_COMPLETIONS = 100  # the protocol's own bound
LOOK = 500  # namespaces read at once


@dataclass(frozen=True, slots=True)
class Completions:
    """The first names that begin with what was typed."""

    values: Sequence[str]
    has_more: bool


class MemoryResource:
    """Every method raises StorageError where the store fails."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def read(self, uri: str) -> Entry:
        """The entry that `uri` names.

        Raises:
            InvalidArgumentError: it names none.
            NotFoundError: there is no such entry (any more).
        """
        namespace, key = name_of(uri)
        entry = await self._store.get(namespace, key, now=self._clock.now())
        if entry is None:
            raise NotFoundError(f"no '{key}' in namespace '{namespace}': memory_usage's action list shows the keys")
        return entry

    async def namespaces(self, prefix: str) -> Completions:
        """The namespaces that begin with `prefix`, by code points."""
        found: list[str] = []
        after = prefix[:-1]  # nothing that begins with `prefix` comes before it
        while _can_begin("namespace", prefix, MAX_NAMESPACE) and len(found) <= MAX_COMPLETIONS:
            page = await self._store.namespaces(now=self._clock.now(), limit=LOOK, after=after)
            found += [stats.namespace for stats in page if stats.namespace.startswith(prefix)]
            if len(page) < LOOK or page[-1].namespace[: len(prefix)] > prefix:
                break
            after = page[-1].namespace
        return _first(found)

    async def keys(self, namespace: str, prefix: str) -> Completions:
        """The keys of a namespace that begin with `prefix`, by code points."""
        if not (namespace and _can_begin("namespace", namespace, MAX_NAMESPACE) and _can_begin("key", prefix, MAX_KEY)):
            return Completions([], has_more=False)
        now = self._clock.now()
        heads = await self._store.page(namespace, now=now, limit=MAX_COMPLETIONS + 1, prefix=prefix)
        return _first([head.key for head in heads])


def _can_begin(name: str, prefix: str, longest: int) -> bool:
    """Whether a name can begin so."""
    try:
        check_text(name, prefix or "any", longest)
    except InvalidArgumentError:
        return False
    return True


def _first(found: Sequence[str]) -> Completions:
    return Completions(found[:MAX_COMPLETIONS], has_more=len(found) > MAX_COMPLETIONS)
