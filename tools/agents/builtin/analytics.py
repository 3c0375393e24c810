"""The analyst's reports on how agents and queries did, and what they cost; unknown is null, never 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..worker.task import Task
from .records import HOUR, Query, Records, Report, Window, by, milliseconds, read_metrics, read_records, spread

FAILURES = ("failed", "interrupted")
ENDED = ("completed", "terminated", *FAILURES)


def performance_monitoring(task: Task) -> Report:
    """How queries and agents did in the last `hours`, or ever.

    Returns `{since, until, queries: {…figures, types: {type: figures}}, agents: {type: {agents, alive, failed,
    spawnMs}}, load: {type: {samples, cpuPercent, memoryBytes}}, server}`. Figures are `{queries, statuses,
    successRate, durationMs, queueMs, perHour}`: the rate is that of the completed among those that completed or
    failed, terminated ones left out; `queueMs` is the time from the request to the start; `perHour` counts what has
    ended. `load` is what working agents used in the last hour. A spread is `{count, p50, p95, mean, max}`.
    """
    records = read_records(task)
    window, queries = records.window, records.queries
    types = {agent["agentId"]: agent["type"] for agent in records.agents}
    samples = [(types.get(agent, "unknown"), sample) for agent, found in read_metrics(task).items() for sample in found]
    return {
        **window.shown(),
        "queries": {
            **_figures(queries, window, queries),
            "types": {kind: _figures(found, window, queries) for kind, found in by_type(queries).items()},
        },
        "agents": _agents(records),
        "load": {
            kind: {
                "samples": len(found),
                "cpuPercent": spread(sample["cpu"] for _, sample in found),
                "memoryBytes": spread(sample["memory"] for _, sample in found),
            }
            for kind, found in by(samples, lambda pair: pair[0]).items()
        },
        "server": {"uptimeSeconds": records.status["uptimeSeconds"], **records.status["performance"]},
    }


def by_type(queries: Sequence[Query]) -> dict[str, list[Query]]:
    return by(queries, lambda query: query.type)


def success_rate(queries: Sequence[Query]) -> float | None:
    """Of those that completed or failed; None for none."""
    statuses = Counter(query.status for query in queries)
    judged = statuses["completed"] + sum(statuses[status] for status in FAILURES)
    return round(statuses["completed"] / judged, 3) if judged else None


def queue_ms(query: Query, now: int) -> int | None:
    """Time that it waited for its start, or waits; None for one that ended without."""
    if query.started is None and query.status != "queued":
        return None
    return (query.started or now) - query.created


def _figures(queries: Sequence[Query], window: Window, everything: Sequence[Query]) -> Report:
    start = window.since if window.since is not None else min((query.created for query in everything), default=None)
    hours = (window.now - start) / HOUR if start is not None else 0
    ended = [query for query in queries if query.status in ENDED]
    return {
        "queries": len(queries),
        "statuses": dict(sorted(Counter(query.status for query in queries).items())),
        "successRate": success_rate(queries),
        "durationMs": spread(query.duration for query in ended),
        "queueMs": spread(queue_ms(query, window.now) for query in queries),
        "perHour": round(len(ended) / hours, 2) if hours else None,
    }


def _agents(records: Records) -> Report:
    """The agents that were started within the window or are alive, by type."""
    found: Report = {}
    for kind, agents in by(records.agents, lambda agent: agent["type"]).items():
        alive = [agent for agent in agents if is_alive(agent)]
        started = [agent for agent in agents if records.window.has(milliseconds(agent["createdAt"]))]
        if alive or started:
            found[kind] = {
                "started": len(started),
                "alive": len(alive),
                "failed": sum(agent["status"] in FAILURES for agent in started),
                "spawnMs": spread(agent["spawnTime"] for agent in started),
            }
    return found


def is_alive(agent: Report) -> bool:
    return agent["status"] not in ("stopped", *FAILURES)


def cost_tracking(task: Task) -> Report:
    """What the queries of the last `hours`, or all, cost: `{since, until, …costs, types: {type: costs}, models: {model:
    costs}}`. Costs are `{queries, cpuSeconds, tokens, usd}`, each `{total, known}`: the sum over the `known` queries
    that say so, null where none does.
    """
    records = read_records(task)
    models = by(records.queries, lambda query: query.model or "none")
    return {
        **records.window.shown(),
        **_costs(records.queries),
        "types": {kind: _costs(found) for kind, found in by_type(records.queries).items()},
        "models": {model: _costs(found) for model, found in models.items()},
    }


def _costs(queries: Sequence[Query]) -> Report:
    costs: Report = {"queries": len(queries)}
    for field in ("cpuSeconds", "tokens", "usd"):
        known = [value for query in queries if isinstance(value := query.usage.get(field), int | float)]
        costs[field] = {"total": round(sum(known), 6) if known else None, "known": len(known)}
    return costs
