"""Memory namespaces and vector collections as stores of records, for what copies them: synchronisation, exports,
snapshots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar

from ..worker.task import CallError, PromptError, Task
from .entries import deck_time, entries, retrieve

POINTS = 100  # of one write
T = TypeVar("T")


class State(NamedTuple):
    """A record without its content. Times are ISO 8601 in UTC, as the deck writes them, so they compare as texts."""

    digest: str  # of the content
    version: int | None  # for compare-and-set; None where the store has none
    updated: str | None  # None: not known
    expires: str | None  # None: never


class Record(NamedTuple):
    key: str
    content: Any
    state: State
    ttl: float  # seconds it had to live when it was read; 0: for ever


def canonical(content: Any) -> str:
    """JSON that is the same for equal content: the order of fields does not count, 1, 1.0 and true are three."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(content: Any) -> str:
    return hashlib.sha256(canonical(content).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def lifetime(now: str, expires: str | None) -> float:
    """Seconds from now until then; 0 for ever, and a millisecond for what is ending."""
    if expires is None:
        return 0
    return max((datetime.fromisoformat(expires) - datetime.fromisoformat(now)).total_seconds(), 0.001)


class Store(Protocol):
    """What both have. Contents are JSON: a namespace's values, a collection's `{vector, payload}`."""

    kind: str  # memory or vectors
    name: str
    shape: dict[str, Any]  # of a collection `{dimension, metric, embedder}`; a namespace has none

    def records(self) -> Iterator[Record]:
        """All records, always in the same order, each as it is when its page is read."""
        ...

    def fetch(self, keys: Iterable[str]) -> Iterator[Record]:
        """Those of `keys` that are there, as they are now."""
        ...

    def write(self, records: Iterable[tuple[Record, State | None]]) -> Iterator[str]:
        """Write each record if the store still has the state beside it (None: nothing of that key); yields the keys
        of those that were written: with the others somebody else was faster."""
        ...

    def remove(self, states: Iterable[tuple[str, State]]) -> Iterator[str]:
        """Delete what is still in the state beside it; yields the keys of what was deleted."""
        ...


class Namespace:
    """A memory namespace. Versions see to it that nobody's change is overwritten."""

    kind = "memory"

    def __init__(self, task: Task, name: str) -> None:
        self.name = name
        self.shape: dict[str, Any] = {}
        self._task = task

    def records(self) -> Iterator[Record]:
        for entry in entries(self._task, self.name):
            yield _record(entry)

    def fetch(self, keys: Iterable[str]) -> Iterator[Record]:
        for key in keys:
            entry = self._task.call("memory_usage", action="retrieve", namespace=self.name, key=key)
            if entry["found"]:
                yield _record(entry)

    def write(self, records: Iterable[tuple[Record, State | None]]) -> Iterator[str]:
        for record, seen in records:
            version = seen.version if seen else 0
            if self._changes(record.key, version, action="store", value=record.content, ttl=record.ttl):
                yield record.key

    def remove(self, states: Iterable[tuple[str, State]]) -> Iterator[str]:
        for key, seen in states:
            if self._changes(key, seen.version, action="delete"):
                yield key

    def _changes(self, key: str, version: int | None, **arguments: Any) -> bool:
        """Whether a compare-and-set succeeds."""
        try:
            self._task.call("memory_usage", namespace=self.name, key=key, ifVersion=version, **arguments)
        except CallError:
            if retrieve(self._task, self.name, key)[1] == version:
                raise  # refused for another reason than another version
            return False
        return True


def _record(entry: dict[str, Any]) -> Record:
    state = State(digest(entry["value"]), entry["version"], entry.get("updatedAt"), entry["expiresAt"])
    return Record(entry["key"], entry["value"], state, lifetime(entry["timestamp"], entry["expiresAt"]))


def shape_of(task: Task, name: str) -> dict[str, Any] | None:
    """The `{dimension, metric, embedder}` of a collection; None: there is none."""
    answer = task.call("vector_shape", collection=name)
    return {field: answer[field] for field in ("dimension", "metric", "embedder")} if answer["found"] else None


class Collection:
    """A vector collection: `NAME` of the deck, `sync:NAME` of the store that it synchronises with. Points have no
    versions: what somebody changes between its reading and its writing here is overwritten."""

    kind = "vectors"

    def __init__(self, task: Task, name: str, shape: dict[str, Any] | None = None) -> None:
        """With a `shape`, a missing collection is made by the first write.

        Raises:
            PromptError: it is missing and no shape is given, or it has another one.
        """
        self.name = name
        self._task = task
        found = shape_of(task, name)
        self._is_there = found is not None
        self.shape = found or shape or {}
        if not self.shape:
            raise PromptError(f"there is no collection {name!r}")
        if shape and shape != self.shape:
            raise PromptError(f"collection {name!r} has {self.shape}, not {shape}: their points do not fit each other")

    def records(self) -> Iterator[Record]:
        after, is_last = "", not self._is_there
        while not is_last:
            page = self._task.call("vector_points", collection=self.name, after=after)
            now = deck_time(self._task)
            for point in page["points"]:
                content = {"vector": point["vector"], "payload": point["payload"]}
                state = State(digest(content), None, None, point["expiresAt"])
                yield Record(point["id"], content, state, lifetime(now, point["expiresAt"]))
                after = point["id"]
            is_last = page["isLast"]

    def fetch(self, keys: Iterable[str]) -> Iterator[Record]:
        wanted = frozenset(keys)
        return (record for record in self.records() if record.key in wanted) if wanted else iter(())

    def write(self, records: Iterable[tuple[Record, State | None]]) -> Iterator[str]:
        for batch in _batches(records):
            points = [{"id": record.key, **record.content, "ttl": record.ttl} for record, _ in batch]
            self._task.call("vector_put_points", collection=self.name, points=points, **self.shape)
            self._is_there = True
            yield from (record.key for record, _ in batch)

    def remove(self, states: Iterable[tuple[str, State]]) -> Iterator[str]:
        for batch in _batches(states):
            ids = [key for key, _ in batch]
            self._task.call("vector_delete", collection=self.name, ids=ids)
            yield from ids


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, POINTS)):
        yield batch


def open_store(task: Task, kind: str, name: str, shape: dict[str, Any] | None = None) -> Store:
    """The store of that kind (memory or vectors) and name; `shape` as `Collection` takes it."""
    return Namespace(task, name) if kind == "memory" else Collection(task, name, shape)
