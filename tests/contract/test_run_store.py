"""What every RunStore does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from quarterdeck.storage.runs.base import Agent, AgentStatus, Audit, Event, ProcessId, Query, QueryStatus, RunStore
from quarterdeck.storage.runs.sqlite import SqliteRunStore

OWNER = ProcessId("host", "boot", 10, 1.5)


@pytest.fixture(params=["sqlite"])
async def store(tmp_path: Path) -> AsyncGenerator[RunStore]:
    store = SqliteRunStore(tmp_path / "runs.db")
    yield store
    await store.close()


def agent(number: int, status: AgentStatus = "idle") -> Agent:
    return Agent(f"a{number}", "researcher", "n", "process", OWNER, 1000 + number, status=status)


def query(number: int, status: QueryStatus = "running") -> Query:
    return Query(f"q{number}", "a1", "researcher", "do it", OWNER, 1000 + number, status=status)


async def test_rows_come_back_as_they_were_put(store: RunStore) -> None:
    full = agent(1)
    full.capabilities, full.process, full.spawn_ms, full.error = ["x", "ü"], ProcessId("h", "b", 7, 2.25), 12.5, "e"
    await store.put_agent(full)
    assert await store.get_agent("a1") == full
    work = query(1)
    work.metadata, work.result, work.progress = {"k": [1, None]}, {"deep": ["é", 1.5, True]}, {"done": 1}
    assert await store.add_query(work)
    assert await store.get_query("q1") == work
    assert await store.get_agent("nobody") is None
    assert await store.get_query("nothing") is None


async def test_a_put_replaces_the_row(store: RunStore) -> None:
    await store.put_agent(agent(1))
    await store.put_agent(agent(1, "stopped"))
    assert [row.status for row in (await store.list_agents()).rows] == ["stopped"]
    await store.add_query(query(1))
    await store.put_query(query(1, "completed"))
    assert [row.status for row in (await store.list_queries()).rows] == ["completed"]


async def test_a_put_that_expects_a_status_replaces_only_that(store: RunStore) -> None:
    assert not await store.put_agent(agent(1, "interrupted"), expected="idle")  # it inserts nothing
    assert await store.put_agent(agent(1, "busy"))
    await store.add_query(query(1, "paused"))
    assert not await store.put_agent(agent(1, "interrupted"), expected="idle")
    assert not await store.put_query(query(1, "interrupted"), expected="running")
    assert await store.put_agent(agent(1, "interrupted"), expected="busy")
    assert await store.put_query(query(1, "interrupted"), expected="paused")
    assert [row.status for row in (await store.list_agents()).rows] == ["interrupted"]
    assert [row.status for row in (await store.list_queries()).rows] == ["interrupted"]


async def test_a_taken_query_id_is_not_overwritten(store: RunStore) -> None:
    assert await store.add_query(query(1))
    assert not await store.add_query(query(1, "failed"))
    row = await store.get_query("q1")
    assert row is not None
    assert row.status == "running"


async def test_pages_are_newest_first_and_complete(store: RunStore) -> None:
    for number in range(7):
        await store.put_agent(agent(number))
        await store.add_query(query(number))
    seen: list[str] = []
    page = await store.list_agents(limit=3)
    while True:
        seen += [row.id for row in page.rows]
        if page.next is None:
            break
        page = await store.list_agents(limit=3, before=page.next)
    assert seen == [f"a{number}" for number in reversed(range(7))]
    queries = await store.list_queries(limit=7)
    assert (len(queries.rows), queries.next) == (7, None)


async def test_lists_filter_by_status_and_queries_are_counted(store: RunStore) -> None:
    await store.put_agent(agent(1, "idle"))
    await store.put_agent(agent(2, "failed"))
    await store.put_agent(agent(3, "busy"))
    assert [row.id for row in (await store.list_agents(statuses=["idle", "busy"])).rows] == ["a3", "a1"]
    for number, status in enumerate(("running", "running", "completed")):
        await store.add_query(query(number, status))
    assert [row.id for row in (await store.list_queries(statuses=["completed"])).rows] == ["q2"]
    assert await store.count_queries() == {"running": 2, "completed": 1}


async def test_history_is_kept_in_order_and_apart(store: RunStore) -> None:
    events = [Event(n, "a1", f"kind{n}", "q1" if n else None, {"n": n}) for n in range(3)]
    for event in events:
        await store.add_event(event)
    await store.add_event(Event(9, "a2", "other"))
    assert await store.list_events("a1") == events
    controls = [Audit(n, "q1", "client", "pause", "running", "paused", {"status": "applied"}) for n in range(2)]
    for control in controls:
        await store.add_audit(control)
    assert await store.list_audit("q1") == controls
    assert await store.list_audit("q2") == []


async def test_what_is_older_than_the_history_goes_and_what_lives_stays(store: RunStore) -> None:
    for number in range(6):
        row = agent(number, "stopped")
        row.ended_at = number
        await store.put_agent(row)
        await store.add_query(query(number))
        if number:  # query 0 never ends
            ended = query(number, "completed")
            ended.ended_at = number
            await store.put_query(ended)
        await store.add_event(Event(number, "a1", "kind"))
        await store.add_audit(Audit(number, "q1", "client", "pause", "running", "paused", {}))
    await store.put_agent(agent(9))
    assert await store.purge(before=3, limit=100) == 3 + 2 + 3 + 3
    assert [row.id for row in (await store.list_agents()).rows] == ["a9", "a5", "a4", "a3"]
    assert [row.id for row in (await store.list_queries()).rows] == ["q5", "q4", "q3", "q0"]
    assert [event.at for event in await store.list_events("a1")] == [3, 4, 5]
    assert [control.at for control in await store.list_audit("q1")] == [3, 4, 5]
    assert await store.purge(before=100, limit=2) == 8
    assert await store.purge(before=100, limit=100) == 4
    assert [row.id for row in (await store.list_queries()).rows] == ["q0"]


async def test_changes_name_what_was_written_once_each(store: RunStore) -> None:
    assert await store.last_change() == 0
    await store.put_agent(agent(1))
    await store.put_agent(agent(2))
    await store.add_query(query(1))
    await store.put_agent(agent(1, "busy"))
    begun = await store.last_change()
    seen = await store.changes(0, 100)
    assert (seen.agents, seen.queries, seen.last) == (["a2", "a1"], ["q1"], begun)
    assert (await store.changes(begun, 100)).last == begun
    await store.add_event(Event(1, "a2", "query"))
    await store.put_query(query(1, "completed"))
    await store.add_query(query(1))  # its id is taken: nothing is written
    await store.add_audit(Audit(1, "q1", "client", "pause", "running", "paused", {}))
    first = await store.changes(begun, 1)
    assert (first.agents, first.queries) == (["a2"], [])
    rest = await store.changes(first.last, 100)
    assert (rest.agents, rest.queries) == ([], ["q1"])
    assert (await store.changes(rest.last, 100)).queries == []


async def test_a_change_of_another_process_is_seen(tmp_path: Path) -> None:
    here, there = SqliteRunStore(tmp_path / "runs.db"), SqliteRunStore(tmp_path / "runs.db")
    await there.put_agent(agent(1))
    assert (await here.changes(0, 100)).agents == ["a1"]
    await here.close()
    await there.close()
