"""Queries over agents without processes: states, controls, and what happens when they meet."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from quarterdeck.storage.errors import ConflictError, DeniedError, NotFoundError
from quarterdeck.storage.runs.base import Agent, Query
from quarterdeck.tools.agents.runners.base import Control, Outcome, WorkCancelledError, WorkError
from tests.tools.fakes import DEAD, WORKER, Bridge, FakeAgent
from tests.until import until


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncGenerator[Bridge]:
    bridge = Bridge(tmp_path)
    yield bridge
    await bridge.close()


async def run_one(bridge: Bridge) -> tuple[Query, FakeAgent]:
    agent, fake = await bridge.spawn()
    query = await bridge.queries.start(agent.id, "work", query_id="q")
    await fake.started.wait()
    return query, fake


@contextmanager
def write_lock(path: Path) -> Generator[None]:
    """Hold SQLite's write lock as another process would: nothing is written meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("COMMIT")


async def ignore(_rows: Sequence[Query]) -> None:
    return None


async def finished(bridge: Bridge, *query_ids: str) -> list[Query]:
    return list(await bridge.queries.wait(query_ids, 20, ignore))


async def test_a_query_runs_and_its_result_is_kept_and_tracked(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    assert query.status == "running"
    assert fake.work is not None
    fake.work.on_progress({"done": 1, "total": 2, "message": "half"})
    bridge.clock.advance(1.5)
    fake.finish({"answer": 42})
    [row] = await finished(bridge, "q")
    assert (row.status, row.result, row.active_ms(bridge.clock.now())) == ("completed", {"answer": 42}, 1500)
    assert await bridge.runs.get_query("q") == row
    record = await bridge.memory.retrieve("agent-activities", f"agent-{query.agent_id}-complete")
    assert record is not None
    assert {key: record.value[key] for key in ("status", "outcome", "error", "duration", "agentType")} == {
        "status": "success",
        "outcome": "completed",
        "error": None,
        "duration": 1500,
        "agentType": "worker",
    }
    [note] = (await bridge.memory.list("wiki-notifications")).entries
    assert note.value["type"] == "agent-completion"


async def test_queries_of_one_agent_run_one_after_another(bridge: Bridge) -> None:
    first, fake = await run_one(bridge)
    second = await bridge.queries.start(first.agent_id, "more", query_id="second")
    assert second.status == "queued"
    fake.finish(1)
    await finished(bridge, "q")
    await fake.started.wait()
    assert second.status == "running"
    fake.finish(2)
    assert [row.result for row in await finished(bridge, "q", "second")] == [1, 2]


async def test_a_failed_query_leaves_the_agent_ready_for_the_next(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    fake.fail(WorkError("no such capability"))
    [row] = await finished(bridge, "q")
    assert (row.status, row.error) == ("failed", "no such capability")
    await bridge.queries.start(query.agent_id, "again", query_id="again")
    await fake.started.wait()
    fake.finish("fine")
    assert (await finished(bridge, "again"))[0].result == "fine"


async def test_the_death_of_an_agent_fails_its_queries(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.queries.start(query.agent_id, "queued", query_id="queued")
    fake.die("killed by somebody")
    rows = await finished(bridge, "q", "queued")
    assert [row.status for row in rows] == ["failed", "failed"]
    assert rows[0].usage == dict.fromkeys(("cpuSeconds", "memoryBytes", "tokens", "usd", "outputBytes"))
    assert "killed by somebody" in str(rows[0].error)
    assert rows[1].started_at is None


async def test_stopping_an_agent_terminates_its_queries(bridge: Bridge) -> None:
    query, _ = await run_one(bridge)
    await bridge.orchestrator.stop([query.agent_id], grace=0)
    [row] = await finished(bridge, "q")
    assert row.status == "terminated"


async def test_pause_and_resume_take_effect_are_repeatable_and_leave_out_paused_time(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    bridge.clock.advance(2)
    outcome = await bridge.desk.control("q", "pause", actor="client")
    assert (outcome.get("status"), outcome.get("level"), outcome.get("lossless")) == ("applied", "freeze", True)
    assert (query.status, fake.paused) == ("paused", True)
    assert (await bridge.desk.control("q", "pause", actor="client")).get("reason") == "it was paused before"
    bridge.clock.advance(100)
    assert query.active_ms(bridge.clock.now()) == 2000
    assert (await bridge.desk.control("q", "resume", actor="client")).get("status") == "applied"
    assert (query.status, fake.paused) == ("running", False)
    assert (await bridge.desk.control("q", "resume", actor="client")).get("reason") == "it was running before"
    bridge.clock.advance(3)
    fake.finish()
    [row] = await finished(bridge, "q")
    assert row.active_ms(bridge.clock.now()) == 5000
    audit = await bridge.queries.audit("q")
    assert [(entry.action, entry.before, entry.after) for entry in audit] == [
        ("pause", "running", "paused"),
        ("pause", "paused", "paused"),
        ("resume", "paused", "running"),
        ("resume", "running", "running"),
    ]


async def test_a_result_that_was_on_its_way_waits_for_the_resume(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.desk.control("q", "pause", actor="client")
    fake.finish("early")
    for _ in range(20):
        await asyncio.sleep(0)
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client")
    [row] = await finished(bridge, "q")
    assert (row.status, row.result) == ("completed", "early")


async def test_an_error_that_was_on_its_way_waits_too_and_leaves_no_frozen_agent(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.desk.control("q", "pause", actor="client")
    fake.fail(WorkError("late"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client")
    [row] = await finished(bridge, "q")
    assert (row.status, row.error, fake.paused) == ("failed", "late", False)


async def test_a_result_in_the_moment_of_a_pause_waits_too_and_leaves_no_frozen_agent(
    bridge: Bridge, tmp_path: Path
) -> None:
    query, fake = await run_one(bridge)
    with write_lock(tmp_path / "runs.db"):
        pausing = asyncio.create_task(bridge.desk.control("q", "pause", actor="client"))
        await until(lambda: query.status == "pausing")
        fake.finish("early")  # while `pausing` is written
    assert (await pausing).get("status") == "applied"
    assert (query.status, fake.paused) == ("paused", True)
    await bridge.desk.control("q", "resume", actor="client")
    [row] = await finished(bridge, "q")
    assert (row.status, row.result, fake.paused) == ("completed", "early", False)


async def test_a_held_result_does_not_outlive_its_agent(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.desk.control("q", "pause", actor="client")
    fake.finish("early")
    await bridge.orchestrator.stop([query.agent_id], grace=0)
    [row] = await finished(bridge, "q")
    assert row.status == "terminated"


async def test_progress_of_a_paused_query_waits_for_the_resume(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.desk.control("q", "pause", actor="client")
    assert fake.work is not None
    report = {"done": 1, "total": 2, "message": "half"}
    fake.work.on_progress(report)
    assert query.progress is None
    await bridge.desk.control("q", "resume", actor="client")
    assert query.progress == report
    fake.finish()


async def test_a_pause_whose_caller_is_cancelled_goes_on(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    query, fake = await run_one(bridge)
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def pause(_level: str) -> Outcome:
        entered.set()
        await go_on.wait()
        fake.paused = True
        return {"status": "applied"}

    monkeypatch.setattr(fake, "pause", pause)
    pausing = asyncio.create_task(bridge.desk.control("q", "pause", actor="client"))
    await entered.wait()
    pausing.cancel()
    await asyncio.wait([pausing])
    go_on.set()
    await until(lambda: query.status == "paused")
    await bridge.desk.control("q", "resume", actor="client")
    fake.finish()
    assert (await finished(bridge, "q"))[0].status == "completed"


async def test_a_start_whose_caller_is_cancelled_leaves_no_row_without_its_query(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    starting = asyncio.create_task(bridge.queries.start(agent.id, "work", query_id="q"))
    for _ in range(2):  # the row is on its way to the disk
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    await fake.started.wait()
    fake.finish("done")
    assert (await finished(bridge, "q"))[0].result == "done"


async def test_a_query_ends_even_by_a_defect(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    _, fake = await run_one(bridge)
    fake.fail(RuntimeError("boom"))
    [row] = await finished(bridge, "q")
    assert (row.status, row.error) == ("failed", "an internal error ended it; the server's log has the details")
    assert "boom" in caplog.text


async def test_an_end_is_told_only_when_it_is_on_disk(bridge: Bridge, tmp_path: Path) -> None:
    _, fake = await run_one(bridge)
    with write_lock(tmp_path / "runs.db"):
        fake.finish("done")
        rows = await bridge.queries.wait(["q"], 0.05, ignore)
        assert bridge.queries.pending(rows) == ["q"]
    rows = await finished(bridge, "q")
    assert bridge.queries.pending(rows) == []
    assert await bridge.runs.get_query("q") == rows[0]


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_a_query_whose_agent_dies_under_a_control_stays_failed(
    bridge: Bridge, action: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, fake = await run_one(bridge)
    if action == "resume":
        await bridge.desk.control("q", "pause", actor="client")

    async def die(*_level: str) -> Outcome:
        fake.die("killed in this very moment")
        await until(lambda: query.ended_at)
        return {"status": "failed"}

    monkeypatch.setattr(fake, action, die)
    with pytest.raises(ConflictError, match="q is failed: its agent has ended meanwhile"):
        await bridge.desk.control("q", action, actor="client")
    row = await bridge.runs.get_query("q")
    assert row is not None
    assert (row.status, row.paused_at) == ("failed", None)


async def test_a_pause_that_was_not_seen_to_work_is_failed_and_the_query_runs_on(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    fake.can_pause = False
    outcome = await bridge.desk.control("q", "pause", actor="client")
    assert outcome.get("status") == "failed"
    assert query.status == "running"
    fake.finish()
    assert (await finished(bridge, "q"))[0].status == "completed"


@pytest.mark.parametrize("paused", [False, True])
async def test_terminate_keeps_an_agent_that_lets_go(bridge: Bridge, paused: bool) -> None:
    query, fake = await run_one(bridge)
    if paused:
        await bridge.desk.control("q", "pause", actor="client")
    outcome = await bridge.desk.control("q", "terminate", actor="client")
    assert outcome.get("status") == "applied"
    assert outcome.get("observed") == {"status": "terminated", "agent": "idle"}
    assert not fake.paused
    again = await bridge.desk.control("q", "terminate", actor="client")
    assert again.get("reason") == "it was terminated before"
    record = await bridge.memory.retrieve("agent-activities", f"agent-{query.agent_id}-complete")
    assert record is not None
    assert record.value["status"] == "failure"


async def test_terminate_ends_an_agent_that_does_not_let_go(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quarterdeck.tools.queries.controls.TERMINATE_GRACE", 0.01)
    _, fake = await run_one(bridge)
    fake.obedient = False
    outcome = await bridge.desk.control("q", "terminate", actor="client")
    assert outcome.get("observed") == {"status": "terminated", "agent": "stopped"}


async def test_terminating_a_queued_query_never_starts_it(bridge: Bridge) -> None:
    first, fake = await run_one(bridge)
    await bridge.queries.start(first.agent_id, "more", query_id="second")
    outcome = await bridge.desk.control("second", "terminate", actor="client")
    assert outcome.get("status") == "applied"
    fake.finish()
    rows = await finished(bridge, "q", "second")
    assert [row.status for row in rows] == ["completed", "terminated"]
    assert rows[1].started_at is None


async def test_a_query_terminated_in_the_queue_as_its_turn_comes_ends_once(bridge: Bridge) -> None:
    first, fake = await run_one(bridge)
    await bridge.queries.start(first.agent_id, "more", query_id="second")
    terminating = asyncio.create_task(bridge.desk.control("second", "terminate", actor="client"))
    await asyncio.sleep(0)
    fake.finish()
    await terminating
    await finished(bridge, "q", "second")
    [live] = bridge.orchestrator.agents.all()
    await until(lambda: live.row.status == "idle" and not live.turn.locked())
    assert live.waiting == 0


async def test_a_control_that_the_state_does_not_allow_says_what_is_possible(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.queries.start(query.agent_id, "more", query_id="second")
    with pytest.raises(ConflictError, match="second is queued; possible now: terminate"):
        await bridge.desk.control("second", "pause", actor="client")
    fake.finish()
    await finished(bridge, "q")
    with pytest.raises(ConflictError, match="q is completed; nothing can be controlled"):
        await bridge.desk.control("q", "pause", actor="client")
    with pytest.raises(NotFoundError, match="no query 'nothing'"):
        await bridge.desk.control("nothing", "pause", actor="client")
    await fake.started.wait()
    fake.finish()


async def test_a_query_of_another_server_is_refused_with_its_owner(bridge: Bridge) -> None:
    await bridge.runs.add_query(Query("far", "a", "worker", "p", DEAD, 1, status="running"))
    with pytest.raises(ConflictError, match=r"lost its server \(pid 77\)"):
        await bridge.desk.control("far", "pause", actor="client")


async def test_a_taken_id_and_a_wider_mode_are_refused(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    with pytest.raises(ConflictError, match="'q' is taken"):
        await bridge.queries.start(query.agent_id, "again", query_id="q")
    with pytest.raises(DeniedError, match="acceptEdits is wider than the agent's default"):
        await bridge.queries.start(query.agent_id, "again", permission_mode="acceptEdits")
    fake.finish()


async def test_a_query_may_lower_the_rights_of_its_agent_for_its_time(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    await bridge.queries.start(agent.id, "look", query_id="look", permission_mode="plan")
    await fake.started.wait()
    write = {"action": "store", "namespace": "work", "key": "k", "value": 1}
    with pytest.raises(DeniedError):
        await fake.call("memory_usage", write)
    fake.finish()
    await finished(bridge, "look")
    await fake.call("memory_usage", write)


async def test_wait_ends_with_the_last_query_or_with_the_time(bridge: Bridge) -> None:
    _, fake = await run_one(bridge)
    [row] = await bridge.queries.wait(["q"], 0.01, ignore)
    assert row.status == "running"
    waiting = asyncio.create_task(finished(bridge, "q"))
    await asyncio.sleep(0)
    fake.finish()
    assert [row.status for row in await waiting] == ["completed"]
    with pytest.raises(NotFoundError):
        await bridge.queries.wait(["q", "nothing"], 1, ignore)


async def test_waiting_reads_an_ended_query_once(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    query, fake = await run_one(bridge)
    fake.finish()
    await finished(bridge, "q")
    await bridge.queries.start(query.agent_id, "more", query_id="second")
    read: list[str] = []
    look = bridge.live.row

    async def row(query_id: str) -> Query:
        read.append(query_id)
        return await look(query_id)

    async def end_at_the_third(_rows: Sequence[Query]) -> None:
        if read.count("second") == 3:
            fake.finish()

    monkeypatch.setattr(bridge.live, "row", row)
    monkeypatch.setattr("quarterdeck.tools.queries.manager.LOOK_EVERY", 0.001)
    await fake.started.wait()
    await bridge.queries.wait(["q", "second"], 20, end_at_the_third)
    assert read.count("q") == 1
    assert read.count("second") > 3


async def test_progress_reaches_the_disk_with_the_next_tick(bridge: Bridge) -> None:
    _, fake = await run_one(bridge)
    assert fake.work is not None
    fake.work.on_progress({"done": 1, "total": 4, "message": "one"})
    await bridge.live.tick()
    row = await bridge.runs.get_query("q")
    assert row is not None
    assert row.progress == {"done": 1, "total": 4, "message": "one"}
    fake.finish()
    await until(lambda: not bridge.live.rows())


def deep(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("result", ["half \ud800", {"\udfff": 1}, deep(500)], ids=["text", "key", "deep"])
async def test_a_result_that_no_store_can_hold_fails_its_query_and_nothing_else(bridge: Bridge, result: object) -> None:
    query, fake = await run_one(bridge)
    fake.finish(result)
    [row] = await finished(bridge, "q")
    assert (row.status, row.result) == ("failed", None)
    assert str(row.error).startswith("its result cannot be stored: ")
    assert await bridge.runs.get_query("q") == row
    await bridge.queries.start(query.agent_id, "again", query_id="again")
    await fake.started.wait()
    fake.finish("fine")
    assert (await finished(bridge, "again"))[0].result == "fine"


async def test_one_query_that_cannot_be_kept_does_not_hold_up_the_others(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    _, fake = await run_one(bridge)
    agent, other = await bridge.spawn("w1")
    await bridge.queries.start(agent.id, "work", query_id="other", budget={"wallSeconds": 5})
    await other.started.wait()
    assert fake.work is not None
    fake.work.on_model("\ud800")
    bridge.clock.advance(5)
    await bridge.live.tick()
    assert "query q" in caplog.text
    assert (await finished(bridge, "other"))[0].status == "terminated"
    fake.finish()
    assert (await finished(bridge, "q"))[0].status == "failed"


async def test_a_query_terminated_while_its_agent_restarts_stays_terminated(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, kind=replace(WORKER, restarted=True))
    agent, fake = await bridge.spawn()
    bridge.runner.gate.clear()
    fake.die("killed by somebody")
    await bridge.runner.until_starting(1)
    query = await bridge.queries.start(agent.id, "work", query_id="q")
    await asyncio.sleep(0)  # it waits for the restart
    await bridge.desk.control("q", "terminate", actor="client")
    ended_at = query.ended_at
    bridge.clock.advance(1)
    bridge.runner.gate.set()
    await bridge.queries.start(agent.id, "more", query_id="next")
    await until(lambda: bridge.runner.agents["w0"] is not fake)
    fresh = bridge.runner.agents["w0"]
    await fresh.started.wait()
    assert fresh.work is not None
    assert fresh.work.id == "next"
    fresh.finish()
    await finished(bridge, "next")
    assert (query.status, query.started_at, query.ended_at) == ("terminated", None, ended_at)
    [live] = bridge.orchestrator.agents.all()
    assert live.waiting == 0
    assert await bridge.runs.get_query("q") == query
    await bridge.close()


async def test_work_that_the_worker_gave_up_by_itself_says_so(bridge: Bridge) -> None:
    _, fake = await run_one(bridge)
    fake.fail(WorkCancelledError("q"))
    [row] = await finished(bridge, "q")
    assert (row.status, row.error) == ("failed", "the worker cancelled it")


@pytest.mark.parametrize("paused_at", [None, 200])
async def test_what_goes_on_after_its_server_died_has_not_worked_meanwhile(
    bridge: Bridge, paused_at: int | None
) -> None:
    now = bridge.clock.now()
    began = now - 1000
    ghost = Agent("ghost", "worker", "g", "process", DEAD, 1, status="busy", process=DEAD, session="s")
    await bridge.runs.put_agent(ghost)
    row = Query("q", "ghost", "worker", "p", DEAD, 1, status="running", started_at=began)
    row.usage = {"tokens": 7, "usd": None}
    if paused_at is not None:
        row.status, row.paused_at = "paused", began + paused_at
    await bridge.runs.add_query(row)
    await bridge.recovery.recover()
    bridge.clock.advance(3600)
    await bridge.desk.control("q", "resume", actor="client")
    await until(lambda: "g" in bridge.runner.agents)
    fake = bridge.runner.agents["g"]
    await fake.started.wait()
    assert fake.work is not None
    assert fake.work.used == {"tokens": 7, "usd": None}
    bridge.clock.advance(5)
    fake.finish()
    [done] = await bridge.queries.wait(["q"], 20, ignore)
    assert done.status == "completed"
    assert done.active_ms(bridge.clock.now()) == (1000 if paused_at is None else paused_at) + 5000
