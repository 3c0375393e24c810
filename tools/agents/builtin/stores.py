"""Memory namespaces as stores of records, for what copies them: synchronisation, exports, snapshots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from ..worker.task import CallError, Task
from .entries import entries, retrieve


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


class Namespace:
    """A memory namespace."""

    def __init__(self, task: Task, name: str) -> None:
        self.name = name
        self._task = task

    def records(self) -> Iterator[Record]:
        """All records by key, each as it is when its page is read."""
        for entry in entries(self._task, self.name):
            yield _record(entry)

    def fetch(self, keys: Iterable[str]) -> Iterator[Record]:
        """Those of `keys` that are there, as they are now."""
        for key in keys:
            entry = self._task.call("memory_usage", action="retrieve", namespace=self.name, key=key)
            if entry["found"]:
                yield _record(entry)

    def write(self, records: Iterable[tuple[Record, State | None]]) -> Iterator[str]:
        """Write each record if the store still has the state beside it (None: nothing of that key); yields the keys
        of those that were written: with the others somebody else was faster."""
        for record, seen in records:
            version = seen.version if seen else 0
            if self._changes(record.key, version, action="store", value=record.content, ttl=record.ttl):
                yield record.key

    def remove(self, states: Iterable[tuple[str, State]]) -> Iterator[str]:
        """Delete what is still in the state beside it; yields the keys of what was deleted."""
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
