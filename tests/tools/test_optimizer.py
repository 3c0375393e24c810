"""The optimizer on a clock that the test moves: over a recorded stand-in for the manager, and over the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.errors import ConflictError, DeniedError, InvalidArgumentError
from quarterdeck.storage.runs.base import Query
from quarterdeck.tools.agents.models import Size, size_of
from quarterdeck.tools.agents.runners.base import Control, Outcome
from quarterdeck.tools.agents.types import SpawnableType
from quarterdeck.tools.queries.controls import Options
from quarterdeck.tools.queries.optimizer import Desk, Optimizer, Watched
from quarterdeck.tools.queries.rules import SHIPPED, Rule, with_shipped
from tests.clock import ManualClock
from tests.tools.fakes import OWNER, Bridge, FakeAgent
from tests.until import until

Condition = tuple[str, str, Any]


def rule(name: str, *conditions: Condition, **changes: Any) -> Rule:
    when = [{"field": field, "op": op, "value": value} for field, op, value in conditions]
    return Rule.model_validate({"name": name, "priority": 1, "when": when, "action": "pause", **changes})


def optimizer(
    live: Watched,
    desk: Desk,
    clock: ManualClock,
    rules: Sequence[Rule] = SHIPPED,
    *,
    cores: int = 2,
    enabled: bool = True,
) -> Optimizer:
    return Optimizer(live, desk, clock, rules, cores=cores, enabled=enabled)


class Recorded:
    """Controls that are written down and take effect as the manager's do."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queries: list[Query] = []
        self.asked: list[tuple[str, str, str | None]] = []  # query, action, model
        self.evidence: list[Mapping[str, Any]] = []
        self.answer: Outcome = {"status": "applied"}
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, query_id: str = "q", **facts: Any) -> Query:
        options: dict[str, Any] = {"status": "running", **facts}
        query = Query(query_id, "a", "worker", "work", OWNER, 0, **options)
        self.queries.append(query)
        return query

    def rows(self) -> list[Query]:
        return list(self.queries)

    def model_size(self, query_id: str) -> Size | None:
        return next(size_of(query.model) for query in self.queries if query.id == query_id)

    def active_seconds(self, query_id: str, now: float) -> float:
        assert query_id in [query.id for query in self.queries]
        return now  # all of them have run from the start

    async def control(self, query_id: str, action: Control, *, actor: str, options: Options) -> Outcome:
        assert actor == "optimizer"
        self.asked.append((query_id, action, options.model))
        self.evidence.append(options.evidence)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        query = next(query for query in self.queries if query.id == query_id)
        if self.answer.get("status") == "applied":
            match action:
                case "pause":
                    query.status = "paused"
                case "terminate":
                    self.queries.remove(query)
                case _:
                    query.model = options.model
        return self.answer


@pytest.fixture
def deck() -> Recorded:
    return Recorded()


# --- the shipped rules


async def test_a_runaway_is_terminated_after_300_active_seconds_and_not_before(deck: Recorded) -> None:
    deck.add()
    watching = optimizer(deck, deck, deck.clock)
    deck.clock.advance(300)
    await watching.tick()
    assert deck.asked == []
    deck.clock.advance(0.001)
    await watching.tick()
    assert deck.asked == [("q", "terminate", None)]
    assert deck.evidence == [{"rule": "runaway-query-termination", "activeSeconds": "300.001 > 300"}]


@pytest.mark.parametrize(("limit", "seconds"), [(10, 10.5), (1000, 1000.5)])
async def test_its_own_wall_seconds_count_instead(deck: Recorded, limit: float, seconds: float) -> None:
    deck.add(budget={"wallSeconds": limit})
    watching = optimizer(deck, deck, deck.clock)
    deck.clock.advance(limit)
    await watching.tick()
    assert deck.asked == []
    deck.clock.advance(seconds - limit)
    await watching.tick()
    assert deck.asked == [("q", "terminate", None)]


async def test_tokens_over_their_budget_pause_once_for_every_budget(deck: Recorded) -> None:
    query = deck.add(budget={"tokens": 100}, usage={"tokens": 100})
    watching = optimizer(deck, deck, deck.clock)
    await watching.tick()
    assert deck.asked == []
    query.usage = {"tokens": 101}
    await watching.tick()
    await watching.tick()  # it is paused now
    assert deck.asked == [("q", "pause", None)]
    assert deck.evidence == [{"rule": "token-budget-pause", "tokens": "101 > 100"}]
    query.status, query.budget = "running", {"tokens": 200}
    await watching.tick()
    assert len(deck.asked) == 1
    query.usage = {"tokens": 201}
    await watching.tick()
    assert deck.asked == [("q", "pause", None)] * 2


@pytest.mark.parametrize("usage", [None, {}, {"tokens": None}])
async def test_unknown_usage_is_over_no_budget(deck: Recorded, usage: dict[str, Any] | None) -> None:
    deck.add(budget={"tokens": 1}, usage=usage)
    await optimizer(deck, deck, deck.clock).tick()
    assert deck.asked == []


DEEP = {"complexity": "high", "requiresDeepReasoning": True}


@pytest.mark.parametrize(
    ("model", "metadata", "acts"),
    [
        ("haiku", DEEP, True),
        ("medium", DEEP, True),
        ("claude-sonnet-4-5", DEEP, True),
        ("opus", DEEP, False),
        ("large", DEEP, False),
        (None, DEEP, False),
        ("medium", {"complexity": "high"}, False),
        ("medium", {**DEEP, "requiresDeepReasoning": "true"}, False),
        ("medium", {**DEEP, "complexity": "low"}, False),
        ("medium", {}, False),
    ],
)
async def test_hard_work_gets_the_large_model(
    deck: Recorded, model: str | None, metadata: dict[str, Any], acts: bool
) -> None:
    query = deck.add(model=model, metadata=metadata)
    watching = optimizer(deck, deck, deck.clock)
    await watching.tick()
    await watching.tick()
    assert deck.asked == ([("q", "change_model", "large")] if acts else [])
    assert query.model == ("large" if acts else model)


@pytest.mark.parametrize(
    ("model", "complexity", "seconds", "acts"),
    [
        ("sonnet", "simple", 31, True),
        ("medium", "simple", 30, False),
        ("small", "simple", 31, False),
        ("opus", "simple", 31, False),
        ("medium", "high", 31, False),
    ],
)
async def test_long_simple_work_gets_the_small_model(
    deck: Recorded, model: str, complexity: str, seconds: float, acts: bool
) -> None:
    deck.add(model=model, metadata={"complexity": complexity})
    deck.clock.advance(seconds)
    watching = optimizer(deck, deck, deck.clock)
    await watching.tick()
    await watching.tick()
    assert deck.asked == ([("q", "change_model", "small")] if acts else [])


@pytest.mark.parametrize("status", ["queued", "pausing", "paused"])
async def test_no_rule_acts_on_what_is_not_running(deck: Recorded, status: str) -> None:
    deck.add(status=status, model="medium", metadata=DEEP, budget={"tokens": 1}, usage={"tokens": 2})
    deck.clock.advance(1000)
    await optimizer(deck, deck, deck.clock).tick()
    assert deck.asked == []


# --- which rule acts, and how often


async def test_the_highest_rule_acts_and_one_a_look(deck: Recorded) -> None:
    query = deck.add(model="medium", metadata=DEEP, budget={"tokens": 1}, usage={"tokens": 2})
    watching = optimizer(deck, deck, deck.clock)
    await watching.tick()
    assert deck.asked == [("q", "pause", None)]
    query.status = "running"
    await watching.tick()  # the higher one has acted and still holds
    await watching.tick()
    assert deck.asked == [("q", "pause", None), ("q", "change_model", "large")]


@given(st.lists(st.sampled_from(["holds", "ends", "paused"]), max_size=12))
def test_a_rule_acts_again_only_after_a_look_in_which_it_did_not_hold(looks: list[str]) -> None:
    async def run() -> None:
        deck = Recorded()
        query = deck.add()
        watching = optimizer(deck, deck, deck.clock, [rule("over", ("tokens", "gt", 10))])
        armed, expected = True, 0
        for look in looks:
            query.status = "paused" if look == "paused" else "running"
            query.usage = {"tokens": 5 if look == "ends" else 11}
            await watching.tick()
            expected += look == "holds" and armed
            armed = {"holds": False, "ends": True, "paused": armed}[look]
            assert len(deck.asked) == expected

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "error", "status", "reason", "tries"),
    [
        ({"status": "unsupported", "reason": "this worker has no model"}, None, "unsupported", "has no model", 1),
        ({"status": "denied", "reason": "by its type"}, None, "denied", "by its type", 1),
        ({}, InvalidArgumentError("unknown model 'large'"), "denied", "unknown model", 1),
        ({"status": "queued"}, None, "queued", "", 1),
        ({"status": "failed", "reason": "it has not started yet"}, None, "failed", "not started", 3),
        ({}, ConflictError("query q is pausing"), "failed", "is pausing", 3),
    ],
)
async def test_a_refusal_is_taken_at_once_and_a_failure_after_three_tries(
    deck: Recorded,
    caplog: pytest.LogCaptureFixture,
    answer: Outcome,
    error: Exception | None,
    status: str,
    reason: str,
    tries: int,
) -> None:
    deck.add(model="medium", metadata=DEEP)
    deck.answer, deck.error = answer, error
    watching = optimizer(deck, deck, deck.clock)
    for _ in range(5):
        await watching.tick()
    assert deck.asked == [("q", "change_model", "large")] * tries
    assert {action.status for action in watching.actions} == {status}
    assert reason in str(watching.actions[0].reason)
    assert caplog.text.count("rule upgrade-to-opus could not change_model query q") == (
        0 if status == "queued" else tries
    )


async def test_what_failed_too_often_is_tried_again_when_it_holds_anew(deck: Recorded) -> None:
    query = deck.add()
    deck.answer = {"status": "failed"}
    watching = optimizer(deck, deck, deck.clock, [rule("over", ("tokens", "gt", 10))])
    for tokens in (11, 11, 11, 11, 5, 11, 11, 11, 11):
        query.usage = {"tokens": tokens}
        await watching.tick()
    assert len(deck.asked) == 6


async def test_what_failed_for_a_moment_is_done_at_the_next_look(deck: Recorded) -> None:
    query = deck.add(model="medium", metadata=DEEP)
    watching = optimizer(deck, deck, deck.clock)
    deck.answer = {"status": "failed", "reason": "it has not started yet"}
    await watching.tick()
    deck.answer = {"status": "applied"}
    await watching.tick()
    await watching.tick()
    assert query.model == "large"
    assert [action.status for action in watching.actions] == ["applied", "failed"]


async def test_a_rule_that_fails_is_logged_once_and_the_next_is_tried(
    deck: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    deck.add(metadata={"size": 3, "most": {"not": "a number"}})
    broken = rule("broken", ("metadata.size", "gt", {"field": "metadata.most"}), priority=9)
    watching = optimizer(deck, deck, deck.clock, [broken, rule("next", ("metadata.size", "gt", 2))])
    await watching.tick()
    await watching.tick()
    assert [action.rule.name for action in watching.actions] == ["next"]
    assert caplog.text.count("rule broken failed on query q") == 1


async def test_metadata_of_any_depth_cannot_end_a_look(deck: Recorded, caplog: pytest.LogCaptureFixture) -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    deck.add("deep", metadata={"a": deep})
    deck.add("plain", metadata={"a": "bottom"})
    watching = optimizer(deck, deck, deck.clock, [rule("r", ("metadata.a", "ne", "top"))])
    await watching.tick()
    assert deck.asked == [("plain", "pause", None)]
    assert "rule r failed on query deep" in caplog.text


async def test_load_counts_running_queries_per_core_and_no_more_are_held_than_must_be(deck: Recorded) -> None:
    for number in range(7):
        deck.add(f"q{number}", status="paused" if number == 0 else "running")
    crowded = [rule("crowded", ("load", "gt", 2))]
    trying = optimizer(deck, deck, deck.clock, crowded, cores=2)
    trying.start(dry_run=True)
    await trying.tick()
    assert [(action.query_id, action.evidence["load"]) for action in trying.actions] == [
        ("q2", "2.5 > 2"),
        ("q1", "3.0 > 2"),
    ]
    await trying.stop()
    watching = optimizer(deck, deck, deck.clock, crowded, cores=2)
    await watching.tick()
    await watching.tick()
    assert [query.status for query in deck.queries].count("running") == 4


async def test_a_control_that_takes_its_time_holds_up_no_other(deck: Recorded) -> None:
    deck.add("first")
    deck.add("second")
    deck.clock.advance(301)
    deck.gate.clear()
    watching = optimizer(deck, deck, deck.clock)
    tick = asyncio.create_task(watching.tick())
    await until(lambda: len(deck.asked) == 2)
    assert [action.status for action in watching.actions] == [None, None]
    deck.gate.set()
    await tick
    assert [action.status for action in watching.actions] == ["applied", "applied"]


# --- start, stop, dry run, flag


async def test_a_dry_run_shows_what_it_would_do_and_the_next_start_does_it(deck: Recorded) -> None:
    deck.add()
    deck.clock.advance(301)
    watching = optimizer(deck, deck, deck.clock)
    watching.start(dry_run=True)
    await watching.tick()
    await watching.tick()
    assert deck.asked == []
    [action] = watching.actions
    assert (action.query_id, action.rule.action, action.status) == ("q", "terminate", "dryRun")
    assert action.evidence == {"activeSeconds": "301.0 > 300"}
    watching.start()
    await watching.tick()
    assert deck.asked == [("q", "terminate", None)]
    assert [action.status for action in watching.actions] == ["applied", "dryRun"]
    await watching.stop()


async def test_with_the_flag_off_it_cannot_be_started(deck: Recorded) -> None:
    watching = optimizer(deck, deck, deck.clock, enabled=False)
    with pytest.raises(DeniedError, match="FEATURE_ADAPTIVE_OPT=false: no rule acts"):
        watching.start()
    assert not watching.is_monitoring


async def test_it_looks_by_itself_until_it_is_stopped(deck: Recorded) -> None:
    deck.add("first")
    deck.clock.advance(301)
    watching = optimizer(deck, deck, deck.clock)
    watching.start(interval_ms=1)
    assert watching.is_monitoring
    await until(lambda: deck.asked == [("first", "terminate", None)])
    await watching.stop()
    assert not watching.is_monitoring
    deck.add("second")
    await asyncio.sleep(0.02)  # many intervals
    assert len(deck.asked) == 1


async def test_starts_at_once_leave_one_loop(deck: Recorded) -> None:
    watching = optimizer(deck, deck, deck.clock)
    before = asyncio.all_tasks()
    for interval in (10, 20, 30):
        watching.start(interval_ms=interval)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks() - before) == 1
    assert watching.interval_ms == 30
    await watching.stop()
    await watching.stop()
    assert asyncio.all_tasks() == before


async def test_a_start_that_changes_nothing_delays_no_look(deck: Recorded) -> None:
    deck.add()
    deck.clock.advance(301)
    watching = optimizer(deck, deck, deck.clock)
    watching.start(interval_ms=20)

    def started_again() -> bool:
        watching.start(interval_ms=20)
        return bool(deck.asked)

    await until(started_again)  # asks every 2 ms
    await watching.stop()


async def test_stop_returns_when_what_was_begun_is_done(deck: Recorded) -> None:
    deck.add()
    deck.clock.advance(301)
    deck.gate.clear()
    watching = optimizer(deck, deck, deck.clock)
    watching.start(interval_ms=1)
    await until(lambda: len(deck.asked) == 1)
    stopping = asyncio.create_task(watching.stop())
    await until(lambda: not watching.is_monitoring)
    assert not stopping.done()
    deck.gate.set()
    await stopping
    assert [action.status for action in watching.actions] == ["applied"]


async def test_a_defect_of_one_control_ends_neither_the_look_nor_the_next(
    deck: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    deck.add("first")
    deck.clock.advance(301)
    deck.error = RuntimeError("boom")
    watching = optimizer(deck, deck, deck.clock)
    watching.start(interval_ms=1)
    await until(lambda: "boom" in caplog.text)
    deck.error = None
    deck.add("second")
    await until(lambda: ("second", "terminate", None) in deck.asked)
    await watching.stop()


# --- with the real manager


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


async def test_what_it_did_and_why_is_in_the_audit(bridge: Bridge) -> None:
    query, _ = await run_one(bridge)
    bridge.clock.advance(301)
    await optimizer(bridge.live, bridge.desk, bridge.clock).tick()
    assert query.status == "terminated"
    assert query.error == ("terminated by the optimizer: rule runaway-query-termination, activeSeconds 301.0 > 300")
    [entry] = await bridge.queries.audit("q")
    assert (entry.actor, entry.action, entry.before, entry.after) == ("optimizer", "terminate", "running", "terminated")
    assert entry.outcome["evidence"] == {"rule": "runaway-query-termination", "activeSeconds": "301.0 > 300"}


MODELS = {"small": "tiny-1", "medium": "mid-1", "large": "big-1"}


async def test_the_model_that_was_seen_at_work_decides(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, kind=SpawnableType("worker", model="medium", models=MODELS))
    query, fake = await run_one(bridge, metadata=DEEP)
    watching = optimizer(bridge.live, bridge.desk, bridge.clock)
    await watching.tick()
    await watching.tick()
    assert fake.models == ["big-1"]  # asked for once, and not at work yet
    assert [action.status for action in watching.actions] == ["queued"]
    assert query.model == "mid-1"
    assert query.error is None
    assert fake.work is not None
    fake.work.on_model("big-1")
    await watching.tick()
    fake.work.on_model("mid-1")  # somebody has set it back
    await watching.tick()
    assert fake.models == ["big-1", "big-1"]
    assert [entry.action for entry in await bridge.queries.audit("q")] == ["change_model"] * 2
    fake.finish()
    await bridge.close()


async def test_a_type_without_such_a_model_refuses_once(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, kind=SpawnableType("worker", model="medium", models={"medium": "mid-1"}))
    _, fake = await run_one(bridge, metadata=DEEP)
    watching = optimizer(bridge.live, bridge.desk, bridge.clock)
    for _ in range(3):
        await watching.tick()
    [action] = watching.actions
    assert (action.status, fake.models) == ("denied", [])
    assert "unknown model 'large'" in str(action.reason)
    [entry] = await bridge.queries.audit("q")
    assert (entry.actor, entry.action) == ("optimizer", "change_model")
    fake.finish()
    await bridge.close()


async def test_paused_time_does_not_count(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    watching = optimizer(bridge.live, bridge.desk, bridge.clock)
    await bridge.desk.control("q", "pause", actor="client")
    bridge.clock.advance(10_000)
    await watching.tick()
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client")
    bridge.clock.advance(299)
    await watching.tick()
    assert query.status == "running"
    fake.finish()


async def test_a_step_of_the_wall_clock_makes_no_runaway(bridge: Bridge) -> None:
    query, fake = await run_one(bridge)
    bridge.clock.set_wall_clock(10_000)
    await optimizer(bridge.live, bridge.desk, bridge.clock).tick()
    assert query.status == "running"
    fake.finish()


async def test_a_resume_with_a_raised_budget_is_held_again_when_that_one_is_over(bridge: Bridge) -> None:
    query, fake = await run_one(bridge, budget={"tokens": 100})
    bridge.live.on_over_budget = lambda _query: None  # the rule by itself
    watching = optimizer(bridge.live, bridge.desk, bridge.clock)
    assert fake.work is not None
    fake.work.on_usage({"tokens": 101})
    await watching.tick()
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client", options=Options(budget={"tokens": 200}))
    await watching.tick()
    assert query.status == "running"
    fake.work.on_usage({"tokens": 201})
    await watching.tick()
    assert query.status == "paused"
    assert [entry.actor for entry in await bridge.queries.audit("q")] == ["optimizer", "client", "optimizer"]
    await bridge.desk.control("q", "terminate", actor="client")


async def test_a_rule_of_the_users_acts_by_metadata(bridge: Bridge) -> None:
    query, fake = await run_one(bridge, metadata={"kind": "draft"})
    mine = rule("hold-drafts", ("metadata.kind", "eq", "draft"), ("activeSeconds", "gt", 60), priority=4)
    watching = optimizer(bridge.live, bridge.desk, bridge.clock, with_shipped([mine]))
    bridge.clock.advance(61)
    await watching.tick()
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client")
    await watching.tick()
    assert query.status == "running"  # who resumes it knows why
    fake.finish()


async def test_what_ended_is_forgotten(bridge: Bridge) -> None:
    watching = optimizer(bridge.live, bridge.desk, bridge.clock, [rule("r", ("activeSeconds", "gt", 1))])
    query, fake = await run_one(bridge)
    bridge.clock.advance(2)
    await watching.tick()
    assert query.status == "paused"
    await bridge.desk.control("q", "resume", actor="client")
    fake.finish()
    await until(lambda: not bridge.live.rows())
    await watching.tick()
    assert watching._acted == set()  # pyright: ignore[reportPrivateUsage]
