"""The decision tracker in real workers, against the real memory and vector tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.tools.agents.builtin.decisions import ID_CHARACTERS, decision_id
from quarterdeck.tools.agents.builtin.graph import components, cycle_through, cycles, paths, reverse
from quarterdeck.tools.agents.worker.task import PromptError

from .driver import Driver
from .real_tools import RealTools, real_tools


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[RealTools]:
    async with real_tools(tmp_path) as tools:
        yield tools


@pytest.fixture
async def tracker(tools: RealTools) -> AsyncIterator[Driver]:
    async with Driver("decision_tracker", tools) as worker:
        await worker.start("Ada")
        yield worker


async def store(tracker: Driver, title: str, *needs: str, **fields: Any) -> dict[str, Any]:
    depends = {"dependsOn": list(needs)} if needs else {}
    return await tracker.run({"do": "decision_storage", "title": title, **depends, **fields})


async def test_a_decision_is_kept_for_ever_with_all_that_it_was(tools: RealTools, tracker: Driver) -> None:
    first = await store(tracker, "Keep memory in SQLite", subject="Memory store", choice="SQLite", tags=["storage"])
    assert first == {"decision": "keep-memory-in-sqlite", "version": 1, "isNew": True, "changed": [], "missing": []}
    change = {"do": "decision_storage", "decision": first["decision"], "version": 1, "status": "accepted"}
    second = await tracker.run({**change, "rationale": "no server to run", "alternatives": ["PostgreSQL"]})
    assert (second["version"], second["changed"]) == (2, ["alternatives", "rationale", "status"])
    stored = await tools.memory("retrieve", "decisions", "keep-memory-in-sqlite")
    assert stored["expiresAt"] is None
    assert stored["value"] == {
        "title": "Keep memory in SQLite",
        "subject": "Memory store",
        "choice": "SQLite",
        "rationale": "no server to run",
        "alternatives": ["PostgreSQL"],
        "status": "accepted",
        "dependsOn": [],
        "tags": ["storage"],
        "by": "Ada",
        "history": [
            {
                "version": 1,
                "changedBy": "Ada",
                "before": {"alternatives": [], "rationale": None, "status": "proposed"},
            }
        ],
    }
    again = await tracker.run({"do": "decision_storage", "title": "keep  memory in sqlite", "status": "accepted"})
    assert (again["version"], again["changed"]) == (3, ["title"])
    assert (await tracker.run({**change, "version": 3}))["version"] == 3  # nothing changed, nothing written
    assert "at version 3, not 1: read it, merge" in await tracker.refuse({**change, "status": "rejected"})


async def test_a_decision_is_found_by_words_and_by_likeness(tools: RealTools, tracker: Driver) -> None:
    await store(tracker, "Keep memory in SQLite", rationale="no server to run")
    await store(tracker, "Pause by freezing the process tree")
    await tracker.run({"do": "decision_storage", "decision": "keep-memory-in-sqlite", "choice": "write-ahead log"})
    search = {"collection": "decisions", "query": "write ahead logs", "limit": 1}
    [[hit]] = (await tools("vector_search", search))["results"]
    assert hit["id"] == "keep-memory-in-sqlite"
    assert (hit["payload"]["title"], hit["payload"]["status"]) == ("Keep memory in SQLite", "proposed")
    found = await tools("memory_usage", {"action": "search", "namespace": "decisions", "query": "freezing"})
    assert [entry["key"] for entry in found["results"]] == ["pause-by-freezing-the-process-tree"]


async def test_two_agents_at_once_lose_nothing(tools: RealTools, tracker: Driver) -> None:
    await store(tracker, "Hub")

    async def add(worker: Driver, names: list[str]) -> None:
        for name in names:
            await worker.run({"do": "dependency_tracking", "action": "add", "decision": "hub", "dependsOn": [name]})

    ours, theirs = ([f"{side}{number}" for number in range(15)] for side in ("ours", "theirs"))
    async with Driver("decision_tracker", tools) as other:
        await other.start("Bob")
        await asyncio.gather(add(tracker, ours), add(other, theirs))
    hub = await tools.memory("retrieve", "decisions", "hub")
    assert sorted(hub["value"]["dependsOn"]) == sorted([*ours, *theirs])
    assert hub["version"] == 31
    assert [step["version"] for step in hub["value"]["history"]] == list(range(1, 31))


async def test_a_change_is_made_on_the_newest_version(tools: RealTools, tracker: Driver) -> None:
    await store(tracker, "Contended")
    rivals = iter(("first", "second"))

    async def interfere(tool: str, arguments: dict[str, Any]) -> None:
        if arguments.get("action") == "store" and (choice := next(rivals, None)):
            value = (await tools.memory("retrieve", "decisions", "contended"))["value"]
            await tools.memory("store", "decisions", "contended", value={**value, "choice": choice})
        elif tool == "vector_upsert" and (await tools.memory("retrieve", "decisions", "contended"))["version"] == 4:
            value = (await tools.memory("retrieve", "decisions", "contended"))["value"]
            await tools.memory("store", "decisions", "contended", value={**value, "rationale": "came last"})

    tools.before = interfere
    changed = await tracker.run({"do": "decision_storage", "title": "Contended", "status": "accepted"})
    assert (changed["version"], changed["changed"]) == (4, ["status"])
    tools.before = None
    value = (await tools.memory("retrieve", "decisions", "contended"))["value"]
    assert (value["choice"], value["status"], value["rationale"]) == ("second", "accepted", "came last")
    [[hit]] = (await tools("vector_search", {"collection": "decisions", "query": "came last"}))["results"]
    assert hit["score"] > 0.5  # the point is that of the newest text


async def test_ids_tell_decisions_apart(tracker: Driver) -> None:
    assert [decision_id(title) for title in ("Use C.", "Use C++", "Use C#", "Zürich: ja?")] == [
        "use-c",
        "use-c++",
        "use-c#",
        "zürich-ja",
    ]
    long = decision_id("word " * 40 + "a")
    assert long != decision_id("word " * 40 + "b")
    assert decision_id(long) != decision_id("word")
    await store(tracker, "Use C")
    assert "'use-c' is the id of 'Use C'" in await tracker.refuse({"do": "decision_storage", "title": "Use: C"})
    for prompt, reason in {
        "...": "needs a title with words",
        '{"do": "decision_storage", "status": "accepted"}': "needs a title",
        '{"do": "decision_storage", "decision": "nowhere", "status": "accepted"}': "no decision 'nowhere'",
        '{"do": "decision_storage", "title": "A", "dependsOn": ["a"]}': "a cannot depend on itself",
        '{"do": "decision_storage", "title": "A", "status": "done"}': "one of proposed | accepted | rejected",
        '{"do": "impact_analysis", "decision": "b"}': "no decision 'b', and none depends on it; stored are use-c",
        '{"do": "dependency_tracking", "action": "add", "decision": "use-c"}': "add needs dependsOn",
        '{"do": "dependency_tracking", "action": "add", "decision": "b", "dependsOn": ["c"]}': "no decision 'b'",
        '{"do": "dependency_tracking", "action": "list", "decision": "b"}': "no decision 'b'",
        '{"do": "dependency_tracking", "action": "remove"}': "remove needs decision",
    }.items():
        assert reason in await tracker.refuse(prompt)


async def test_a_long_id_names_its_decision(tracker: Driver) -> None:
    stored = await store(tracker, "word " * 40)
    changed = await tracker.run({"do": "decision_storage", "decision": stored["decision"], "status": "accepted"})
    assert (changed["decision"], changed["version"]) == (stored["decision"], 2)


async def test_impact_goes_through_all_that_depends_on_it(tools: RealTools, tracker: Driver) -> None:
    await store(tracker, "Base")
    await store(tracker, "Left", "base", status="accepted")
    await store(tracker, "Right", "base")
    await store(tracker, "Top", "left", "right")
    await store(tracker, "Elsewhere")
    await tools.memory("store", "decisions", "stray", value={"title": "no decision", "dependsOn": ["base"]})
    impact = await tracker.run({"do": "impact_analysis", "decision": "Base"})
    assert impact == {
        "decision": "base",
        "direct": 2,
        "affected": [
            {"decision": "left", "title": "Left", "status": "accepted", "path": ["base", "left"]},
            {"decision": "right", "title": "Right", "status": "proposed", "path": ["base", "right"]},
            {"decision": "top", "title": "Top", "status": "proposed", "path": ["base", "left", "top"]},
        ],
        "cycles": [],
    }
    of_missing = await store(tracker, "Orphan", "never-stored")
    assert of_missing["missing"] == ["never-stored"]
    assert (await tracker.run({"do": "impact_analysis", "decision": "never-stored"}))["direct"] == 1


async def test_cycles_are_reported_and_not_followed(tracker: Driver) -> None:
    await store(tracker, "A", "b")
    await store(tracker, "B", "c")
    await store(tracker, "D", "a")
    link = {"do": "dependency_tracking", "decision": "c", "dependsOn": ["a"]}
    await store(tracker, "C")
    assert (await tracker.run({**link, "action": "add"}))["cycle"] == ["c", "a", "b", "c"]
    impact = await tracker.run({"do": "impact_analysis", "decision": "a"})
    assert [one["decision"] for one in impact["affected"]] == ["c", "d", "b"]
    assert impact["cycles"] == [["a", "c", "b", "a"]]
    order = await tracker.run({"do": "dependency_tracking", "action": "order"})
    assert order == {"order": ["a", "b", "c", "d"], "cycles": [["a", "b", "c", "a"]], "missing": []}
    [finding] = (await tracker.run({"do": "consistency_validation"}))["findings"]
    assert (finding["rule"], finding["evidence"]) == ("cycle", {"cycle": ["a", "b", "c", "a"]})
    assert (await tracker.run({**link, "action": "remove"}))["cycle"] is None
    listed = await tracker.run({"do": "dependency_tracking", "decision": "b"})
    assert listed == {"decision": "b", "dependsOn": ["c"], "dependents": ["a"], "missing": []}
    assert (await tracker.run({"do": "dependency_tracking", "action": "order"}))["order"] == ["c", "b", "a", "d"]


async def test_contradictions_are_found_with_their_evidence(tracker: Driver) -> None:
    assert await tracker.run({"do": "consistency_validation"}) == {"decisions": 0, "consistent": True, "findings": []}
    on = {"subject": "Memory  store"}
    await store(tracker, "One", **on, choice="SQLite", status="accepted")
    await store(tracker, "Two", subject="memory store", choice="Redis", status="accepted")
    await store(tracker, "Three", **on, choice="sqlite", status="rejected")
    await store(tracker, "Old", status="superseded")
    await store(tracker, "New", "old", "gone", status="accepted")
    await store(tracker, "Given up", "old", status="rejected")  # what has been given up may rest on anything
    found = await tracker.run({"do": "consistency_validation"})
    assert (found["decisions"], found["consistent"]) == (6, False)
    assert [(finding["rule"], finding["decisions"]) for finding in found["findings"]] == [
        ("conflicting-choice", ["one", "two"]),
        ("conflicting-status", ["one", "three"]),
        ("missing-dependency", ["new"]),
        ("dead-dependency", ["new", "old"]),
    ]
    evidence = [finding["evidence"] for finding in found["findings"]]
    assert evidence[0] == {"subject": "memory store", "choices": {"one": "SQLite", "two": "Redis"}}
    assert evidence[1]["statuses"] == {"one": "accepted", "three": "rejected"}
    assert evidence[3] == {"status": "accepted", "dependsOn": "old", "dependsOnStatus": "superseded"}


GRAPHS = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), unique=True), max_size=6)


@given(GRAPHS)
def test_order_and_cycles_agree_with_the_standard_library(graph: dict[str, list[str]]) -> None:
    try:
        list(TopologicalSorter(graph).static_order())
        acyclic = True
    except CycleError:
        acyclic = False
    assert (cycles(graph) == []) == acyclic
    for cycle in cycles(graph):
        assert cycle[0] == cycle[-1] == min(cycle)
        assert all(after in graph[before] for before, after in pairwise(cycle))
    groups = components(graph)
    nodes = {*graph, *(target for targets in graph.values() for target in targets)}
    assert sorted(node for group in groups for node in group) == sorted(nodes)
    place = {node: number for number, group in enumerate(groups) for node in group}
    reached = {node: paths(graph, node) for node in nodes}
    for node, targets in graph.items():
        assert all(place[target] <= place[node] for target in targets)
    for node in nodes:
        for other in nodes:
            together = other in reached[node] and node in reached[other]
            assert together == (place[node] == place[other])
            assert (other in reached[node]) == (node in paths(reverse(graph), other))
        own = cycle_through(graph, node)
        assert (own is not None) == any(node in reached.get(target, ()) for target in graph.get(node, ()))


@given(st.text())
def test_an_id_is_its_own_id(title: str) -> None:
    try:
        key = decision_id(title)
    except PromptError:
        return
    assert decision_id(key) == key
    assert len(key) <= ID_CHARACTERS


def test_a_long_chain_needs_no_stack() -> None:
    chain = {f"{number:05}": [f"{number + 1:05}"] for number in range(3000)}
    assert [group[0] for group in components(chain)] == [f"{number:05}" for number in range(3000, -1, -1)]
