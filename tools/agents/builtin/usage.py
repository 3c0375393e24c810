"""The analyst's report on what is used and how much is kept, with hourly samples so that growth can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from ..worker.task import Task
from .analytics import by_type
from .entries import entries, update
from .records import HOUR, Report, by, milliseconds, read_records, rows, tracked

NAMESPACE = "analytics"
PREFIX = "kept-"
SAMPLE_LIFETIME = 7 * 24 * 3600  # seconds


def usage_analytics(task: Task) -> Report:
    """What was used in the last `hours`, or ever, and what is kept now.

    Returns `{since, until, calls: {tool: {calls, errors, meanMs, maxMs}}, agents: {day: {type: spawned}}, outcomes:
    {status: agents}, queries: {day: {type: asked}}, memory: {namespace: {count, bytes}}, vectors: {collection:
    {count}}, uploads: {count, bytes, types: {type: count}}, growth}`. `calls` are those of this server's clients since
    its start, `agents` and `outcomes` what agent-activities has of seven days; `growth` as `growth_since`. Days are in
    UTC. The first report of an hour keeps a sample of memory and vectors for later ones to compare with.
    """
    records = read_records(task)
    kept = kept_now(task)
    growth = growth_since(task, kept, records.window.now)
    at = records.status["time"]
    sample = {"at": at, **kept}
    update(task, NAMESPACE, f"{PREFIX}{at[:13]}", lambda before, _: before or sample, ttl=SAMPLE_LIFETIME)
    activities = tracked(task, "agent-activities", "agentType", "status")
    recent = [one for one in activities if records.window.has(milliseconds(one["timestamp"]))]
    spawned = by((one for one in recent if one["status"] == "spawned"), lambda one: one["timestamp"][:10])
    queries = by(records.queries, lambda query: _day(query.created))
    uploads = list(rows(task, "uploads", "uploads", action="list"))
    return {
        **records.window.shown(),
        "calls": records.status["performance"]["calls"],
        "agents": {day: _counts(one["agentType"] for one in found) for day, found in spawned.items()},
        "outcomes": _counts(one["status"] for one in recent if one["status"] != "spawned"),
        "queries": {
            day: {kind: len(asked) for kind, asked in by_type(found).items()} for day, found in queries.items()
        },
        **kept,
        "uploads": {
            "count": len(uploads),
            "bytes": sum(upload["size"] for upload in uploads),
            "types": _counts(upload["type"] for upload in uploads),
        },
        "growth": growth,
    }


def kept_now(task: Task) -> Report:
    """How much is in memory and in the vector collections: `{memory: {namespace: {count, bytes}}, vectors:
    {collection: {count}}}`."""
    namespaces = rows(task, "memory_usage", "namespaces", action="namespaces")
    collections = rows(task, "vector_collections", "collections", action="list")
    return {
        "memory": {row["namespace"]: {"count": row["count"], "bytes": row["bytes"]} for row in namespaces},
        "vectors": {row["collection"]: {"count": row["count"]} for row in collections},
    }


def growth_since(task: Task, kept: Report, now: int) -> Report | None:
    """What is kept now less the oldest sample: `{since, hours, memory, vectors}` like `kept_now`, but for what is as it
    was; null without a sample."""
    for entry in entries(task, NAMESPACE, PREFIX):  # the oldest first
        sample = entry["value"]
        since = milliseconds(sample["at"])
        changes = {kind: _difference(sample[kind], kept[kind]) for kind in ("memory", "vectors")}
        return {"since": since, "hours": round((now - since) / HOUR, 2), **changes}
    return None


def _difference(before: Report, after: Report) -> Report:
    found: Report = {}
    for name in sorted({*before, *after}):
        old, new = before.get(name, {}), after.get(name, {})
        change = {field: new.get(field, 0) - old.get(field, 0) for field in {**old, **new}}
        if any(change.values()):
            found[name] = change
    return found


def _counts(items: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(items).items()))


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).date().isoformat()
