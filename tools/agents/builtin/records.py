"""What the deck has recorded of its agents and queries, as the analyst reads it. Times are milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from ..worker.task import Task
from .entries import PAGE, entries

HOUR = 3_600_000
T = TypeVar("T")
Report = dict[str, Any]


class Query(NamedTuple):
    """A row of query_list with the type of its agent; unknown is None."""

    id: str
    agent: str
    type: str
    status: str
    model: str | None
    created: int
    started: int | None
    duration: int | None  # pauses left out
    usage: Report
    error: str | None


class Window(NamedTuple):
    """The time that a report is about: from `since`, None the beginning of all records, to now."""

    since: int | None
    now: int

    def shown(self) -> Report:
        return {"since": self.since, "until": self.now}

    def has(self, moment: int) -> bool:
        return self.since is None or moment >= self.since


class Records(NamedTuple):
    window: Window
    queries: list[Query]  # that were asked for within the window, newest first
    agents: list[Report]  # all there ever were, as agents_list shows them, newest first
    status: Report  # of the server


def read_records(task: Task) -> Records:
    """Read what is recorded of the last `hours` of the prompt, or of all time."""
    status = task.call("server_status")
    now = milliseconds(status["time"])
    hours = task.prompt.get("hours")
    window = Window(None if hours is None else now - hours * HOUR, now)
    agents = list(rows(task, "agents_list", "agents", includeHistory=True))
    types = {agent["agentId"]: agent["type"] for agent in agents}
    return Records(window, list(_queries(task, window, types)), agents, status)


def _queries(task: Task, window: Window, types: dict[str, str]) -> Iterator[Query]:
    for row in rows(task, "query_list", "queries", includeHistory=True):  # newest first
        if not window.has(row["createdAt"]):
            return
        yield Query(
            row["queryId"],
            row["agentId"],
            types.get(row["agentId"], "unknown"),
            row["status"],
            row["model"],
            row["createdAt"],
            row["startTime"],
            row["duration"],
            row["usage"] or {},
            row["error"],
        )


def read_metrics(task: Task) -> dict[str, list[Report]]:
    """The measurements of working agents that are kept, for an hour, by agent: `{cpu, memory, …}`, oldest first."""
    return by(tracked(task, "agent-metrics", "cpu", "memory"), lambda record: record["agentId"])


def tracked(task: Task, namespace: str, *fields: str) -> Iterator[Report]:
    """The tracker's records of a namespace; whatever else a client has put there is passed over."""
    for entry in entries(task, namespace):
        if isinstance(entry["value"], dict) and entry["value"].keys() >= {"agentId", "timestamp", *fields}:
            yield entry["value"]


def rows(task: Task, tool: str, field: str, **arguments: Any) -> Iterator[Report]:
    """The rows of all pages of a listing."""
    cursor = None
    while True:
        page = task.call(tool, limit=PAGE, cursor=cursor, **arguments)
        yield from page[field]
        cursor = page.get("nextCursor")
        if cursor is None:
            return


def milliseconds(moment: str) -> int:
    """Of a time in ISO 8601, since the epoch."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def by(items: Iterable[T], key_of: Callable[[T], str]) -> dict[str, list[T]]:
    """The items in groups, by the key's order."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(key_of(item), []).append(item)
    return dict(sorted(found.items()))


def spread(values: Iterable[float | None]) -> Report | None:
    """`{count, p50, p95, mean, max}` of the known values, percentiles by nearest rank; None for none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    p50, p95 = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.95))
    return {"count": len(known), "p50": p50, "p95": p95, "mean": round(sum(known) / len(known), 1), "max": known[-1]}
