"""Controls that meet: each other, a completion, an agent that ends, a server that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import ConflictError, DeckError
from quarterdeck.storage.runs.base import Query, QueryStatus
from quarterdeck.tools.agents.runners.base import Control, Outcome
from quarterdeck.tools.agents.runners.gate import Gate
from quarterdeck.tools.queries.controls import Options
from tests.tools.fakes import DEAD, OWNER, WORKER, Bridge, FakeAgent
from tests.until import until


@pytest.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bridge]:
    monkeypatch.setattr("quarterdeck.tools.queries.controls.PAUSE_PATIENCE", 0)
    bridge = Bridge(tmp_path)
    yield bridge
    await bridge.close()


async def begin(bridge: Bridge, **options: Any) -> tuple[Query, FakeAgent]:
    agent, fake = await bridge.spawn()
    query = await bridge.queries.start(agent.id, "work", query_id="q", **options)
    await fake.started.wait()
    return query, fake


async def control(bridge: Bridge, action: Control, **options: Any) -> Outcome:
    return await bridge.desk.control("q", action, actor="client", options=Options(**options))


async def ignore(_rows: Sequence[Query]) -> None:
    return None


async def finished(bridge: Bridge) -> Query:
    [row] = await bridge.queries.wait(["q"], 20, ignore)
    return row


async def test_a_pause_that_was_taken_back_does_not_undo_the_next_one(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    await control(bridge, "pause", level="hold")
    resumed, pending = await asyncio.gather(control(bridge, "resume"), control(bridge, "pause", level="hold"))
    assert (resumed.get("status"), pending.get("status")) == ("applied", "pending")
    for _ in range(20):
        await asyncio.sleep(0)
    assert query.status == "pausing"
    fake.reach_boundary()
    await until(lambda: query.status == "paused")
    await control(bridge, "resume")
    fake.finish()
    assert (await finished(bridge)).status == "completed"


async def test_a_gate_that_is_closed_again_at_once_tells_the_first_pause_that_it_failed() -> None:
    gate = Gate()
    gate.begin()
    first = asyncio.create_task(gate.pause())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gate.resume()
    second = asyncio.create_task(gate.pause())
    assert (await first).get("status") == "failed"
    assert not second.done()
    gate.end()
    assert (await second).get("status") == "applied"


async def test_a_pause_that_a_defect_ends_leaves_the_query_running(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    query, fake = await begin(bridge)

    async def pause(_level: str) -> Outcome:
        raise RuntimeError("boom")

    monkeypatch.setattr(fake, "pause", pause)
    outcome = await control(bridge, "pause")
    assert (outcome.get("status"), query.status) == ("failed", "running")
    assert "boom" in caplog.text
    fake.finish()
    assert (await finished(bridge)).status == "completed"


async def test_progress_that_no_store_can_hold_does_not_stop_a_pause_half_way(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    assert fake.work is not None
    fake.work.on_progress({"done": None, "total": None, "message": "half a \ud83d"})
    assert (await control(bridge, "pause")).get("status") == "applied"
    assert query.progress == {"done": None, "total": None, "message": "half a ?"}
    await control(bridge, "resume")
    fake.finish()
    assert (await finished(bridge)).status == "completed"


async def test_terminating_at_once_twice_is_applied_twice(bridge: Bridge) -> None:
    await begin(bridge)
    outcomes = await asyncio.gather(control(bridge, "terminate"), control(bridge, "terminate"))
    assert [outcome.get("status") for outcome in outcomes] == ["applied", "applied"]
    assert outcomes[1].get("reason") == "it was terminated before"


@pytest.mark.parametrize("level", ["freeze", "hold"])
async def test_a_pause_while_the_start_is_written_holds_the_work_back(
    bridge: Bridge, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, fake = await bridge.spawn()
    starting, go_on = asyncio.Event(), asyncio.Event()
    set_busy = bridge.orchestrator.set_busy

    async def slowly(*args: Any) -> None:
        starting.set()
        await go_on.wait()
        await set_busy(*args)

    monkeypatch.setattr(bridge.orchestrator, "set_busy", slowly)
    query = await bridge.queries.start(agent.id, "work", query_id="q")
    await starting.wait()
    assert (await control(bridge, "pause", level=level)).get("status") == "applied"
    go_on.set()
    for _ in range(50):
        await asyncio.sleep(0)
    assert (query.status, fake.started.is_set()) == ("paused", False)
    await control(bridge, "resume")
    await fake.started.wait()
    fake.finish()
    assert (await finished(bridge)).status == "completed"


async def test_a_query_whose_agent_restarts_is_queued_and_says_what_is_possible(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, kind=replace(WORKER, restarted=True))
    agent, fake = await bridge.spawn()
    bridge.runner.gate.clear()
    fake.die("killed by somebody")
    await bridge.runner.until_starting(1)
    query = await bridge.queries.start(agent.id, "work", query_id="q")
    with pytest.raises(ConflictError, match="q is queued; possible now: terminate"):
        await control(bridge, "pause")
    bridge.runner.gate.set()
    await until(lambda: query.status == "running")
    await bridge.close()


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("action", ["pause", "terminate", "execute_command"])
async def test_a_control_and_a_completion_have_one_true_outcome(bridge: Bridge, action: Control, turns: int) -> None:
    _, fake = await begin(bridge)
    options = {"command": "status"} if action == "execute_command" else {}
    controlling = asyncio.create_task(control(bridge, action, **options))
    for _ in range(turns):
        await asyncio.sleep(0)
    if fake.at_work:
        fake.finish("whole")
    try:
        status = (await controlling).get("status")
    except ConflictError as exc:
        assert "q is completed" in exc.message  # noqa: PT017 - either may win
        status = None
    if action == "pause" and status == "applied":
        assert bridge.live.rows()[0].status == "paused"
        await control(bridge, "resume")
    row = await finished(bridge)
    assert row.status == ("terminated" if action == "terminate" and status == "applied" else "completed")
    assert row.result == ("whole" if row.status == "completed" else None)


async def test_why_a_query_was_held_is_not_why_it_ended(bridge: Bridge) -> None:
    query, fake = await begin(bridge, budget={"tokens": 10})
    assert fake.work is not None
    fake.work.on_usage({"tokens": 20})
    await bridge.live.tick()
    await until(lambda: query.status == "paused")
    fake.die("killed by somebody")
    row = await finished(bridge)
    assert (row.status, row.error) == ("failed", "its agent has ended: killed by somebody")


async def test_agents_stop_ends_a_query_whose_pause_waits(bridge: Bridge) -> None:
    query, _ = await begin(bridge)
    assert (await control(bridge, "pause", level="hold")).get("status") == "pending"
    assert await bridge.orchestrator.stop([query.agent_id], grace=0) == {query.agent_id: "stopped"}
    assert (await finished(bridge)).status == "terminated"


async def test_a_query_whose_pause_waits_is_listed_counted_and_waited_for(bridge: Bridge) -> None:
    _, fake = await begin(bridge)
    await control(bridge, "pause", level="hold")
    pausing: Sequence[QueryStatus] = ("pausing",)
    [row], _ = await bridge.queries.list(statuses=pausing, before=None, limit=10)
    assert (row.id, await bridge.queries.count()) == ("q", {"pausing": 1})
    rows = await bridge.queries.wait(["q"], 0.01, ignore)
    assert (rows[0].status, bridge.queries.pending(rows)) == ("pausing", ["q"])
    await control(bridge, "resume")
    fake.finish()
    assert (await finished(bridge)).status == "completed"


async def leave_behind(bridge: Bridge, **more: Any) -> None:
    """A query of a server that is gone, whose agent kept a session."""
    agent, fake = await bridge.spawn("gone")
    fake.die("its server was killed")
    await until(lambda: bridge.orchestrator.agents.get(agent.id) is None)
    agent.owner, agent.status, agent.session = DEAD, "interrupted", "session-1"
    await bridge.runs.put_agent(agent)
    row = Query("q", agent.id, "worker", "work", DEAD, bridge.clock.now(), status="interrupted", **more)
    await bridge.runs.add_query(row)


async def test_what_was_used_is_on_disk_before_the_next_request(bridge: Bridge) -> None:
    _, fake = await begin(bridge)
    assert fake.work is not None
    fake.work.on_usage({"tokens": 20})
    await fake.work.before_request()
    row = await bridge.runs.get_query("q")
    assert row is not None
    assert row.usage == {"tokens": 20}
    fake.finish()


async def test_what_was_used_before_a_restart_counts_once(bridge: Bridge) -> None:
    clock = bridge.clock
    start = clock.now()
    times = {"started_at": start, "paused_at": start + 2_000, "ended_at": start + 5_000}
    await leave_behind(bridge, usage={"tokens": 120}, budget={"tokens": 100}, **times)
    clock.advance(60)
    with pytest.raises(DeckError, match="tokens 120 of 100"):
        await control(bridge, "resume")
    await control(bridge, "resume", budget={"tokens": 200})
    fake = bridge.runner.agents["gone"]
    await fake.started.wait()
    assert fake.work is not None
    assert (fake.work.resumed, fake.work.used) == (True, {"tokens": 120})
    fake.work.on_usage({"tokens": fake.work.used["tokens"] + 30})  # type: ignore[operator]
    clock.advance(1)
    fake.finish()
    row = await finished(bridge)
    assert row.usage is not None
    assert (row.status, row.usage["tokens"], row.owner) == ("completed", 150, OWNER)
    assert row.active_ms(clock.now()) == 3_000  # neither the pause nor the time without a server
    [audit] = await bridge.queries.audit("q")
    assert audit.outcome["changed"] == {"budget": [{"tokens": 100}, {"tokens": 200}]}
    agent = await bridge.orchestrator.agents.row(row.agent_id)
    assert agent.spent["tokens"] == 150
