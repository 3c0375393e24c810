"""Random commands, completions and faults against a model of the state machine of queries."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Coroutine, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from quarterdeck.storage.errors import ConflictError, DeckError, LimitError
from quarterdeck.storage.runs.base import Audit, Query
from quarterdeck.tools.agents.runners.base import Control, Outcome, WorkError
from quarterdeck.tools.queries.controls import POSSIBLE, Options
from tests.until import until

from .fakes import WORKER, Bridge, FakeAgent

THINKER = replace(WORKER, model="small", models={"small": "tiny-1", "large": "huge-1"})
ENDED = ("completed", "failed", "terminated")
MORE = {"tokens": 200, "wallSeconds": 500}

QUERIES = st.integers(0, 5)
CONTROLS: st.SearchStrategy[tuple[Control, Options]] = st.sampled_from(
    [
        ("pause", Options()),
        ("pause", Options(level="freeze")),
        ("pause", Options(level="hold")),
        ("pause", Options(level="interrupt")),  # which the agent has not
        ("resume", Options()),
        ("resume", Options(budget=MORE)),
        ("terminate", Options()),
        ("change_model", Options(model="large")),
        ("change_permissions", Options(permission_mode="plan")),
        ("change_permissions", Options(permission_mode="default")),
        ("execute_command", Options(command="status")),
    ]
)


@dataclass
class Expected:
    """What a query must look like. `came` is the end that it came to while it was held."""

    agent: int
    budget: dict[str, float]
    status: str = "queued"
    level: str | None = None
    came: str | None = None
    worked: float = 0.0
    tokens: float = 0.0
    mode: str = "default"
    audited: int = 0
    ended_as: Query | None = field(default=None, repr=False)
    audit: list[Audit] = field(default_factory=list[Audit], repr=False)

    def used_up(self) -> set[str]:
        used = {"tokens": self.tokens, "wallSeconds": self.worked}
        return {kind for kind, limit in self.budget.items() if used[kind] >= limit}

    def control(self, action: Control, options: Options) -> str:
        """Take the control; returns the status of its outcome, or the name of its error."""
        if self.status in ENDED:
            return "applied" if (action, self.status) == ("terminate", "terminated") else "ConflictError"
        self.audited += 1
        status, level = self.status, options.level
        match action:
            case "pause" if status == "paused" and level in (None, self.level):
                return "applied"
            case "resume" if status == "running":
                self.budget |= options.budget or {}
                return "applied"
            case _ if action not in POSSIBLE[status]:  # type: ignore[index]
                return "ConflictError"
            case "pause" if level == "interrupt":
                return "unsupported"
            case "pause" if level == "hold" and self.came is None:
                self.status, self.level = "pausing", "hold"
                return "pending"
            case "pause":
                self.status, self.level = "paused", level or "freeze"
            case "resume":
                old, self.budget = self.budget, self.budget | (options.budget or {})
                if self.used_up():
                    self.budget = old
                    return "LimitError"
                self.status = self.came or "running"
            case "terminate":
                self.status = "terminated"
            case "change_model":
                return "queued"
            case "change_permissions":
                same, self.mode = self.mode == options.permission_mode, str(options.permission_mode)
                return "applied" if same or status != "queued" else "queued"
            case "execute_command":
                pass
        return "applied"

    def enforce_budget(self) -> None:
        """What happens when somebody looks at it."""
        if self.status == "running" and (over := self.used_up()):
            self.control("pause" if over == {"tokens"} else "terminate", Options())


class QueryStates(RuleBasedStateMachine):
    """Two agents with queries that run and wait for their turn."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.agents: dict[int, tuple[str, FakeAgent]] = {}  # place -> id, agent
        self.rows: list[Query] = []
        self.expected: list[Expected] = []
        self.requests: list[asyncio.Task[None]] = []

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def open(self) -> None:
        async def open() -> Bridge:
            return Bridge(self.folder, kind=THINKER)

        self.bridge: Bridge = self.do(open())

    def teardown(self) -> None:
        for number in range(len(self.rows)):  # none is stuck
            self.control(number, "terminate", Options())
            self.agrees()
        self.do(self.bridge.close())
        for request in self.requests:
            request.cancel()
        self.do(asyncio.sleep(0))
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- what happens

    @rule(place=st.integers(0, 1), budget=st.sampled_from([{}, {"tokens": 100}, {"wallSeconds": 60}]))
    def start(self, place: int, budget: Mapping[str, float]) -> None:
        number = len(self.rows)
        if number > 5:
            return

        async def start() -> None:
            if place not in self.agents:
                agent, fake = await self.bridge.spawn(f"w{number}")
                self.agents[place] = agent.id, fake
            agent_id, _ = self.agents[place]
            self.rows.append(await self.bridge.queries.start(agent_id, "toil", query_id=f"q{number}", budget=budget))

        self.do(start())
        self.expected.append(Expected(place, dict(budget)))

    @rule(number=QUERIES, control=CONTROLS)
    def one_control(self, number: int, control: tuple[Control, Options]) -> None:
        if number < len(self.rows):
            self.control(number, *control)

    def control(self, number: int, action: Control, options: Options) -> None:
        wanted = self.expected[number].control(action, options)
        assert self.do(self.said(number, action, options)) == wanted

    async def said(self, number: int, action: Control, options: Options) -> str:
        """What the desk answers, as `Expected.control` does."""
        try:
            outcome = await self.bridge.desk.control(f"q{number}", action, actor="client", options=options)
        except DeckError as exc:
            assert isinstance(exc, (ConflictError, LimitError))
            return type(exc).__name__
        return str(outcome.get("status"))

    @rule(number=QUERIES, first=CONTROLS, second=CONTROLS)
    def two_controls_at_once(
        self, number: int, first: tuple[Control, Options], second: tuple[Control, Options]
    ) -> None:
        """As if the one came after the other."""
        if number >= len(self.rows) or self.expected[number].came or self.expected[number].status in ENDED:
            return  # of an end in between, see `a_control_meets_the_end`
        wanted = [self.expected[number].control(*first), self.expected[number].control(*second)]
        if first[0] == "terminate" and wanted[1] == "ConflictError":
            self.expected[number].audited += 1  # it waited for the other one, and is refused in the audit too
        if first[0] == second[0] == "terminate":
            self.expected[number].audited += 1

        async def both() -> list[str]:
            return list(await asyncio.gather(self.said(number, *first), self.said(number, *second)))

        assert self.do(both()) == wanted

    @rule(number=QUERIES, control=CONTROLS, turns=st.integers(0, 12))
    def a_control_meets_the_end(self, number: int, control: tuple[Control, Options], turns: int) -> None:
        """Either may win, and what was answered is what is."""
        if (fake := self.at_work(number)) is None or self.expected[number].status != "running":
            return
        expected, (action, options) = self.expected[number], control
        before = deepcopy(expected)

        async def meet() -> str:
            controlling = asyncio.create_task(self.said(number, action, options))
            for _ in range(turns):
                await asyncio.sleep(0)
            if fake.work is not None and fake.work.id == f"q{number}":
                fake.finish()
            said = await controlling
            await until(lambda: self.bridge.live.get(f"q{number}") is None or self.rows[number].status == "paused")
            return said

        said = self.do(meet())
        now = self.rows[number].status
        if said == "ConflictError" and now == "completed":  # the end won
            expected.status = "completed"
        else:
            wanted = expected.control(action, options)
            assert said == wanted or (said, wanted) == ("applied", "pending")  # it stood at its end
            if expected.status in ("pausing", "paused"):
                expected.status, expected.came = "paused", "completed"
            elif expected.status == "running":
                expected.status = "completed"
            assert now == expected.status, (before, said)
        expected.audited = len(self.do(self.bridge.runs.list_audit(f"q{number}")))
        assert expected.audited >= before.audited

    @rule(number=QUERIES, raises=st.booleans())
    def a_pause_fails(self, number: int, raises: bool) -> None:
        if (fake := self.at_work(number)) is None or self.expected[number].status != "running":
            return

        async def pause(_level: str) -> Outcome:
            if raises:
                raise RuntimeError("a defect")
            return {"status": "failed", "reason": "would not stand still"}

        fake.pause = pause  # type: ignore[method-assign]
        assert self.do(self.said(number, "pause", Options())) == "failed"
        del fake.pause
        self.expected[number].audited += 1

    def at_work(self, number: int) -> FakeAgent | None:
        """The agent, if the query is its present work."""
        if number >= len(self.rows) or (agent := self.agents.get(self.expected[number].agent)) is None:
            return None
        fake = agent[1]
        return fake if fake.work is not None and fake.work.id == f"q{number}" else None

    @rule(number=QUERIES)
    def reach_boundary(self, number: int) -> None:
        if self.expected[number : number + 1] and self.expected[number].status == "pausing":
            fake = self.at_work(number)
            assert fake is not None
            fake.reach_boundary()
            self.expected[number].status = "paused"
            self.expected[number].audited += 1

    @rule(number=QUERIES, fails=st.booleans())
    def end_of_work(self, number: int, fails: bool) -> None:
        if (fake := self.at_work(number)) is None:
            return
        if fails:
            fake.fail(WorkError("no luck"))
        else:
            fake.finish()
        expected, end = self.expected[number], "failed" if fails else "completed"
        if expected.status == "running":
            expected.status = end
        else:
            expected.audited += expected.status == "pausing"  # which comes to its boundary with that
            expected.status, expected.came = "paused", end

    @precondition(lambda self: self.agents)
    @rule(place=st.integers(0, 1), stopped=st.booleans())
    def end_of_agent(self, place: int, stopped: bool) -> None:
        if place not in self.agents:
            return
        agent_id, fake = self.agents.pop(place)
        if stopped:
            assert self.do(self.bridge.orchestrator.stop([agent_id], grace=0)) == {agent_id: "stopped"}
        else:
            fake.die("killed by somebody")
        for expected in self.expected:
            if expected.agent == place and expected.status not in ENDED:
                expected.status = "terminated" if stopped else "failed"

    @rule(number=QUERIES, tokens=st.sampled_from([50, 150, 250]))
    def use(self, number: int, tokens: int) -> None:
        if (fake := self.at_work(number)) is not None:
            assert fake.work is not None
            fake.work.on_usage({"tokens": tokens})
            self.expected[number].tokens = tokens

    @rule(number=QUERIES)
    def request(self, number: int) -> None:
        """The agent asks whether it may spend more."""
        if (fake := self.at_work(number)) is not None and self.expected[number].status == "running":
            assert fake.work is not None
            self.requests.append(self.loop.create_task(fake.work.before_request()))
            self.expected[number].enforce_budget()

    @rule()
    def tick(self) -> None:
        self.do(self.bridge.live.tick())
        for expected in self.expected:
            expected.enforce_budget()

    @precondition(lambda self: self.rows)
    @rule(seconds=st.integers(1, 90))
    def time_passes(self, seconds: int) -> None:
        self.bridge.clock.advance(seconds)
        for expected in self.expected:
            if expected.status in ("running", "pausing"):
                expected.worked += seconds

    # --- what must hold

    @invariant()
    def agrees(self) -> None:
        for place in (0, 1):  # the next one's turn
            waiting = [expected for expected in self.expected if expected.agent == place]
            alive = [expected for expected in waiting if expected.status not in ENDED]
            if alive and alive[0].status == "queued":
                alive[0].status = "running"
        if self.rows:
            self.do(self.settled())

    async def settled(self) -> None:
        def statuses() -> list[str]:
            return [row.status for row in self.rows]

        def is_done() -> bool:
            ended = [self.bridge.live.get(row.id) is None for row in self.rows]
            working = all(
                self.at_work(number) or expected.came
                for number, expected in enumerate(self.expected)
                if expected.status in ("running", "pausing", "paused")
            )
            return (
                bool(working)
                and statuses() == [expected.status for expected in self.expected]
                and ended == [expected.status in ENDED for expected in self.expected]
            )

        try:
            await until(is_done, 5)
        except TimeoutError:
            raise AssertionError(f"{statuses()} instead of {self.expected}") from None
        for number, (row, expected) in enumerate(zip(self.rows, self.expected, strict=True)):
            assert (row.active_ms(self.bridge.clock.now()) or 0) == expected.worked * 1000, number
            assert (row.paused_at is not None) == (expected.status == "paused")
            assert {kind: row.budget.get(kind) for kind in expected.budget} == expected.budget
            if expected.status in ENDED:
                expected.ended_as = expected.ended_as or deepcopy(row)
                assert row == expected.ended_as == await self.bridge.runs.get_query(row.id)
            await self.audit_agrees(number, expected)

    async def audit_agrees(self, number: int, expected: Expected) -> None:
        audit: list[Audit] = []

        async def is_there() -> bool:
            audit[:] = await self.bridge.runs.list_audit(f"q{number}")
            return len(audit) >= expected.audited

        await until(is_there, 5)
        assert len(audit) == expected.audited
        assert audit[: len(expected.audit)] == expected.audit  # only ever longer
        expected.audit = audit
        for earlier, later in zip(audit, audit[1:], strict=False):
            between = (earlier.after, later.before)
            assert between[0] == between[1] or between == ("queued", "running"), audit


def test_random_commands_and_faults_keep_to_the_state_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr("quarterdeck.tools.queries.controls.PAUSE_PATIENCE", 0)
    health = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        QueryStates,
        settings=settings(max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=health),
    )
