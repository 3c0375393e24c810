"""The analyst's recommendations: rules over what is recorded, each advice with the figures that it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..worker.task import Task
from .analytics import FAILURES, by_type, is_alive, queue_ms, success_rate
from .records import Records, Report, milliseconds, read_metrics, read_records, spread
from .usage import growth_since, kept_now

FEWEST = 5  # queries of a type from which its rates say something
LEAST_SUCCESS = 0.8
LONGEST_QUEUE = 5_000  # ms, at the 95th percentile
MOST_MEMORY = 1 << 30  # bytes of an agent's process tree
MOST_CPU = 95.0  # percent of one core, on average over
FEWEST_SAMPLES = 4  # measurements, which are taken every 15 s
FULL = 0.8  # of the agents that may be alive
IDLE = 300_000  # ms; the deck itself ends idle agents much later
GROWN = 0.2  # of what there was
GROWN_ENTRIES = 1_000
ERRORS_SHOWN = 3


class Facts(NamedTuple):
    records: Records
    metrics: dict[str, list[Report]]  # by agent
    idle: dict[str, int]  # since when, by agent
    kept: Report
    growth: Report | None


Advice = Iterator[tuple[str, str, Report]]
"""What it is about, what to do, and the evidence."""


def optimization_recommendations(task: Task) -> Report:
    """What the records of the last `hours`, or all, suggest.

    Returns `{since, until, rules, unknown: {rule: reason}, recommendations: [{rule, subject, advice, evidence}]}`:
    all rules by name, those that had nothing to go by, and what the others found.
    """
    records = read_records(task)
    kept = kept_now(task)
    idle = {agent["agentId"]: _last_event(task, agent) for agent in records.agents if agent["status"] == "idle"}
    facts = Facts(records, read_metrics(task), idle, kept, growth_since(task, kept, records.window.now))
    found = [
        {"rule": name, "subject": subject, "advice": advice, "evidence": evidence}
        for name, rule in RULES.items()
        for subject, advice, evidence in rule(facts)
    ]
    lacking = {
        "failing-type": None if records.queries else "no queries in this time",
        "long-queue": None if records.queries else "no queries in this time",
        "heavy-agent": None
        if facts.metrics
        else "no measurements of the last hour: agents are measured while they work",
        "growing-namespace": None if facts.growth else "no earlier sample: usage_analytics keeps one an hour",
    }
    return {
        **records.window.shown(),
        "rules": list(RULES),
        "unknown": {rule: reason for rule, reason in lacking.items() if reason},
        "recommendations": found,
    }


def _last_event(task: Task, agent: Report) -> int:
    [shown] = task.call("agents_list", agentId=agent["agentId"], includeHistory=True)["agents"]
    return milliseconds(shown["history"][-1]["at"] if shown["history"] else agent["createdAt"])


def failing_types(facts: Facts) -> Advice:
    for kind, queries in by_type(facts.records.queries).items():
        rate = success_rate(queries)
        failed = [query for query in queries if query.status in FAILURES]
        judged = len(failed) + sum(query.status == "completed" for query in queries)
        if rate is not None and judged >= FEWEST and rate < LEAST_SUCCESS:
            errors = Counter(query.error or "no reason recorded" for query in failed).most_common(ERRORS_SHOWN)
            yield (
                kind,
                f"{len(failed)} of {judged} queries failed: look at the errors before giving it more work",
                {
                    "completedOrFailed": judged,
                    "failed": len(failed),
                    "successRate": rate,
                    "errors": [{"error": error, "queries": count} for error, count in errors],
                    "latest": failed[0].id,
                },
            )


def long_queues(facts: Facts) -> Advice:
    for kind, queries in by_type(facts.records.queries).items():
        waits = spread(queue_ms(query, facts.records.window.now) for query in queries)
        if waits is not None and waits["count"] >= FEWEST and waits["p95"] > LONGEST_QUEUE:
            agents = sum(agent["type"] == kind and is_alive(agent) for agent in facts.records.agents)
            queued = sum(query.status == "queued" for query in queries)
            yield (
                kind,
                "queries of one agent run one after another: spawn more agents of this type and spread the queries",
                {"queueMs": waits, "queued": queued, "agentsAlive": agents, "limitMs": LONGEST_QUEUE},
            )


def heavy_agents(facts: Facts) -> Advice:
    for agent, samples in sorted(facts.metrics.items()):
        memory = max(sample["memory"] for sample in samples)
        cpu = sum(sample["cpu"] for sample in samples) / len(samples)
        evidence: Report = {"samples": len(samples), "memoryBytes": memory, "cpuPercent": round(cpu, 1)}
        if memory > MOST_MEMORY:
            advice = "its processes took much memory: give it less at once, or stop it when its work is done"
            yield agent, advice, {**evidence, "limitBytes": MOST_MEMORY}
        if cpu > MOST_CPU and len(samples) >= FEWEST_SAMPLES:
            advice = "its work keeps a core busy: split it over several agents if there are cores to spare"
            yield agent, advice, {**evidence, "limitPercent": MOST_CPU}


def full_deck(facts: Facts) -> Advice:
    alive = facts.records.status["performance"]["agentsAlive"]
    limit = facts.records.status["limits"]["agentsMaxAlive"]
    if alive >= FULL * limit:
        advice = "few agents more can be spawned: stop idle ones or raise QUARTERDECK_AGENTS_MAX_ALIVE"
        yield "agentsMaxAlive", advice, {"alive": alive, "limit": limit}


def idle_agents(facts: Facts) -> Advice:
    memory = {agent["agentId"]: agent["memoryBytes"] for agent in facts.records.agents}
    for agent, since in facts.idle.items():
        idle = facts.records.window.now - since
        if idle > IDLE:
            evidence = {"idleMs": idle, "memoryBytes": memory[agent], "limitMs": IDLE}
            yield agent, "it has had no work for some time: stop it with agents_stop", evidence


def growing_namespaces(facts: Facts) -> Advice:
    if facts.growth is None:
        return
    changes: Report = facts.growth["memory"]
    for name, change in changes.items():
        now = facts.kept["memory"].get(name, {"count": 0})["count"]
        before = now - change["count"]
        if change["count"] >= GROWN_ENTRIES and change["count"] > GROWN * before:
            evidence = {"before": before, "now": now, "bytesAdded": change["bytes"], "hours": facts.growth["hours"]}
            yield name, "it grows: give its entries a ttl, or delete what nobody reads", evidence


RULES: dict[str, Callable[[Facts], Advice]] = {
    "failing-type": failing_types,
    "long-queue": long_queues,
    "heavy-agent": heavy_agents,
    "full-deck": full_deck,
    "idle-agent": idle_agents,
    "growing-namespace": growing_namespaces,
}
