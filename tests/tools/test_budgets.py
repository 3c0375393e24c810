"""Budgets of queries, agents and the deck: refused before the start, held or ended on the way, partial results kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import ConflictError, LimitError
from quarterdeck.storage.runs.base import Agent, Query
from quarterdeck.tools.agents.budget import total, used_up
from quarterdeck.tools.agents.live import SpawnRequest
from quarterdeck.tools.queries.controls import Options
from tests.until import until

from .fakes import Bridge, FakeAgent


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    bridge = Bridge(tmp_path, deck_budget={"wallSeconds": 100, "outputBytes": 1_000})
    yield bridge
    await bridge.close()


async def begin(bridge: Bridge, agent: Agent, fake: FakeAgent, budget: Mapping[str, Any]) -> Query:
    query = await bridge.queries.start(agent.id, "toil", budget=budget)
    await fake.started.wait()
    await until(lambda: query.status == "running")
    return query


async def ended(query: Query) -> Query:
    await until(lambda: query.ended_at is not None)
    return query


async def test_time_beyond_the_budget_ends_the_query_with_the_figures(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"wallSeconds": 10})
    bridge.clock.advance(9.9)
    await bridge.live.tick()
    assert query.status == "running"
    bridge.clock.advance(0.1)
    await bridge.live.tick()
    await ended(query)
    assert (query.status, query.error) == (
        "terminated",
        "terminated by the budget: wallSeconds 10 of 10",
    )
    [audit] = await bridge.queries.audit(query.id)
    assert (audit.actor, audit.action) == ("budget", "terminate")
    assert audit.outcome["evidence"] == {"usedUp": {"wallSeconds": "10 of 10"}}


async def test_paused_time_is_not_spent(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"wallSeconds": 10})
    await bridge.desk.control(query.id, "pause", actor="client")
    bridge.clock.advance(60)
    await bridge.live.tick()
    await bridge.desk.control(query.id, "resume", actor="client")
    await bridge.live.tick()
    assert query.status == "running"


async def test_work_before_a_pause_that_never_came_is_spent(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quarterdeck.tools.queries.controls.PAUSE_PATIENCE", 0)
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"wallSeconds": 10})
    bridge.clock.advance(6)
    held = await bridge.desk.control(query.id, "pause", actor="client", options=Options(level="hold"))
    assert held.get("status") == "pending"
    await bridge.desk.control(query.id, "resume", actor="client")
    bridge.clock.advance(6)
    await bridge.live.tick()
    assert (await ended(query)).error == "terminated by the budget: wallSeconds 12 of 10"


async def test_a_budget_acts_once_on_requests_at_the_same_time(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"wallSeconds": 10})
    assert fake.work is not None
    bridge.clock.advance(10)
    requests = [asyncio.ensure_future(fake.work.before_request()) for _ in range(3)]
    await ended(query)
    await until(lambda: bridge.live.get(query.id) is None)
    for request in requests:  # as the end of its work does
        assert not request.done()
        request.cancel()
    assert [audit.action for audit in await bridge.queries.audit(query.id)] == ["terminate"]


@pytest.mark.parametrize("kind", ["tokens", "usd"])
async def test_tokens_and_dollars_hold_the_query_until_a_larger_budget(bridge: Bridge, kind: str) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {kind: 5})
    assert fake.work is not None
    fake.work.on_usage({kind: 4})
    await bridge.live.tick()
    assert query.status == "running"
    fake.work.on_usage({kind: 6})
    await until(lambda: query.status == "paused")
    assert fake.paused
    assert query.error == f"paused by the budget: {kind} 6 of 5"
    with pytest.raises(LimitError, match=f"{kind} 6 of 5.: resume it with a larger budget") as refused:
        await bridge.desk.control(query.id, "resume", actor="client")
    assert refused.value.details == {"usedUp": {kind: "6 of 5"}}
    await bridge.desk.control(query.id, "resume", actor="client", options=Options(budget={kind: 20}))
    await bridge.live.tick()
    assert (query.status, query.error) == ("running", None)
    fake.finish("done")
    assert (await ended(query)).result == "done"
    assert query.usage is not None
    assert (query.usage[kind], query.usage["outputBytes"]) == (6, 6)


async def test_a_result_beyond_the_budget_fails_and_its_beginning_stays(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"outputBytes": 10})
    fake.finish("é" * 50)
    await ended(query)
    assert (query.status, query.result) == ("failed", {"partial": '"éééé'})
    assert query.error == "outputBytes: the result has 102 bytes, 10 were left; its beginning is kept"


async def test_an_agent_gets_no_work_beyond_its_budget(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn(budget={"wallSeconds": 10, "outputBytes": 100})
    for seconds in (6, 3):
        query = await begin(bridge, agent, fake, {})
        bridge.clock.advance(seconds)
        fake.finish("done")
        await ended(query)
    query = await begin(bridge, agent, fake, {"wallSeconds": 50})
    bridge.clock.advance(1)
    await bridge.live.tick()
    assert (await ended(query)).status == "terminated"
    with pytest.raises(LimitError, match=r"agent worker-\w+ has used up its budget \(wallSeconds 10 of 10\): spawn"):
        await bridge.queries.start(agent.id, "more")
    row = await bridge.runs.get_agent(agent.id)
    assert row is not None
    assert row.spent == {"wallSeconds": 10, "outputBytes": 12}


async def test_the_deck_refuses_spawns_and_queries_beyond_its_budget(bridge: Bridge) -> None:
    first, fake = await bridge.spawn("first")
    second, other = await bridge.spawn("second")
    queries = [await begin(bridge, first, fake, {}), await begin(bridge, second, other, {})]
    bridge.clock.advance(50)  # fifty seconds of both
    await bridge.live.tick()
    for query in queries:
        assert "wallSeconds 100 of 100" in str((await ended(query)).error)
    with pytest.raises(LimitError, match=r"the deck has used up its budget .wallSeconds 100 of 100.: raise"):
        await bridge.queries.start(first.id, "more")
    [result] = await bridge.orchestrator.spawn([SpawnRequest("worker", "third")])
    assert not result.spawned
    assert "the deck has used up its budget (wallSeconds 100 of 100)" in str(result.error)


def test_what_nobody_knows_is_over_no_budget() -> None:
    assert used_up({"tokens": 1, "usd": 1}, {"tokens": None}) == {}
    assert total({"tokens": None, "usd": 1}, {"usd": 2}) == {"usd": 3}


async def test_what_waited_behind_the_last_of_a_budget_is_refused_with_the_figures(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn(budget={"tokens": 10})
    query = await begin(bridge, agent, fake, {})
    waiting = await bridge.queries.start(agent.id, "more")
    assert fake.work is not None
    fake.work.on_usage({"tokens": 12})
    fake.finish()
    await ended(query)
    await ended(waiting)
    assert (waiting.status, waiting.started_at) == ("failed", None)
    assert f"agent {agent.id} has used up its budget (tokens 12 of 10)" in str(waiting.error)


async def test_the_deck_counts_what_live_queries_have_used(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    await begin(bridge, agent, fake, {})
    bridge.clock.advance(100)
    with pytest.raises(LimitError, match=r"the deck has used up its budget .wallSeconds 100 of 100."):
        await bridge.queries.start(agent.id, "more")
    [result] = await bridge.orchestrator.spawn([SpawnRequest("worker", "another")])
    assert "wallSeconds 100 of 100" in str(result.error)


async def test_nothing_is_left_of_a_budget_that_is_exceeded_already(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn(budget={"outputBytes": 10})
    query = await begin(bridge, agent, fake, {})
    agent.spent = {"outputBytes": 14}
    fake.finish("0123456789")
    await ended(query)
    assert query.result == {"partial": ""}
    assert query.error == "outputBytes: the result has 12 bytes, 0 were left; its beginning is kept"


async def test_a_refused_resume_leaves_the_budget_as_it_was(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"tokens": 5})
    assert fake.work is not None
    fake.work.on_usage({"tokens": 9})
    await bridge.desk.control(query.id, "pause", actor="client")
    with pytest.raises(LimitError, match="tokens 9 of 7"):
        await bridge.desk.control(query.id, "resume", actor="client", options=Options(budget={"tokens": 7, "usd": 1}))
    assert query.budget == {"tokens": 5}
    await bridge.desk.control(query.id, "resume", actor="client", options=Options(budget={"tokens": 20}))
    assert query.budget == {"tokens": 20}
    waiting = await bridge.queries.start(agent.id, "more")
    with pytest.raises(ConflictError, match="is queued"):
        await bridge.desk.control(waiting.id, "resume", actor="client", options=Options(budget={"tokens": 1}))
    assert waiting.budget == {}


async def test_a_new_wall_clock_is_not_work(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    query = await begin(bridge, agent, fake, {"wallSeconds": 10})
    bridge.clock.set_wall_clock(3600)
    bridge.clock.advance(9)
    await bridge.live.tick()
    assert query.status == "running"
    bridge.clock.set_wall_clock(-7200)
    bridge.clock.advance(1)
    await bridge.live.tick()
    assert (await ended(query)).error == "terminated by the budget: wallSeconds 10 of 10"
    assert agent.spent["wallSeconds"] == 10
