"""The memory coordinator: what agents have found out, stored once, found again, and merged where two disagree."""

from __future__ import annotations

import hashlib
from typing import Any, cast

from ..worker.task import PromptError, Task
from .entries import entries, retrieve, update
from .retrieval import collections, fuse, search
from .words import words

NAMESPACE = "findings"  # of memory, and the vector collection
TOPIC = "general"
LIMIT = 10

Value = dict[str, Any]


def finding_storage(task: Task) -> Value:
    """Store a finding under `topic/digest`, searchable by its words. The same finding again, in whatever case and
    spacing, adds who found it and the evidence to the entry: `{key, version, foundBy, isNew}`."""
    prompt = task.prompt
    finding, topic = prompt["finding"].strip(), prompt.get("topic", TOPIC)
    if not words(finding):
        raise PromptError("finding_storage needs a finding with words in it")
    digest = hashlib.sha256(" ".join(finding.lower().split()).encode("utf-8", "replace")).hexdigest()[:16]
    key = f"{topic}/{digest}"

    def add(current: Any, _version: int) -> Value:
        known = _finding(current) or {"finding": finding, "topic": topic, "foundBy": [], "evidence": []}
        return {
            **known,
            "foundBy": _with(known["foundBy"], task.agent.name),
            "evidence": _with(known["evidence"], prompt.get("evidence")),
        }

    written = update(task, NAMESPACE, key, add)
    payload = {"key": key, "topic": topic, "text": finding}
    task.call("vector_upsert", collection=NAMESPACE, points=[{"id": key, "text": finding, "payload": payload}])
    found_by = written.value["foundBy"]
    return {"key": key, "version": written.version, "foundBy": found_by, "isNew": _finding(written.before) is None}


def _finding(value: Any) -> Value | None:
    """The value, if it is a finding: others may write to the namespace too."""
    return cast("Value", value) if isinstance(value, dict) and "foundBy" in value else None


def _with(known: list[str], added: str | None) -> list[str]:
    return known if added is None or added in known else [*known, added]


def experience_retrieval(task: Task) -> Value:
    """What is known about a question, by vector search and full text, merged: `{findings: [{key, finding, …}]}`."""
    prompt = task.prompt
    limit, topic = prompt.get("limit", LIMIT), prompt.get("topic")
    near: list[Value] = []
    if NAMESPACE in collections(task):  # made by the first finding
        near = search(task, NAMESPACE, prompt["query"], limit, {"topic": topic} if topic else None)
    texts = task.call("memory_usage", action="search", namespace=NAMESPACE, query=prompt["query"], limit=limit)
    by_words = [{"id": entry["key"]} for entry in texts["results"]]
    scores: dict[str, float] = {}
    for hit in fuse({"vectors": near, "memory": by_words}, limit=2 * limit):
        scores[hit["id"]] = scores.get(hit["id"], 0.0) + hit["fusedScore"]
    found: list[Value] = []
    for key in sorted(scores, key=lambda key: (-scores[key], key)):
        value, version = retrieve(task, NAMESPACE, key)
        finding = _finding(value)  # None also where the entry has expired but not its vector
        if finding is not None and topic in (None, finding["topic"]):
            found.append({"key": key, "score": round(scores[key], 6), "version": version, **finding})
    return {"query": prompt["query"], "findings": found[:limit]}


def conflict_resolution(task: Task) -> Value:
    """Write changes to an entry that others may have changed since: a three-way merge by field.

    `base` is the value that was read, `value` what it should become. Fields that only one side has changed are taken
    from that side; where both did, differently, `prefer` decides ("theirs", unless told "ours"). Returns
    `{key, version, value, conflicts: [{field, ours, theirs}]}`.
    """
    prompt = task.prompt
    prefer = prompt.get("prefer", "theirs")
    if prefer not in ("ours", "theirs"):
        raise PromptError(f"conflict_resolution: prefer must be ours or theirs, got {prefer!r}")
    base, ours = prompt["base"], prompt["value"]
    conflicts: list[Value] = []

    def resolve(theirs: Any, _version: int) -> Value:
        if theirs is not None and not isinstance(theirs, dict):
            raise PromptError(f"conflict_resolution merges objects; {prompt['key']} holds something else")
        merged, conflicts[:] = merge(base, ours, base if theirs is None else cast("Value", theirs), prefer == "ours")
        return merged

    written = update(task, prompt.get("namespace", NAMESPACE), prompt["key"], resolve)
    return {"key": prompt["key"], "version": written.version, "value": written.value, "conflicts": conflicts}


_ABSENT = object()


def merge(base: Value, ours: Value, theirs: Value, prefer_ours: bool) -> tuple[Value, list[Value]]:
    """Merge two descendants of `base` by field; returns the result and the conflicts (an absent field is null)."""
    merged: Value = {}
    conflicts: list[Value] = []
    for field in {**theirs, **ours, **base}:
        before, mine, other = (side.get(field, _ABSENT) for side in (base, ours, theirs))
        if mine == other or other == before:
            chosen = mine
        elif mine == before:
            chosen = other
        else:
            chosen = mine if prefer_ours else other
            shown = {"ours": mine, "theirs": other}
            conflicts.append({"field": field} | {k: None if v is _ABSENT else v for k, v in shown.items()})
        if chosen is not _ABSENT:
            merged[field] = chosen
    return merged, conflicts


def cross_agent_learning(task: Task) -> Value:
    """What the agents know together: per topic how many findings each agent has, and which ones several agents confirm.

    Returns `{findings, topics: {topic: {findings, agents: {name: count}, confirmed: [{key, finding, foundBy}]}}}`.
    """
    prefix = f"{task.prompt['topic']}/" if "topic" in task.prompt else None
    topics: dict[str, Value] = {}
    total = 0
    for entry in entries(task, NAMESPACE, prefix):
        if (finding := _finding(entry["value"])) is not None:
            _count(topics, entry["key"], finding)
            total += 1
    return {"findings": total, "topics": topics}


def _count(topics: dict[str, Value], key: str, value: Value) -> None:
    topic = topics.setdefault(value["topic"], {"findings": 0, "agents": {}, "confirmed": []})
    topic["findings"] += 1
    for agent in value["foundBy"]:
        topic["agents"][agent] = topic["agents"].get(agent, 0) + 1
    if len(value["foundBy"]) > 1:
        topic["confirmed"].append({"key": key, "finding": value["finding"], "foundBy": value["foundBy"]})
