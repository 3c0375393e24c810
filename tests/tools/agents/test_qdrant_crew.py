"""The query specialist and the memory coordinator in real workers, against the real memory and vector tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.tools.agents.builtin.entries import ATTEMPTS
from quarterdeck.tools.agents.builtin.findings import merge
from quarterdeck.tools.agents.builtin.retrieval import fuse

from .driver import Driver
from .real_tools import RealTools, real_tools


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[RealTools]:
    async with real_tools(tmp_path) as tools:
        yield tools


@pytest.fixture
async def coordinator(tools: RealTools) -> AsyncIterator[Driver]:
    async with Driver("memory_coordinator", tools) as worker:
        await worker.start("Ada")
        yield worker


@pytest.fixture
async def specialist(tools: RealTools) -> AsyncIterator[Driver]:
    """Over an index of two documents that a researcher has made."""
    tools.uploads.uploads = {
        "sea.md": "# Sea\n\n" + "\n\n".join(f"Chapter {n}: {word} " + "of the ocean " * 70 for n, word in
                                            enumerate(("whales", "dolphins", "corals", "tides"))),
        "land.md": "# Land\n\nMountains and whales of stone.",
    }  # fmt: skip
    async with Driver("researcher", tools) as researcher:
        await researcher.start()
        indexed = await researcher.run({"do": "index_document", "uploads": ["sea.md", "land.md"]})
        assert [document["chunks"] for document in indexed["documents"]] == [4, 1]
    async with Driver("query_specialist", tools) as worker:
        await worker.start()
        yield worker


async def test_semantic_search_groups_the_hits_by_document(specialist: Driver) -> None:
    found = await specialist.run("mountains of stone")
    assert found["hits"][0]["id"] == "land.md#0"
    assert found["documents"][0] == {
        "document": "land.md",
        "title": "Land",
        "score": found["hits"][0]["score"],
        "hits": 1,
    }
    assert {document["document"]: document["hits"] for document in found["documents"]} == {"land.md": 1, "sea.md": 4}
    only = await specialist.run(
        {"do": "semantic_search", "query": "whales", "filter": {"document": "sea.md"}, "limit": 2}
    )
    assert [hit["payload"]["document"] for hit in only["hits"]] == ["sea.md", "sea.md"]
    refusal = await specialist.refuse({"do": "semantic_search", "query": "x", "collection": "nowhere"})
    assert "nowhere" in refusal


async def test_multi_collection_query_fuses_all_collections(specialist: Driver, tools: RealTools) -> None:
    points = [{"id": "log", "text": "whales sighted at dawn"}]
    await tools("vector_upsert", {"collection": "journal", "points": points})
    found = await specialist.run({"do": "multi_collection_query", "query": "whales", "limit": 3})
    assert found["collections"] == {"documents": 3, "journal": 1}
    assert [(hit["source"], hit["fusedScore"]) for hit in found["hits"]] == [
        ("documents", 0.016393),
        ("journal", 0.016393),
        ("documents", 0.016129),
    ]
    one = await specialist.run({"do": "multi_collection_query", "query": "whales", "collections": ["journal"]})
    assert one["collections"] == {"journal": 1}


async def test_context_expansion_adds_the_neighbours(specialist: Driver) -> None:
    found = await specialist.run({"do": "context_expansion", "query": "dolphins chapter", "limit": 1})
    (hit,) = found["hits"]
    assert hit["id"] == "sea.md#1"
    assert hit["chunks"] == ["sea.md#0", "sea.md#1", "sea.md#2"]
    assert [word for word in ("whales", "dolphins", "corals", "tides") if word in hit["context"]] == [
        "whales",
        "dolphins",
        "corals",
    ]


async def test_wave_filtering_widens_until_there_is_enough(specialist: Driver) -> None:
    asked = {"do": "wave_filtering", "query": "whales", "filter": {"document": "sea.md", "chunk": 0}}
    found = await specialist.run({**asked, "enough": 3})
    assert found["waves"] == [
        {"filter": {"document": "sea.md", "chunk": 0}, "hits": 1},
        {"filter": {"document": "sea.md"}, "hits": 3},
    ]
    assert [hit["wave"] for hit in found["hits"]] == [0, 1, 1]
    assert found["hits"][0]["id"] == "sea.md#0"
    everything = await specialist.run({**asked, "enough": 9})
    assert everything["waves"][-1] == {"filter": {}, "hits": 5}
    assert [hit["wave"] for hit in everything["hits"]] == [0, 1, 1, 1, 2]


async def test_findings_are_stored_once_and_confirmed_by_others(tools: RealTools, coordinator: Driver) -> None:
    first = await coordinator.run("Retries hide the real fault.")
    assert first == {"key": first["key"], "version": 1, "foundBy": ["Ada"], "isNew": True}
    assert first["key"].startswith("general/")
    async with Driver("memory_coordinator", tools) as other:
        await other.start("Bob")
        again = {"do": "finding_storage", "finding": "retries  hide the real FAULT.", "evidence": "run 7"}
        second = await other.run(again)
        assert second == {"key": first["key"], "version": 2, "foundBy": ["Ada", "Bob"], "isNew": False}
        assert (await other.run(again))["foundBy"] == ["Ada", "Bob"]
    stored = await tools.memory("retrieve", "findings", first["key"])
    assert stored["value"] == {
        "finding": "Retries hide the real fault.",
        "topic": "general",
        "foundBy": ["Ada", "Bob"],
        "evidence": ["run 7"],
    }
    assert await coordinator.refuse("42 ...") == "finding_storage needs a finding with words in it"


def add_rival(tools: RealTools, times: int) -> None:
    """Let somebody else get ahead of the next stores."""

    async def interfere(tool: str, arguments: dict[str, Any]) -> None:
        nonlocal times
        if tool == "memory_usage" and arguments["action"] == "store" and times:
            times -= 1
            current = await tools.memory("retrieve", arguments["namespace"], arguments["key"])
            rival: dict[str, Any] = {"finding": "x", "topic": "general", "foundBy": ["Rival"], "evidence": []}
            value = {"times": 0, **(current["value"] or rival)}
            value["times"] += 1
            await tools.memory("store", arguments["namespace"], arguments["key"], value=value)

    tools.before = interfere


async def test_no_confirmation_is_lost_when_writers_collide(tools: RealTools, coordinator: Driver) -> None:
    add_rival(tools, 3)
    stored = await coordinator.run("Contended finding.")
    assert stored["foundBy"] == ["Rival", "Ada"]
    value = (await tools.memory("retrieve", "findings", stored["key"]))["value"]
    assert (value["times"], stored["version"]) == (3, 4)
    add_rival(tools, ATTEMPTS)
    assert f"changed {ATTEMPTS} times" in await coordinator.refuse("Another contended finding.")
    add_rival(tools, 0)
    assert "namespace" in await coordinator.refuse(
        {"do": "conflict_resolution", "namespace": "", "key": "k", "base": {}, "value": {}}
    )


async def test_experience_is_found_by_words_and_by_likeness(coordinator: Driver) -> None:
    asked = {"do": "experience_retrieval", "query": "database locking"}
    assert (await coordinator.run(asked))["findings"] == []  # before anybody has found anything
    store = {"do": "finding_storage"}
    locks = await coordinator.run({**store, "finding": "Database locking stalls the writers", "topic": "storage"})
    near = await coordinator.run({**store, "finding": "The databases were locked over night", "topic": "storage"})
    await coordinator.run({**store, "finding": "Whales sing at dawn", "topic": "sea"})
    found = (await coordinator.run(asked))["findings"]
    assert [finding["key"] for finding in found[:2]] == [locks["key"], near["key"]]
    assert found[0]["finding"] == "Database locking stalls the writers"
    assert found[0]["score"] > found[1]["score"]  # both searches have it
    of_the_sea = await coordinator.run({**asked, "topic": "sea"})
    assert [finding["topic"] for finding in of_the_sea["findings"]] == ["sea"]
    assert len((await coordinator.run({**asked, "limit": 1}))["findings"]) == 1


async def test_conflicts_are_merged_by_field(tools: RealTools, coordinator: Driver) -> None:
    base = {"same": 1, "mine": 1, "theirs": 1, "both": 1, "gone": 1}
    theirs = {"same": 1, "mine": 1, "theirs": 2, "both": 2, "new": 5}
    await tools.memory("store", "findings", "plan", value=base)
    await tools.memory("store", "findings", "plan", value=theirs)
    asked = {"do": "conflict_resolution", "key": "plan", "base": base}
    ours = {"same": 1, "mine": 3, "theirs": 1, "both": 3, "gone": 1}
    merged = await coordinator.run({**asked, "value": ours})
    assert merged == {
        "key": "plan",
        "version": 3,
        "value": {"same": 1, "mine": 3, "theirs": 2, "both": 2, "new": 5},
        "conflicts": [{"field": "both", "ours": 3, "theirs": 2}],
    }
    assert (await tools.memory("retrieve", "findings", "plan"))["value"] == merged["value"]
    await tools.memory("store", "findings", "plan", value=theirs)
    assert (await coordinator.run({**asked, "value": ours, "prefer": "ours"}))["value"]["both"] == 3
    assert "prefer must be ours or theirs" in await coordinator.refuse({**asked, "value": ours, "prefer": "mine"})
    await tools.memory("store", "findings", "plan", value=[1])
    assert "plan holds something else" in await coordinator.refuse({**asked, "value": ours})


async def test_cross_agent_learning_counts_and_confirms(tools: RealTools, coordinator: Driver) -> None:
    await tools.memory("store", "findings", "stray", value="no finding")
    for number in range(3):
        await coordinator.run({"do": "finding_storage", "finding": f"Fact number {'abc'[number]}", "topic": "facts"})
    async with Driver("memory_coordinator", tools) as other:
        await other.start("Bob")
        confirmed = await other.run({"do": "finding_storage", "finding": "fact number B", "topic": "facts"})
        await other.run("A general one")
    known = await coordinator.run({"do": "cross_agent_learning"})
    assert (known["findings"], list(known["topics"])) == (4, ["facts", "general"])
    assert known["topics"]["facts"] == {
        "findings": 3,
        "agents": {"Ada": 3, "Bob": 1},
        "confirmed": [{"key": confirmed["key"], "finding": "Fact number b", "foundBy": ["Ada", "Bob"]}],
    }
    assert list((await coordinator.run({"do": "cross_agent_learning", "topic": "general"}))["topics"]) == ["general"]


def test_fusion_is_by_rank_alone() -> None:
    hits = fuse({"a": [{"id": "1", "score": 0.9}, {"id": "2", "score": 0.8}], "b": [{"id": "3", "score": 70}]}, 2)
    assert [(hit["id"], hit["source"]) for hit in hits] == [("1", "a"), ("3", "b")]


OBJECTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), max_size=4)


@given(OBJECTS, OBJECTS, OBJECTS, st.booleans())
def test_a_merge_keeps_every_change_of_one_side(
    base: dict[str, int], ours: dict[str, int], theirs: dict[str, int], prefer_ours: bool
) -> None:
    merged, conflicts = merge(base, ours, theirs, prefer_ours)
    disputed = {conflict["field"] for conflict in conflicts}
    for field in {*base, *ours, *theirs}:
        before, mine, other = base.get(field), ours.get(field), theirs.get(field)
        if field in disputed:
            assert mine != other
            assert before not in (mine, other)
            assert merged.get(field) == (mine if prefer_ours else other)
        else:
            assert merged.get(field) == (mine if mine != before else other)
    assert merge(base, base, theirs, prefer_ours) == (theirs, [])
    assert merge(base, ours, base, prefer_ours) == (ours, [])
