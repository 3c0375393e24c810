"""Memory as capabilities use it: a namespace read whole, and entries changed by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..worker.task import CallError, Task

ATTEMPTS = 20  # at writing an entry that others keep changing
PAGE = 500  # the largest


class Written(NamedTuple):
    before: Any  # None: there was no entry
    value: dict[str, Any]
    version: int


def update(
    task: Task, namespace: str, key: str, change: Callable[[Any, int], dict[str, Any]], *, ttl: float | None = None
) -> Written:
    """Compare-and-set until it succeeds: nobody's update is lost.

    `change` gets the value and version that are there, None and 0 where there is no entry, and returns what to write;
    the very value that it was given is not written again. Lives `ttl` seconds (0: for ever, None: the deck's default).

    Raises:
        CallError: the deck refused, or others kept changing the entry.
    """
    for _ in range(ATTEMPTS):
        before, seen = retrieve(task, namespace, key)
        value = change(before, seen)
        if value is before:
            return Written(before, value, seen)
        try:
            stored = task.call(
                "memory_usage", action="store", namespace=namespace, key=key, value=value, ifVersion=seen, ttl=ttl
            )
        except CallError:
            if retrieve(task, namespace, key)[1] == seen:
                raise  # refused for another reason than a newer version
        else:
            return Written(before, value, stored["version"])
    raise CallError(f"{key} changed {ATTEMPTS} times while it was being updated; try again")


def retrieve(task: Task, namespace: str, key: str) -> tuple[Any, int]:
    """The value and version of an entry; None and 0 where there is none."""
    entry = task.call("memory_usage", action="retrieve", namespace=namespace, key=key)
    return (entry["value"], entry["version"]) if entry["found"] else (None, 0)


def entries(task: Task, namespace: str, prefix: str | None = None) -> Iterator[dict[str, Any]]:
    """The entries of a namespace by key, as the action list shows them, with the deck's time as `timestamp`."""
    cursor = None
    while True:
        page = task.call("memory_usage", action="list", namespace=namespace, prefix=prefix, limit=PAGE, cursor=cursor)
        for entry in page["entries"]:
            yield {**entry, "timestamp": page["timestamp"]}
        cursor = page["nextCursor"]
        if cursor is None:
            return


def deck_time(task: Task) -> str:
    """The deck's time, ISO 8601 in UTC: a worker's own clock decides nothing."""
    now: str = task.call("memory_usage", action="namespaces", limit=1)["timestamp"]
    return now
