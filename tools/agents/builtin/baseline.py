"""What two stores had in common when they were last synchronised: the third side of a three-way comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..worker.task import CallError, Task
from .entries import entries

NAMESPACE = "sync"
FOR_EVER = 0


class Common(NamedTuple):
    """A record that both had: its digest, and when it expires in each, by the store's name (ISO 8601)."""

    digest: str
    expires: dict[str, str | None]

    def has_lapsed(self, store: str, now: str) -> bool:
        """Whether the store's copy has reached its end by itself: that it is gone is not a deletion."""
        end = self.expires.get(store)
        return end is not None and end <= now


class Baseline:
    """The common records of one pair of stores, whichever is named first, spread over up to 256 memory entries.

    `save` is a compare-and-set: of two agents that synchronise the same pair at once one is refused.
    """

    def __init__(self, task: Task, kind: str, names: Iterable[str]) -> None:
        """Reads what was kept: `common` has all common records by key, and stays as it was read."""
        self._task = task
        self._about = {"kind": kind, "stores": sorted(names)}
        self._prefix = hashlib.sha256(json.dumps(self._about).encode("utf-8", "surrogatepass")).hexdigest()[:16] + "/"
        self._versions: dict[str, int] = {}
        self._buckets: dict[str, dict[str, Any]] = {}
        self._changed: set[str] = set()
        for entry in entries(task, NAMESPACE, self._prefix):
            bucket = entry["key"].removeprefix(self._prefix)
            self._versions[bucket] = entry["version"]
            self._buckets[bucket] = entry["value"]["records"]
        self.common = {key: Common(*common) for bucket in self._buckets.values() for key, common in bucket.items()}

    def put(self, key: str, common: Common | None) -> None:
        """Remember a common record, or forget it; kept by the next `save`."""
        name = _bucket(key)
        bucket = self._buckets.setdefault(name, {})
        value = None if common is None else [common.digest, common.expires]
        if bucket.get(key) != value:
            self._changed.add(name)
            bucket.pop(key, None)
            if value is not None:
                bucket[key] = value

    def save(self) -> None:
        """Keep the changes.

        Raises:
            CallError: somebody else has synchronised the pair in the meantime, or the deck refused.
        """
        for name in sorted(self._changed):
            version = self._versions.get(name, 0)
            value = {**self._about, "records": self._buckets[name]}
            try:
                stored = self._task.call(
                    "memory_usage", action="store", namespace=NAMESPACE, key=self._prefix + name, value=value,
                    ifVersion=version, ttl=FOR_EVER,
                )  # fmt: skip
            except CallError as exc:
                raise CallError(f"the state of this synchronisation was not kept; run it again: {exc}") from exc
            self._versions[name] = stored["version"]
        self._changed.clear()


def _bucket(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:2]
