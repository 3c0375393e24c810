"""The analyst in a real worker, over the deck's own tools and the records of agents that the tests hold by the hand."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.runs.base import Agent, Query
from quarterdeck.storage.vectors.base import VectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.agents.builtin.advice import RULES
from quarterdeck.tools.agents.builtin.catalogue import TYPES
from quarterdeck.tools.agents.builtin.records import spread
from quarterdeck.tools.agents.rights import Rights
from quarterdeck.tools.agents.runners.base import Usage, WorkError
from quarterdeck.tools.agents.tool import AgentTools, agent_tools
from quarterdeck.tools.memory.tool import memory_tools
from quarterdeck.tools.queries.tool import QueryTools, query_tools
from quarterdeck.tools.status.meter import CallMeter
from quarterdeck.tools.status.tool import StatusTools, status_tools
from quarterdeck.tools.uploads.ingest import Ingest
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.tool import upload_tools
from quarterdeck.tools.vectors.service import VectorService
from quarterdeck.tools.vectors.tool import vector_tools
from tests.embedders import offering
from tests.ready import ready
from tests.tools.fakes import OWNER, Bridge, FakeAgent

from .driver import Driver, RefusalError
from .real_tools import NoClient

START = 1_750_000_000_000  # of the clock: 2025-06-15T15:06:40Z
HOUR = 3600


async def no_caches() -> dict[str, Any]:
    return {}


class Deck:
    """All tools that the analyst reads, over a Bridge, within its rights."""

    def __init__(self, folder: Path) -> None:
        async def open_vectors() -> VectorStore:
            return await FaissVectorStore.open(folder / "vectors.db", bridge.clock)

        self.bridge = bridge = Bridge(folder)
        self.clock, self.meter = bridge.clock, CallMeter(bridge.clock)
        self.rights = Rights("default", TYPES["analytics"].owns)
        self.vectors = OnFirstUse(open_vectors)
        agents = AgentTools(bridge.orchestrator, bridge.queries.start, bridge.runs, bridge.clock, {}, parallel=True)
        status = StatusTools(
            version="1",
            about={"backends": {}, "flags": {}, "limits": {"agentsMaxAlive": 3}},
            caches=no_caches,
            orchestrator=bridge.orchestrator,
            queries=bridge.queries,
            meter=self.meter,
            clock=bridge.clock,
        )
        uploads = UploadService(ready(LocalObjectStore(folder / "objects")), [], bridge.clock)
        vectors = VectorService(self.vectors, offering(), bridge.clock)
        families = [
            memory_tools(bridge.memory, "sqlite"),
            agent_tools(agents),
            query_tools(QueryTools(bridge.queries, bridge.desk, bridge.clock), control=True),
            upload_tools(uploads, Ingest(uploads, vectors)),
            vector_tools(vectors),
            status_tools(status),
        ]
        self._tools = {tool.name: tool for family in families for tool in family}

    async def __call__(self, tool: str, arguments: dict[str, Any]) -> Any:
        try:
            self.rights.check(tool, arguments)
        except DeckError as exc:
            raise RefusalError(exc.message) from None
        return await self.call(tool, **arguments)

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self._tools[tool].answer(arguments, NoClient())

    async def work(self, agent: Agent, fake: FakeAgent, seconds: float, error: str | None = None) -> str:
        """Let the agent work on a query for so long; returns the query's id."""
        query = await self.bridge.queries.start(agent.id, "toil")
        await fake.started.wait()
        self.clock.advance(seconds)
        if error is None:
            fake.finish()
        else:
            fake.fail(WorkError(error))
        await self.call("query_wait", queryIds=[query.id])
        return query.id

    async def close(self) -> None:
        await self.bridge.close()
        if self.vectors.opened is not None:
            await self.vectors.opened.close()


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    deck = Deck(tmp_path)
    yield deck
    await deck.close()


@pytest.fixture
async def analyst(deck: Deck) -> AsyncIterator[Driver]:
    async with Driver("analytics", deck) as worker:
        await worker.start()
        yield worker


async def report(analyst: Driver, what: str, **prompt: Any) -> Any:
    return await analyst.run({"do": what, **prompt})


async def test_of_nothing_nothing_is_said(analyst: Driver) -> None:
    performance = await report(analyst, "performance_monitoring")
    assert performance["queries"] == {
        "queries": 0,
        "statuses": {},
        "successRate": None,
        "durationMs": None,
        "queueMs": None,
        "perHour": None,
        "types": {},
    }
    assert (performance["agents"], performance["load"], performance["since"]) == ({}, {}, None)
    cost = await report(analyst, "cost_tracking")
    nothing = {"total": None, "known": 0}
    assert {name: cost[name] for name in ("queries", "cpuSeconds", "tokens", "usd")} == {
        "queries": 0,
        "cpuSeconds": nothing,
        "tokens": nothing,
        "usd": nothing,
    }
    advice = await report(analyst, "optimization_recommendations")
    assert advice["recommendations"] == []
    assert sorted(advice["unknown"]) == ["failing-type", "growing-namespace", "heavy-agent", "long-queue"]
    assert advice["rules"] == list(RULES)


async def test_performance_is_that_of_the_records(deck: Deck, analyst: Driver) -> None:
    agent, fake = await deck.bridge.spawn()
    for seconds in (1, 2, 3, 10):
        await deck.work(agent, fake, seconds)
    await deck.work(agent, fake, 4, "out of paper")
    first = await deck.bridge.queries.start(agent.id, "one")
    second = await deck.bridge.queries.start(agent.id, "two")
    await fake.started.wait()
    deck.clock.advance(20)
    deck.bridge.tracker.measured(agent, Usage(5.0, 2000), 50.0)
    deck.bridge.tracker.measured(agent, Usage(6.0, 3000), 70.0)  # in the same millisecond: the latest stays
    await deck.call("memory_usage", action="store", namespace="agent-metrics", key="stray", value=1)
    performance = await report(analyst, "performance_monitoring")
    figures = {
        "queries": 7,
        "statuses": {"completed": 4, "failed": 1, "queued": 1, "running": 1},
        "successRate": 0.8,
        "durationMs": {"count": 5, "p50": 3000, "p95": 10000, "mean": 4000.0, "max": 10000},
        "queueMs": {"count": 7, "p50": 0, "p95": 20000, "mean": 2857.1, "max": 20000},
        "perHour": 450.0,  # five in 40 seconds
    }
    assert performance["queries"] == {**figures, "types": {"worker": figures}}
    [spawned] = performance["agents"].values()
    assert (spawned["started"], spawned["alive"], spawned["failed"], spawned["spawnMs"]["count"]) == (1, 1, 0, 1)
    assert performance["load"] == {
        "worker": {
            "samples": 1,
            "cpuPercent": {"count": 1, "p50": 70.0, "p95": 70.0, "mean": 70.0, "max": 70.0},
            "memoryBytes": {"count": 1, "p50": 3000, "p95": 3000, "mean": 3000.0, "max": 3000},
        }
    }
    assert performance["server"]["agentsAlive"] == 1
    for query in (first, second):
        await fake.started.wait()
        fake.finish()
        await deck.call("query_wait", queryIds=[query.id])
    deck.clock.advance(HOUR)
    deck.clock.advance(HOUR)
    await deck.work(agent, fake, 1)
    recent = await report(analyst, "performance_monitoring", hours=1)
    assert (recent["queries"]["queries"], recent["queries"]["perHour"]) == (1, 1.0)
    assert recent["since"] == recent["until"] - HOUR * 1000
    assert (recent["agents"]["worker"]["started"], recent["agents"]["worker"]["alive"]) == (0, 1)


async def test_costs_are_summed_where_they_are_known(deck: Deck, analyst: Driver) -> None:
    agent, fake = await deck.bridge.spawn()
    await deck.work(agent, fake, 1)  # a process knows its CPU time, and nothing of tokens
    for number, (model, usage) in enumerate(
        [("small", {"tokens": 100, "usd": 0.25}), ("small", {"tokens": 50, "usd": None}), ("large", None)]
    ):
        row = Query(f"q{number}", agent.id, "worker", "toil", OWNER, START, model, status="completed", usage=usage)
        await deck.bridge.runs.add_query(row)
    cost = await report(analyst, "cost_tracking")
    assert (cost["queries"], cost["tokens"]) == (4, {"total": 150, "known": 2})
    assert cost["usd"] == {"total": 0.25, "known": 1}
    assert cost["cpuSeconds"] == {"total": 0.0, "known": 1}
    assert cost["models"]["large"]["tokens"] == {"total": None, "known": 0}
    assert list(cost["models"]) == ["large", "none", "small"]
    assert cost["types"]["worker"]["queries"] == 4


async def test_usage_is_counted_by_day_and_growth_from_the_first_sample(deck: Deck, analyst: Driver) -> None:
    agent, fake = await deck.bridge.spawn()
    await deck.work(agent, fake, 1)
    deck.meter.record("memory_usage", 0.002, failed=False)
    files = [{"name": "a.txt", "content": "abc"}, {"name": "b.md", "content": "# d"}]
    await deck.call("upload", files=files)
    await deck.call("vector_upsert", collection="sea", points=[{"id": "w", "text": "whales"}])
    await deck.call("memory_usage", action="store", namespace="notes", key="a", value="x", ttl=0)
    first = await report(analyst, "usage_analytics")
    assert first["calls"] == {"memory_usage": {"calls": 1, "errors": 0, "meanMs": 2.0, "maxMs": 2.0}}
    assert first["agents"] == {"2025-06-15": {"worker": 1}}
    assert first["outcomes"] == {"success": 1}
    assert first["queries"] == {"2025-06-15": {"worker": 1}}
    assert first["memory"]["notes"] == {"count": 1, "bytes": 3}
    assert first["vectors"] == {"sea": {"count": 1}}
    assert first["uploads"] == {"count": 2, "bytes": 6, "types": {"text/markdown": 1, "text/plain": 1}}
    assert first["growth"] is None

    deck.clock.advance(HOUR)
    await deck.call("memory_usage", action="store", namespace="notes", key="b", value="yy", ttl=0)
    await deck.call("vector_collections", action="drop", collection="sea")
    second = await report(analyst, "usage_analytics", hours=1)
    assert (second["agents"], second["queries"], second["outcomes"]) == ({}, {}, {"success": 1})
    assert second["growth"] == {
        "since": START + 1000,
        "hours": 1.0,
        "memory": {
            "analytics": {"count": 1, "bytes": second["memory"]["analytics"]["bytes"]},
            "notes": {"count": 1, "bytes": 4},
            "wiki-notifications": {"count": -1, "bytes": -first["memory"]["wiki-notifications"]["bytes"]},
        },
        "vectors": {"sea": {"count": -1}},
    }
    samples = await deck.call("memory_usage", action="list", namespace="analytics")
    assert [entry["key"] for entry in samples["entries"]] == ["kept-2025-06-15T15", "kept-2025-06-15T16"]


async def test_a_sample_needs_the_right_to_write_and_reports_do_not(deck: Deck, analyst: Driver) -> None:
    deck.rights.mode = "plan"
    assert "permission mode plan only reads" in await analyst.refuse({"do": "usage_analytics"})
    for other in ("performance_monitoring", "cost_tracking", "optimization_recommendations"):
        await report(analyst, other)


async def test_recommendations_rest_on_figures(deck: Deck, analyst: Driver) -> None:
    agent, fake = await deck.bridge.spawn()
    await report(analyst, "usage_analytics")
    for _ in range(3):
        await deck.work(agent, fake, 1)
    last = [await deck.work(agent, fake, 1, "out of paper") for _ in range(2)][-1]
    long = await deck.bridge.queries.start(agent.id, "long")
    waiting = await deck.bridge.queries.start(agent.id, "waits")
    await fake.started.wait()
    for _ in range(4):
        deck.clock.advance(15)
        deck.bridge.tracker.measured(agent, Usage(1.0, 2 << 30), 99.0)
    for number in range(1000):
        await deck.bridge.memory.store("log", str(number), number, ttl=0)
    others = [await deck.bridge.spawn(name) for name in ("w1", "w2")]
    deck.clock.advance(301)
    found = await report(analyst, "optimization_recommendations")
    advice = {(one["rule"], one["subject"]): one["evidence"] for one in found["recommendations"]}
    assert found["unknown"] == {}
    heavy = {"samples": 4, "memoryBytes": 2 << 30, "cpuPercent": 99.0}
    assert all(one["advice"] for one in found["recommendations"])
    waits = advice.pop(("long-queue", "worker"))
    assert waits["queueMs"] == {"count": 7, "p50": 0, "p95": 361_000, "mean": 51571.4, "max": 361_000}
    assert (waits["queued"], waits["agentsAlive"], waits["limitMs"]) == (1, 3, 5000)
    assert [one["rule"] for one in found["recommendations"] if one["subject"] == agent.id] == ["heavy-agent"] * 2
    assert advice == {
        ("failing-type", "worker"): {
            "completedOrFailed": 5,
            "failed": 2,
            "successRate": 0.6,
            "errors": [{"error": "out of paper", "queries": 2}],
            "latest": last,
        },
        ("heavy-agent", agent.id): {**heavy, "limitPercent": 95.0},
        ("full-deck", "agentsMaxAlive"): {"alive": 3, "limit": 3},
        **{("idle-agent", idle.id): {"idleMs": 301_000, "memoryBytes": 1000, "limitMs": 300_000} for idle, _ in others},
        ("growing-namespace", "log"): {"before": 0, "now": 1000, "bytesAdded": 2890, "hours": 0.1},
    }
    for query in (long, waiting):
        await fake.started.wait()
        fake.finish()
        await deck.call("query_wait", queryIds=[query.id])
    quiet = await report(analyst, "optimization_recommendations", hours=1)
    assert ("idle-agent", agent.id) not in [(one["rule"], one["subject"]) for one in quiet["recommendations"]]


@given(st.lists(st.one_of(st.none(), st.integers(0, 1000)), max_size=50))
def test_a_percentile_is_a_value_that_so_many_reach(values: list[int | None]) -> None:
    known = [value for value in values if value is not None]
    found = spread(values)
    if not known:
        assert found is None
        return
    assert found is not None
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        assert found[name] in known
        assert sum(value <= found[name] for value in known) >= math.ceil(share * len(known))
        assert sum(value < found[name] for value in known) < math.ceil(share * len(known))
    assert (found["count"], found["max"]) == (len(known), max(known))
