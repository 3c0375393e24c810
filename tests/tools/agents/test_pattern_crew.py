"""The pattern discoverer in real workers, against the real memory and vector tools, on real texts and planted ones."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.tools.agents.builtin import patterns
from quarterdeck.tools.agents.worker.task import Agent, Task
from tests.docstrings import docstrings

from .driver import Driver, Message
from .real_tools import RealTools, real_tools

CAPABILITIES = ("pattern_extraction", "clustering_analysis", "template_generation", "anti_pattern_detection")


def log_lines() -> list[Message]:
    """60 requests, 50 logins and 40 errors, as a log has them, and one line that is like none of them."""
    rng = random.Random(1)
    lines = [("request", f"GET /users/{rng.randrange(999)} took {rng.randrange(99)} ms on host-{rng.choice('abc')}")
             for _ in range(60)]  # fmt: skip
    lines += [("login", f"User {rng.choice(['ann', 'bob'])} logged in from 10.0.0.{rng.randrange(255)}")
              for _ in range(50)]  # fmt: skip
    lines += [("error", f"ERROR disk sd{rng.choice('ab')} is full: {rng.randrange(99)} bytes left, retrying")
              for _ in range(40)]  # fmt: skip
    lines.append(("odd", "Quasars zigzag beyond a sphinx of black quartz"))
    rng.shuffle(lines)
    return [
        {"id": f"{kind}-{number}", "text": text, "payload": {"kind": kind, "level": 1, "deep": {"n": [number]}}}
        for number, (kind, text) in enumerate(lines)
    ]


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[RealTools]:
    async with real_tools(tmp_path) as tools:
        yield tools


@pytest.fixture
async def discoverer(tools: RealTools) -> AsyncIterator[Driver]:
    """Over a collection of log lines and one of docstrings."""
    await tools("vector_upsert", {"collection": "log", "points": log_lines()})
    texts = [
        {"id": name, "text": text, "payload": {"module": name.split(".")[0]}} for name, text in docstrings().items()
    ]
    await tools("vector_upsert", {"collection": "documents", "points": texts})
    async with Driver("pattern_discovery", tools) as worker:
        await worker.start()
        yield worker


async def test_clusters_have_honest_figures_and_are_kept(discoverer: Driver, tools: RealTools) -> None:
    found = await discoverer.run({"do": "clustering_analysis", "collection": "log"})
    assert (found["points"], found["analysed"], found["distance"]) == (151, 151, "1 - cosine")
    assert (found["k"], found["kChosenBy"]) == (3, "greatest mean silhouette of those tried")
    assert max(found["tried"], key=lambda attempt: attempt["silhouette"]) == {"k": 3, "silhouette": found["silhouette"]}
    assert sum(cluster["size"] for cluster in found["clusters"]) == 151
    assert sum(cluster["share"] for cluster in found["clusters"]) == pytest.approx(1, abs=1e-3)
    kinds = [{name.split("-")[0] for name in cluster["members"]} - {"odd"} for cluster in found["clusters"]]
    assert kinds == [{"request"}, {"login"}, {"error"}]
    for cluster in found["clusters"]:
        assert len(cluster["members"]) == cluster["size"]
        assert [exemplar["id"] for exemplar in cluster["exemplars"]] == cluster["members"][:3]
        distances = [exemplar["distance"] for exemplar in cluster["exemplars"]]
        assert distances == sorted(distances)
        assert distances[0] <= cluster["meanDistance"] <= cluster["maxDistance"]
    stored = await tools.memory("retrieve", "patterns", "clusters:log")
    assert found.pop("stored") == {"namespace": "patterns", "keys": ["clusters:log"]}
    assert stored["value"] == found


async def test_k_can_be_given(discoverer: Driver) -> None:
    found = await discoverer.run({"do": "clustering_analysis", "collection": "log", "k": 5})
    assert (found["k"], found["kChosenBy"], found["tried"]) == (5, "the prompt", [])
    assert found["silhouette"] > 0
    assert [len(cluster["members"]) for cluster in found["clusters"]] == [c["size"] for c in found["clusters"]]
    many = await discoverer.run({"do": "clustering_analysis", "collection": "documents", "k": 100})
    assert max(len(cluster["members"]) for cluster in many["clusters"]) <= 5
    assert "k: 151 points make 1 to 100 clusters, got 101" in await discoverer.refuse(
        {"do": "clustering_analysis", "collection": "log", "k": 101}
    )


async def test_patterns_are_the_words_and_values_that_a_cluster_shares(discoverer: Driver) -> None:
    found = await discoverer.run("log")  # plain text names a collection
    requests, logins, errors = found["patterns"]
    assert {term["term"]: term["count"] for term in requests["terms"]}["took"] == 60
    assert [(term["term"], term["count"]) for term in logins["terms"][:2]] == [("logged", 50), ("user", 50)]
    assert {term["term"] for term in errors["terms"]} >= {"disk", "full", "bytes", "retrying"}
    assert errors["fields"] == [
        {"field": "kind", "value": "error", "share": 1.0, "shareOfAll": 0.265},
        {"field": "level", "value": 1, "share": 1.0, "shareOfAll": 1.0},
    ]
    assert found["stored"]["keys"] == ["patterns:log"]


async def test_templates_are_what_the_texts_were_made_of(discoverer: Driver) -> None:
    found = await discoverer.run({"do": "template_generation", "collection": "log"})
    assert [template["template"] for template in found["templates"]] == [
        "GET /users/{1} took {2} ms on host-{3}",
        "User {1} logged in from 10.0.0.{2}",
        "ERROR disk {1} is full: {2} bytes left, retrying",
    ]
    for template in found["templates"]:
        assert template["matches"] == template["texts"] <= 50
    assert found["stored"]["keys"] == ["templates:log"]


async def test_the_odd_one_out_is_found(discoverer: Driver) -> None:
    found = await discoverer.run({"do": "anti_pattern_detection", "collection": "log"})
    assert found["outliers"][0]["id"].startswith("odd-")
    assert found["outliers"][0]["text"].startswith("Quasars zigzag")
    assert found["outliers"][0]["centroidScore"] > found["threshold"] == 3.5
    assert found["found"] == len(found["outliers"])
    assert (found["k"], found["neighbours"]) == (3, 10)
    one = await discoverer.run(
        {"do": "anti_pattern_detection", "collection": "log", "k": 6, "neighbours": 3, "limit": 1}
    )
    assert (len(one["outliers"]), one["neighbours"]) == (1, 3)
    assert one["found"] >= 1


async def test_real_texts_are_worked_through_by_every_capability(discoverer: Driver, tools: RealTools) -> None:
    texts = docstrings()
    for capability in CAPABILITIES:
        found = await discoverer.run({"do": capability})  # of `documents`, unless told
        assert (found["collection"], found["points"]) == ("documents", len(texts))
        assert (await tools.memory("retrieve", "patterns", found["stored"]["keys"][0]))["found"]
    assert (
        len({key for tool, arguments in discoverer.calls if tool == "memory_usage" for key in [arguments["key"]]}) == 4
    )
    extracted = await discoverer.run({"do": "pattern_extraction", "k": 8})
    for pattern in extracted["patterns"]:
        for term in pattern["terms"]:
            having = sum(term["term"] in text.lower() for text in texts.values())
            assert 2 <= term["count"] <= min(pattern["size"], having)


async def test_what_cannot_be_done_is_told(discoverer: Driver, tools: RealTools) -> None:
    assert "no collection 'nowhere'" in await discoverer.refuse({"do": "clustering_analysis", "collection": "nowhere"})
    await tools("vector_upsert", {"collection": "few", "points": log_lines()[:3]})
    refusal = await discoverer.refuse({"do": "anti_pattern_detection", "collection": "few"})
    assert refusal == "3 points are too few for clusters: 4 are needed"
    numbers = [{"id": str(n), "vector": [n, 1.0, n % 3]} for n in range(20)]
    await tools("vector_upsert", {"collection": "numbers", "points": numbers})
    refusal = await discoverer.refuse({"do": "template_generation", "collection": "numbers"})
    assert refusal == "template_generation needs points with payload.text; those of numbers have none"
    assert (await discoverer.run({"do": "pattern_extraction", "collection": "numbers"}))["points"] == 20


def reader(total: int, reads: list[str]) -> Task:
    """A task over a collection of so many points, three a page."""

    def call(_: str, arguments: dict[str, Any]) -> Message:
        first = int(arguments["after"] or -1) + 1
        reads.append(arguments["after"])
        names = range(first, min(first + 3, total))
        points: list[Message] = [{"id": str(n), "vector": "", "payload": {}} for n in names]
        return {"points": points, "metric": "l2", "count": total, "isLast": first + 3 >= total}

    return Task("t", {"collection": "c"}, Agent("a", "n", "folder"), lambda _: None, call, lambda: None)


def test_of_too_many_points_a_random_choice_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MOST_POINTS", 10)
    reads: list[str] = []
    sample = patterns.read_points(reader(8, reads))
    assert ([point.id for point in sample.points], sample.total) == ([str(n) for n in range(8)], 8)
    assert reads == ["", "2", "5"]
    kept = [0] * 40
    for seed in range(400):
        monkeypatch.setattr(patterns, "SEED", seed)
        sample = patterns.read_points(reader(40, []))
        assert (len({point.id for point in sample.points}), sample.total) == (10, 40)
        for point in sample.points:
            kept[int(point.id)] += 1
    assert 60 < min(kept) <= max(kept) < 140  # 100 expected, standard deviation 8.7: the seeds are fixed
    assert sample.about() == {"collection": "c", "points": 40, "analysed": 10, "distance": "euclidean"}
