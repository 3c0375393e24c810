"""What a client can read and complete of memory as resources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.storage.memory.base import Entry

from .checks import MAX_KEY, MAX_NAMESPACE, check_text
from .service import MemoryService
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

    def __init__(self, memory: MemoryService) -> None:
        self._memory = memory

    async def read(self, uri: str) -> Entry:
        """The entry that `uri` names.

        Raises:
            InvalidArgumentError: it names none.
            NotFoundError: there is no such entry (any more).
        """
        namespace, key = name_of(uri)
        entry = await self._memory.retrieve(namespace, key)
        if entry is None:
            raise NotFoundError(f"no '{key}' in namespace '{namespace}': memory_usage's action list shows the keys")
        return entry

    async def namespaces(self, prefix: str) -> Completions:
        """The namespaces that begin with `prefix`, by code points."""
        found: list[str] = []
        after = prefix[:-1]  # nothing that begins with `prefix` comes before it
        store, now = await self._memory.begin()
        while _can_begin("namespace", prefix, MAX_NAMESPACE) and len(found) <= MAX_COMPLETIONS:
            page = await store.namespaces(now=now, limit=LOOK, after=after)
            found += [stats.namespace for stats in page if stats.namespace.startswith(prefix)]
            if len(page) < LOOK or page[-1].namespace[: len(prefix)] > prefix:
                break
            after = page[-1].namespace
        return _first(found)

    async def keys(self, namespace: str, prefix: str) -> Completions:
        """The keys of a namespace that begin with `prefix`, by code points."""
        if not (namespace and _can_begin("namespace", namespace, MAX_NAMESPACE) and _can_begin("key", prefix, MAX_KEY)):
            return Completions([], has_more=False)
        store, now = await self._memory.begin()
        heads = await store.page(namespace, now=now, limit=MAX_COMPLETIONS + 1, prefix=prefix)
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
