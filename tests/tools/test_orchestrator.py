"""The orchestrator over a runner without processes: every order and bound is proved by events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import ConflictError, DeniedError, NotFoundError, StorageError
from quarterdeck.storage.runs.base import Agent, ProcessId, Query
from quarterdeck.tools.agents.live import SpawnRequest, SpawnResult
from tests.tools.fakes import DEAD, Bridge
from tests.until import until


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncGenerator[Bridge]:
    bridge = Bridge(tmp_path)
    yield bridge
    await bridge.close()


def requests(count: int, **options: Any) -> list[SpawnRequest]:
    return [SpawnRequest("worker", f"w{number}", **options) for number in range(count)]


async def test_no_more_start_at_once_than_allowed_and_batches_follow_each_other(bridge: Bridge) -> None:
    bridge.runner.gate.clear()
    spawning = asyncio.create_task(bridge.orchestrator.spawn(requests(7), max_concurrency=2, batch_size=3))
    await bridge.runner.until_starting(2)
    await asyncio.sleep(0)
    assert bridge.runner.starting == ["w0", "w1"]  # the batch has a third, but only two may start at once
    bridge.runner.gate.set()
    results = await spawning
    assert [result.spawned for result in results] == [True] * 7
    assert bridge.runner.most_at_once == 2


async def test_the_second_batch_waits_for_the_whole_first(bridge: Bridge) -> None:
    bridge.runner.gate.clear()
    spawning = asyncio.create_task(bridge.orchestrator.spawn(requests(5), max_concurrency=5, batch_size=3))
    await bridge.runner.until_starting(3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert bridge.runner.starting == ["w0", "w1", "w2"]
    bridge.runner.gate.set()
    assert len(await spawning) == 5


async def test_urgent_agents_start_first_and_results_keep_the_callers_order(bridge: Bridge) -> None:
    priorities = ["low", "critical", "medium", "high"]
    wanted = [SpawnRequest("worker", priority, priority=priority) for priority in priorities]
    results = await bridge.orchestrator.spawn(wanted, max_concurrency=1)
    assert bridge.runner.order == ["critical", "high", "medium", "low"]
    assert [result.request.name for result in results] == priorities


async def test_one_failure_leaves_its_batch_alone(bridge: Bridge) -> None:
    settled: list[tuple[int, int, str, bool]] = []

    async def tell(done: int, total: int, result: SpawnResult) -> None:
        settled.append((done, total, result.request.name, result.spawned))

    wanted = [*requests(2), SpawnRequest("pirate", "p")]
    results = await bridge.orchestrator.spawn(wanted, on_settled=tell)
    assert [result.spawned for result in results] == [True, True, False]
    assert results[2].error == "unknown type 'pirate' (valid: worker)"
    assert results[2].agent is None
    assert sorted(done for done, *_ in settled) == [1, 2, 3]
    assert {(name, ok) for _, _, name, ok in settled} == {("w0", True), ("w1", True), ("p", False)}


async def test_when_all_parallel_starts_fail_each_is_tried_once_more_in_turn(bridge: Bridge) -> None:
    bridge.runner.failures = 3
    results = await bridge.orchestrator.spawn(requests(3))
    assert [result.spawned for result in results] == [True, True, True]
    assert len(bridge.runner.order) == 6
    bridge.runner.failures = 6
    results = await bridge.orchestrator.spawn(requests(3))
    assert [result.error for result in results] == ["did not get ready"] * 3
    failed = await bridge.runs.list_agents(statuses=["failed"])
    assert len(failed.rows) == 9  # every attempt is on record


async def test_progress_only_grows_when_all_are_tried_again(bridge: Bridge) -> None:
    bridge.runner.failures = 2
    settled: list[tuple[int, int]] = []

    async def tell(done: int, total: int, _result: SpawnResult) -> None:
        settled.append((done, total))

    await bridge.orchestrator.spawn(requests(2), on_settled=tell)
    assert settled == [(1, 2), (2, 2), (3, 4), (4, 4)]


async def test_a_cancelled_spawn_leaves_no_agent(bridge: Bridge) -> None:
    first_is_ready = asyncio.Event()

    async def tell(_done: int, _total: int, _result: SpawnResult) -> None:
        first_is_ready.set()
        bridge.runner.gate.clear()

    spawning = asyncio.create_task(bridge.orchestrator.spawn(requests(2), batch_size=1, on_settled=tell))
    await first_is_ready.wait()
    await bridge.runner.until_starting(1)
    spawning.cancel()
    await asyncio.wait([spawning])
    assert spawning.cancelled()
    await until(lambda: not bridge.orchestrator.agents.all())
    await bridge.orchestrator.close()
    rows = (await bridge.runs.list_agents()).rows
    assert [(row.name, row.status, row.error) for row in rows] == [
        ("w1", "failed", "its spawn was given up"),
        ("w0", "stopped", None),
    ]


async def test_a_stop_whose_caller_is_cancelled_goes_on(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, fake = await bridge.spawn()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def end(_grace: float) -> None:
        entered.set()
        await go_on.wait()
        fake.die("ended")

    monkeypatch.setattr(fake, "end", end)
    stopping = asyncio.create_task(bridge.orchestrator.stop([agent.id], grace=1))
    await entered.wait()
    with pytest.raises(ConflictError, match="is stopping; start a new one"):
        await bridge.orchestrator.get(agent.id)
    stopping.cancel()
    await asyncio.wait([stopping])
    go_on.set()
    await until(lambda: has_ended(bridge, agent.id))
    assert (await bridge.orchestrator.agents.row(agent.id)).status == "stopped"


async def test_an_end_that_the_store_did_not_take_is_told_and_kept_later(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, fake = await bridge.spawn()

    async def full(*_args: object, **_options: object) -> bool:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(bridge.runs, "put_agent", full)
        fake.die("killed")
        await until(lambda: not bridge.orchestrator.agents.all())
        await bridge.orchestrator.tick()
        assert (await bridge.orchestrator.agents.row(agent.id)).status == "failed"
    await bridge.orchestrator.tick()
    kept = await bridge.runs.get_agent(agent.id)
    assert kept is not None
    assert (kept.status, kept.error) == ("failed", "killed")


async def test_the_flag_makes_it_sequential(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, parallel=False)
    results = await bridge.orchestrator.spawn(requests(4), max_concurrency=4, batch_size=4)
    assert bridge.runner.most_at_once == 1
    assert [result.spawned for result in results] == [True] * 4
    await bridge.close()


async def test_the_limit_of_live_agents_is_a_plain_result(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, max_alive=2)
    results = await bridge.orchestrator.spawn(requests(3))
    assert [result.spawned for result in results] == [True, True, False]
    assert "2 agents are alive, the limit is 2" in str(results[2].error)
    await bridge.close()


async def test_the_row_is_on_disk_before_the_process_and_tells_its_end(bridge: Bridge) -> None:
    bridge.runner.gate.clear()
    spawning = asyncio.create_task(bridge.orchestrator.spawn(requests(1)))
    await bridge.runner.until_starting(1)
    assert [row.status for row in (await bridge.runs.list_agents()).rows] == ["starting"]
    bridge.runner.gate.set()
    [result] = await spawning
    assert result.agent is not None
    statuses = await bridge.orchestrator.stop([result.agent.id], grace=1)
    assert statuses == {result.agent.id: "stopped"}
    events = [event.kind for event in await bridge.runs.list_events(result.agent.id)]
    assert events == ["spawned", "stopped"]
    assert await bridge.orchestrator.stop([result.agent.id], grace=1) == {result.agent.id: "stopped"}


async def test_an_agent_that_dies_by_itself_is_failed_with_its_reason(bridge: Bridge) -> None:
    agent, fake = await bridge.spawn()
    fake.die("the worker exited with code 3")
    await until(lambda: has_ended(bridge, agent.id))
    row = await bridge.orchestrator.agents.row(agent.id)
    assert (row.status, row.error) == ("failed", "the worker exited with code 3")
    with pytest.raises(ConflictError, match="is failed; start a new one"):
        await bridge.orchestrator.get(agent.id)


async def has_ended(bridge: Bridge, agent_id: str) -> bool:
    return (await bridge.orchestrator.agents.row(agent_id)).ended_at is not None


async def test_unknown_and_foreign_agents_are_refused_before_anything_ends(bridge: Bridge) -> None:
    agent, _ = await bridge.spawn()
    elsewhere = ProcessId("another host", "b", 99, 1)  # nothing is known of it: it may well live
    await bridge.runs.put_agent(Agent("other", "worker", "o", "process", elsewhere, 1, status="idle"))
    await bridge.runs.put_agent(Agent("lost", "worker", "o", "process", DEAD, 1, status="idle"))
    with pytest.raises(NotFoundError, match="no agent 'nobody'"):
        await bridge.orchestrator.stop([agent.id, "nobody"], grace=0)
    with pytest.raises(ConflictError, match="the server with pid 99"):
        await bridge.orchestrator.stop([agent.id, "other"], grace=0)
    assert [live.row.id for live in bridge.orchestrator.agents.all()] == [agent.id]
    with pytest.raises(ConflictError, match=r"lost its server \(pid 77\)"):
        await bridge.orchestrator.get("lost")
    assert await bridge.recovery.recover() == 1
    assert (await bridge.orchestrator.agents.row("other")).status == "idle"


async def test_an_idle_agent_stops_after_its_time(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, idle_timeout=60)
    agent, _ = await bridge.spawn()
    bridge.clock.advance(59)
    await bridge.orchestrator.tick()
    assert len(bridge.orchestrator.agents.all()) == 1
    bridge.clock.advance(1)
    await bridge.orchestrator.tick()
    assert (await bridge.orchestrator.agents.row(agent.id)).status == "stopped"
    await bridge.close()


async def test_a_working_agent_is_measured_every_fifteen_seconds(bridge: Bridge) -> None:
    agent, _ = await bridge.spawn()
    [live] = bridge.orchestrator.agents.all()
    await bridge.orchestrator.set_busy(live, "q")
    for _ in range(31):
        await bridge.orchestrator.tick()
        bridge.clock.advance(1)
    page = await bridge.memory.list("agent-metrics", prefix=f"agent-{agent.id}-metrics-")
    assert [(entry.value["cpu"], entry.value["memory"]) for entry in page.entries] == [(0.0, 1000)] * 2
    await bridge.orchestrator.set_idle(live, "q", "completed")


async def test_the_spawn_is_on_record_for_seven_days(bridge: Bridge) -> None:
    agent, _ = await bridge.spawn()
    entry = await bridge.memory.retrieve("agent-activities", f"agent-{agent.id}-spawn")
    assert entry is not None
    assert entry.value["agentType"] == "worker"
    assert entry.value["startTime"] == agent.created_at
    assert entry.expires_at == bridge.clock.now() + 7 * 86_400_000


@pytest.mark.parametrize(
    ("mode", "tool", "arguments", "refusal"),
    [
        ("plan", "memory_usage", {"action": "retrieve", "key": "k"}, None),
        ("plan", "vector_search", {"collection": "c", "query": "x"}, None),
        ("plan", "memory_usage", {"action": "store", "namespace": "work", "key": "k", "value": 1}, "only reads"),
        ("default", "memory_usage", {"action": "store", "namespace": "work", "key": "k", "value": 1}, None),
        ("default", "memory_usage", {"action": "store", "key": "k", "value": 1}, "writes only to work"),
        ("default", "vector_upsert", {"collection": "other", "points": []}, "writes only to work"),
        ("acceptEdits", "vector_upsert", {"collection": "other", "points": []}, None),
        ("acceptEdits", "memory_usage", {"action": "store", "namespace": "agent-metrics", "key": "k"}, "own records"),
        ("acceptEdits", "agents_spawn_parallel", {"crew": "documents"}, "may not call agents_spawn_parallel"),
        ("acceptEdits", "uploads", {"action": "delete", "key": "k"}, "may not call uploads"),
    ],
)
async def test_the_permission_mode_binds_every_call_into_the_deck(
    bridge: Bridge, mode: str, tool: str, arguments: dict[str, Any], refusal: str | None
) -> None:
    _, fake = await bridge.spawn(permission_mode=mode)
    call = fake.call
    if refusal is None:
        await call(tool, arguments)
        assert bridge.calls == [(tool, arguments)]
    else:
        with pytest.raises(DeniedError, match=refusal):
            await call(tool, arguments)
        assert bridge.calls == []


async def test_what_a_dead_server_left_is_marked_interrupted(bridge: Bridge) -> None:
    await bridge.runs.put_agent(Agent("ghost", "worker", "g", "process", DEAD, 1, status="busy", process=DEAD))
    await bridge.runs.put_agent(Agent("old", "worker", "g", "process", DEAD, 1, status="stopped"))
    assert await bridge.recovery.recover() == 1
    ghost = await bridge.orchestrator.agents.row("ghost")
    assert (ghost.status, ghost.ended_at) == ("interrupted", bridge.clock.now())
    assert (await bridge.orchestrator.agents.row("old")).status == "stopped"
    assert await bridge.recovery.recover() == 0


async def test_what_a_dead_server_left_in_the_queue_never_started(bridge: Bridge) -> None:
    await bridge.runs.add_query(Query("begun", "ghost", "worker", "p", DEAD, 1, status="running", started_at=2))
    await bridge.runs.add_query(Query("waiting", "ghost", "worker", "p", DEAD, 1))
    await bridge.recovery.recover()
    begun, waiting = await bridge.live.row("begun"), await bridge.live.row("waiting")
    assert (begun.status, begun.error) == ("interrupted", "its server ended while it ran")
    assert (waiting.status, waiting.error) == ("interrupted", "its server ended before it started")


async def test_two_servers_that_start_together_mark_what_a_dead_one_left_once(bridge: Bridge) -> None:
    await bridge.runs.put_agent(Agent("ghost", "worker", "g", "process", DEAD, 1, status="busy", process=DEAD))
    await bridge.runs.add_query(Query("lost", "ghost", "worker", "p", DEAD, 1, status="running"))
    agents = await bridge.runs.list_agents()
    queries = await bridge.runs.list_queries()
    assert await bridge.recovery.recover() == 1
    [first] = (await bridge.memory.list("wiki-notifications")).entries
    bridge.clock.advance(1)

    async def seen_before(rows: object) -> object:
        return rows

    bridge.runs.list_agents = lambda **_: seen_before(agents)  # type: ignore[method-assign,assignment,return-value]
    bridge.runs.list_queries = lambda **_: seen_before(queries)  # type: ignore[method-assign,assignment,return-value]
    assert await bridge.recovery.recover() == 0
    assert [event.kind for event in await bridge.runs.list_events("ghost")] == ["interrupted"]
    assert (await bridge.memory.list("wiki-notifications")).entries == [first]


async def test_each_type_has_a_folder_of_its_own(bridge: Bridge, tmp_path: Path) -> None:
    _, one = await bridge.spawn("one")
    _, two = await bridge.spawn("two")
    assert one.spec.folder == two.spec.folder == str(tmp_path / "agents" / "worker")
    assert (tmp_path / "agents" / "worker").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("cwd", ["a\0b", "x" * 5000, "..", "nowhere"])
async def test_a_folder_that_cannot_be_fails_its_own_agent_only(bridge: Bridge, cwd: str) -> None:
    wanted = [SpawnRequest("worker", "good"), SpawnRequest("worker", "bad", cwd=Path(cwd))]
    good, bad = await bridge.orchestrator.spawn(wanted)
    assert good.spawned
    assert "no folder below that of type worker" in (bad.error or "")
