"""The decision tracker: decisions with what they rest on, what a change would touch, and where they contradict.

A decision lives in memory for ever, under its id, in the namespace `decisions`: `{title, subject, choice, rationale,
alternatives, status, dependsOn, tags, by, history}`. It is also a point of the vector collection of that name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from ..worker.task import CallError, PromptError, Task
from .entries import ATTEMPTS, Written, entries, retrieve, update
from .graph import components, cycle_through, cycles, paths, reverse

NAMESPACE = "decisions"  # of memory, and the vector collection
ID_CHARACTERS = 100
FOR_EVER = 0
IN_FORCE = ("proposed", "accepted")
"""The statuses in which a decision counts; the others have been given up."""

_WORD = re.compile(r"[^\W_][\w+#.]*")  # C, C++ and C# are three

Decision = dict[str, Any]
_NEW: Decision = {
    "title": "",
    "subject": None,
    "choice": None,
    "rationale": None,
    "alternatives": [],
    "status": "proposed",
    "dependsOn": [],
    "tags": [],
}


def decision_storage(task: Task) -> Decision:
    """Store a decision, or change the given fields of one: `{decision, version, isNew, changed, missing}`.

    Its id is `decision`, or made from the title. What a change replaces stays in the decision's `history`; with
    `version`, the one last seen, the change is refused if somebody else was faster. `missing` are the ids that it
    depends on and that are not stored.
    """
    prompt = task.prompt
    if "decision" not in prompt and "title" not in prompt:
        raise PromptError("decision_storage needs a title, or in decision the id of one that is stored")
    key = decision_id(prompt.get("decision", prompt.get("title", "")))
    given = {field: prompt[field] for field in _NEW if field in prompt}
    if "dependsOn" in given:
        given["dependsOn"] = _needs(key, given["dependsOn"])

    def change(before: Any, version: int) -> Decision:
        if prompt.get("version", version) != version:
            raise PromptError(f"{key} is at version {version}, not {prompt['version']}: read it, merge, and try again")
        known = as_decision(before)
        if known is None:
            if "title" not in given:
                raise PromptError(f"there is no decision {key!r}; give a title to store it as a new one")
            return {**_NEW, **given, "by": task.agent.name, "history": []}
        if "decision" not in prompt and _normal(known["title"]) != _normal(given["title"]):
            raise PromptError(f"{key!r} is the id of {known['title']!r}: name one of the two by its own id in decision")
        return _changed(task, known, version, given)

    written = _write(task, key, change)
    known = as_decision(written.before)
    return {
        "decision": key,
        "version": written.version,
        "isNew": known is None,
        "changed": sorted(field for field in given if known is not None and known[field] != given[field]),
        "missing": [other for other in written.value["dependsOn"] if not retrieve(task, NAMESPACE, other)[1]],
    }


def decision_id(text: str) -> str:
    """The id that a title, or an id, stands for: its words in lower case; a long one ends in a digest."""
    name = "-".join(word.rstrip(".") for word in _WORD.findall(text.lower()))
    if not name:
        raise PromptError(f"a decision needs a title with words in it, got {text[:40]!r}")
    if len(name) > ID_CHARACTERS:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: ID_CHARACTERS - 9].rstrip('-.')}-{digest}"
    return name


def as_decision(value: Any) -> Decision | None:
    """The value, if it is a decision: others may write to the namespace too."""
    if not isinstance(value, dict):
        return None
    found = cast("Decision", value)
    fits = all(_fits(found.get(field, ...), default) for field, default in _NEW.items())
    return found if fits and "by" in found and isinstance(found.get("history"), list) else None


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, list):
        return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))
    return isinstance(value, str) or value is default


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _needs(key: str, others: Iterable[str]) -> list[str]:
    ids = list(dict.fromkeys(map(decision_id, others)))
    if key in ids:
        raise PromptError(f"{key} cannot depend on itself")
    return ids


def _changed(task: Task, known: Decision, version: int, given: Decision) -> Decision:
    """The decision with the given fields, and what they replace in its history; the same object if nothing changes."""
    replaced = {field: known[field] for field, value in given.items() if known[field] != value}
    if not replaced:
        return known
    step = {"version": version, "changedBy": task.agent.name, "before": replaced}
    return {**known, **given, "history": [*known["history"], step]}


def _write(task: Task, key: str, change: Callable[[Any, int], Decision]) -> Written:
    """Update a decision, then its point; a slower agent cannot leave an older text in the collection."""
    written = update(task, NAMESPACE, key, change, ttl=FOR_EVER)
    value, version = written.value, written.version
    for _ in range(ATTEMPTS):
        texts = [value["title"], value["subject"], value["choice"], value["rationale"], *value["alternatives"]]
        payload = {field: value[field] for field in ("title", "subject", "status", "tags")}
        point = {"id": key, "text": "\n".join(filter(None, [*texts, *value["tags"]])), "payload": payload}
        task.call("vector_upsert", collection=NAMESPACE, points=[point])
        newest, indexed = retrieve(task, NAMESPACE, key)
        if indexed == version or as_decision(newest) is None:
            return written
        value, version = newest, indexed
    raise CallError(f"{key} is stored, but changed {ATTEMPTS} times while it was being indexed; store it again")


def load(task: Task) -> dict[str, Decision]:
    """All decisions by id."""
    found = ((entry["key"], as_decision(entry["value"])) for entry in entries(task, NAMESPACE))
    return {key: decision for key, decision in found if decision is not None}


def needs(decisions: dict[str, Decision]) -> dict[str, list[str]]:
    """The graph of what each decision depends on, missing ones included."""
    return {key: sorted(decision["dependsOn"]) for key, decision in decisions.items()}


def impact_analysis(task: Task) -> Decision:
    """What a change of one decision would touch: all that depends on it, directly or through others.

    Returns `{decision, direct, affected: [{decision, title, status, path}], cycles}`, the nearest first; `path` is a
    shortest one from the decision to the affected; `cycles` are those among them, each from its least id to itself.
    """
    start = decision_id(task.prompt["decision"])
    decisions = load(task)
    turned = reverse(needs(decisions))
    if start not in turned:
        raise PromptError(f"there is no decision {start!r}, and none depends on it; {_known(decisions)}")
    found = paths(turned, start)
    affected = [
        {"decision": key, **{field: decisions[key][field] for field in ("title", "status")}, "path": path}
        for key, path in found.items()
        if key != start
    ]
    return {
        "decision": start,
        "direct": sum(len(one["path"]) == 2 for one in affected),
        "affected": affected,
        "cycles": cycles({key: turned[key] for key in found}),
    }


def _known(decisions: Iterable[str]) -> str:
    names = sorted(decisions)
    return f"stored are {', '.join(names[:20]) or 'none'}{', …' if len(names) > 20 else ''}"


def dependency_tracking(task: Task) -> Decision:
    """Change or show what decisions depend on, by `action`.

    - add, remove: `{decision, version, dependsOn, cycle}`; `cycle` is a shortest one through the decision, or null;
    - list: `{decision, dependsOn, dependents, missing}`, the direct ones;
    - order: `{order, cycles, missing}`: every decision after those that it depends on, members of a cycle side by side.
    """
    prompt = task.prompt
    action = prompt.get("action", "list")
    if action == "order":
        decisions = load(task)
        graph = needs(decisions)
        ordered = [key for group in components(graph) for key in sorted(group) if key in decisions]
        return {"order": ordered, "cycles": cycles(graph), "missing": _missing(decisions, graph)}
    if "decision" not in prompt:
        raise PromptError(f"dependency_tracking: {action} needs decision, an id")
    key = decision_id(prompt["decision"])
    if action == "list":
        decisions = load(task)
        if key not in decisions:
            raise PromptError(f"there is no decision {key!r}; {_known(decisions)}")
        graph = needs(decisions)
        return {
            "decision": key,
            "dependsOn": graph[key],
            "dependents": sorted(reverse(graph)[key]),
            "missing": _missing(decisions, {key: graph[key]}),
        }
    return _relink(task, action, key)


def _relink(task: Task, action: str, key: str) -> Decision:
    others = _needs(key, task.prompt.get("dependsOn", ()))
    if not others:
        raise PromptError(f"dependency_tracking: {action} needs dependsOn, a list of ids")

    def change(before: Any, version: int) -> Decision:
        known = as_decision(before)
        if known is None:
            raise PromptError(f"there is no decision {key!r}; decision_storage makes it")
        kept = [other for other in known["dependsOn"] if other not in others]
        linked = kept if action == "remove" else list(dict.fromkeys([*known["dependsOn"], *others]))
        return _changed(task, known, version, {"dependsOn": linked})

    written = _write(task, key, change)
    return {
        "decision": key,
        "version": written.version,
        "dependsOn": written.value["dependsOn"],
        "cycle": cycle_through(needs(load(task)), key),
    }


def _missing(decisions: dict[str, Decision], graph: dict[str, list[str]]) -> list[str]:
    return sorted({other for others in graph.values() for other in others} - decisions.keys())


def consistency_validation(task: Task) -> Decision:
    """Find what contradicts: `{decisions, consistent, findings: [{rule, decisions, message, evidence}]}`."""
    decisions = load(task)
    graph = needs(decisions)
    findings = [*_disputes(decisions), *_broken_dependencies(decisions, graph)]
    findings += [
        _finding("cycle", sorted(set(cycle)), f"they depend on each other: {' → '.join(cycle)}", {"cycle": cycle})
        for cycle in cycles(graph)
    ]
    return {"decisions": len(decisions), "consistent": not findings, "findings": findings}


def _finding(rule: str, keys: Sequence[str], message: str, evidence: Decision) -> Decision:
    return {"rule": rule, "decisions": list(keys), "message": message, "evidence": evidence}


def _disputes(decisions: dict[str, Decision]) -> list[Decision]:
    """Decisions on one subject, told apart by case and spacing only, that cannot both hold."""
    subjects: dict[str, list[str]] = {}
    for key, decision in decisions.items():
        if decision["subject"] and decision["choice"]:
            subjects.setdefault(_normal(decision["subject"]), []).append(key)
    found: list[Decision] = []
    for subject, keys in subjects.items():
        accepted = [key for key in keys if decisions[key]["status"] == "accepted"]
        choices = {key: decisions[key]["choice"] for key in accepted}
        if len(set(map(_normal, choices.values()))) > 1:
            message = f"different choices on {subject!r} are accepted"
            found.append(_finding("conflicting-choice", accepted, message, {"subject": subject, "choices": choices}))
        for choice in sorted(set(map(_normal, choices.values()))):
            same = {key: decisions[key]["status"] for key in keys if _normal(decisions[key]["choice"]) == choice}
            if "rejected" in same.values():
                disputed = {key: status for key, status in same.items() if status in ("accepted", "rejected")}
                message = f"one choice on {subject!r} is both accepted and rejected"
                evidence = {"subject": subject, "choice": choice, "statuses": disputed}
                found.append(_finding("conflicting-status", list(disputed), message, evidence))
    return found


def _broken_dependencies(decisions: dict[str, Decision], graph: dict[str, list[str]]) -> list[Decision]:
    """Dependencies of decisions in force on ones that are not, or not there."""
    found: list[Decision] = []
    for key, others in graph.items():
        if decisions[key]["status"] not in IN_FORCE:
            continue
        for other in others:
            status = decisions[other]["status"] if other in decisions else None
            evidence = {"status": decisions[key]["status"], "dependsOn": other, "dependsOnStatus": status}
            if status is None:
                found.append(_finding("missing-dependency", [key], f"{other} is not stored", evidence))
            elif status not in IN_FORCE:
                found.append(_finding("dead-dependency", [key, other], f"{other} is {status}", evidence))
    return found
