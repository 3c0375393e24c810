"""The optimizer on a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.runs.base import Query
from quarterdeck.tools.queries.optimizer import RULES, Optimizer, Rule
from tests.tools.fakes import Bridge, FakeAgent


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncGenerator[Bridge]:
    bridge = Bridge(tmp_path)
    yield bridge
    await bridge.close()


async def run_one(bridge: Bridge, **options: Any) -> tuple[Query, FakeAgent]:
    agent, fake = await bridge.spawn()
    query = await bridge.queries.start(agent.id, "work", query_id="q", **options)
    await fake.started.wait()
    return query, fake


def optimizer(bridge: Bridge, *rules: Rule) -> Optimizer:
    return Optimizer(bridge.live, bridge.desk, bridge.clock, rules or RULES, enabled=True)


async def test_a_runaway_is_terminated_after_300_seconds_and_not_before(bridge: Bridge) -> None:
    query, _ = await run_one(bridge)
    bridge.clock.advance(300)
    await optimizer(bridge).tick()
    assert query.status == "running"
    bridge.clock.advance(0.001)
    await optimizer(bridge).tick()
    assert query.status == "terminated"
    assert "terminated by the optimizer" in str(query.error)
    assert "runaway-query-termination" in str(query.error)
    [entry] = await bridge.queries.audit("q")
    assert (entry.actor, entry.action) == ("optimizer", "terminate")
    assert entry.outcome["evidence"] == {
        "rule": "runaway-query-termination",
        "activeSeconds": 300.001,
        "limitSeconds": 300.0,
    }


async def test_its_own_wall_seconds_count_instead(bridge: Bridge) -> None:
    query, _ = await run_one(bridge, budget={"wallSeconds": 10})
    bridge.clock.advance(10.5)
    await optimizer(bridge).tick()
    assert query.status == "terminated"


async def test_paused_time_does_not_count(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    await bridge.desk.control("q", "pause", actor="client")
    bridge.clock.advance(10_000)
    await optimizer(bridge).tick()
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client")
    bridge.clock.advance(299)
    await optimizer(bridge).tick()
    assert query.status == "running"
    fake.finish()


async def test_dry_run_does_nothing(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    bridge.clock.advance(1000)
    watching = optimizer(bridge)
    watching.dry_run = True
    await watching.tick()
    assert query.status == "running"
    fake.finish()


async def test_the_most_urgent_rule_acts_once_and_a_broken_one_is_passed_over(bridge: Bridge) -> None:
    asked: list[str] = []

    def broken(_query: Query, _active: float) -> dict[str, Any]:
        asked.append("broken")
        return {"share": 1 / 0}

    def pause(_query: Query, active: float) -> dict[str, Any]:
        asked.append("pause")
        return {"activeSeconds": active}

    query, fake = await run_one(bridge)
    rules = (Rule("low", 1, "terminate", pause), Rule("pause", 5, "pause", pause), Rule("broken", 9, "pause", broken))
    watching = optimizer(bridge, *rules)
    assert [rule.name for rule in watching.rules] == ["broken", "pause", "low"]
    await watching.tick()
    assert (asked, query.status) == (["broken", "pause"], "paused")
    await bridge.desk.control("q", "resume", actor="client")
    fake.finish()


async def test_a_look_that_fails_is_not_the_last(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    query, _ = await run_one(bridge)
    bridge.clock.advance(301)
    watching, control = optimizer(bridge), bridge.desk.control

    async def broken(*_args: Any, **_options: Any) -> Any:
        watching._acted.clear()  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(bridge.desk, "control", control)
        raise RuntimeError("boom")

    monkeypatch.setattr(bridge.desk, "control", broken)
    await watching.start(interval_ms=1)
    await bridge.queries.wait(["q"], 20, _ignore)
    assert query.status == "terminated"
    assert "boom" in caplog.text
    await watching.stop()


async def test_it_looks_by_itself_until_it_is_stopped(bridge: Bridge) -> None:
    query, _ = await run_one(bridge)
    bridge.clock.advance(301)
    watching = optimizer(bridge)
    await watching.start(interval_ms=1)
    assert watching.is_monitoring
    await bridge.queries.wait(["q"], 20, _ignore)
    assert query.status == "terminated"
    await watching.stop()
    assert not watching.is_monitoring


async def _ignore(_rows: object) -> None:
    return None


async def test_a_step_of_the_wall_clock_makes_no_runaway(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    bridge.clock.set_wall_clock(10_000)
    await optimizer(bridge).tick()
    assert query.status == "running"
    fake.finish()
