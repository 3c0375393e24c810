"""Random commands, completions and faults against a model of the state machine of queries."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Coroutine, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from quarterdeck.storage.errors import ConflictError, LimitError
from quarterdeck.storage.runs.base import Audit, Query
from quarterdeck.tools.agents.runners.base import Control, Outcome, WorkError
from quarterdeck.tools.queries.controls import Options
from tests.until import until

from .fakes import WORKER, Bridge, FakeAgent
from .query_model import ENDED, Expected

THINKER = replace(WORKER, model="small", models={"small": "tiny-1", "large": "huge-1"})
MORE = {"tokens": 200, "wallSeconds": 500}

QUERIES = st.integers(0, 59)  # of which there are up to six: the rest of a division
BUDGETS: st.SearchStrategy[dict[str, float]] = st.sampled_from([{}, {"tokens": 100}, {"wallSeconds": 60}])
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

    @initialize(place=st.just(0), budget=BUDGETS)
    def open(self, place: int, budget: Mapping[str, float]) -> None:
        async def build() -> Bridge:
            return Bridge(self.folder, kind=THINKER)

        self.bridge: Bridge = self.do(build())
        self.start(place, budget)

    def teardown(self) -> None:
        for number in range(len(self.rows)):  # none is stuck
            self.control(number, "terminate", Options())
            self.agrees()
        for request in self.requests:  # as the end of its work does
            request.cancel()
        self.do(asyncio.sleep(0))
        self.do(self.bridge.close())
        self.loop.close()
        shutil.rmtree(self.folder)

    # --- what happens

    @rule(place=st.integers(0, 1), budget=BUDGETS)
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
        self.control(number % len(self.rows), *control)

    def control(self, number: int, action: Control, options: Options) -> None:
        wanted = self.expected[number].control(action, options)
        assert self.do(self.said(number, action, options)) == wanted

    async def said(self, number: int, action: Control, options: Options) -> str:
        """What the desk answers, as `Expected.control` does."""
        try:
            outcome = await self.bridge.desk.control(f"q{number}", action, actor="client", options=options)
        except (ConflictError, LimitError) as exc:
            return type(exc).__name__
        return str(outcome.get("status"))

    @rule(number=QUERIES, first=CONTROLS, second=CONTROLS)
    def two_controls_at_once(
        self, number: int, first: tuple[Control, Options], second: tuple[Control, Options]
    ) -> None:
        """As if the one came after the other."""
        number %= len(self.rows)
        if self.expected[number].came or self.expected[number].status in ENDED:
            return  # of an end in between, see `a_control_meets_the_end`
        if "execute_command" in (first[0], second[0]):
            return  # it runs beside the other, in whatever order
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
        number %= len(self.rows)
        if (fake := self.at_work(number)) is None or self.expected[number].status != "running":
            return
        expected, (action, options) = self.expected[number], control
        before = deepcopy(expected)

        async def meet() -> str:
            controlling = asyncio.create_task(self.said(number, action, options))
            for _ in range(turns):
                await asyncio.sleep(0)
            if fake.at_work and fake.work is not None and fake.work.id == f"q{number}":
                fake.finish()
            said = await controlling
            await until(lambda: self.bridge.live.get(f"q{number}") is None or self.rows[number].status == "paused")
            return said

        said = self.do(meet())
        now = self.rows[number].status
        if said == "ConflictError" and now == "completed":  # the end won, and the refusal may be in the audit or not
            expected.status = "completed"
            expected.audited = len(self.do(self.bridge.runs.list_audit(f"q{number}")))
        else:
            wanted = expected.control(action, options)
            assert said == wanted or (said, wanted) == ("applied", "pending")  # it stood at its end
            if expected.status in ("pausing", "paused"):
                expected.status, expected.came = "paused", "completed"
            elif expected.status == "running":
                expected.status = "completed"
            assert now == expected.status, (before, said)
            expected.audited += said == "pending"  # its boundary, which is written later
        assert expected.audited >= before.audited

    @rule(number=QUERIES, raises=st.booleans())
    def a_pause_fails(self, number: int, raises: bool) -> None:
        number %= len(self.rows)
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
        if (agent := self.agents.get(self.expected[number].agent)) is None:
            return None
        fake = agent[1]
        return fake if fake.work is not None and fake.work.id == f"q{number}" else None

    @rule(number=QUERIES)
    def reach_boundary(self, number: int) -> None:
        number %= len(self.rows)
        if self.expected[number].status == "pausing":
            fake = self.at_work(number)
            assert fake is not None
            fake.reach_boundary()
            self.expected[number].status = "paused"
            self.expected[number].audited += 1

    @rule(number=QUERIES, fails=st.booleans())
    def end_of_work(self, number: int, fails: bool) -> None:
        number %= len(self.rows)
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
        number %= len(self.rows)
        if (fake := self.at_work(number)) is not None:
            work, expected = fake.work, self.expected[number]
            assert work is not None

            async def tell() -> None:
                work.on_usage({"tokens": tokens})

            self.do(tell())
            was_over, expected.tokens = expected.used_up(), tokens
            if not was_over:
                expected.enforce_budget()

    @rule(number=QUERIES)
    def request(self, number: int) -> None:
        """The agent asks whether it may spend more."""
        number %= len(self.rows)
        if (fake := self.at_work(number)) is not None and self.expected[number].status == "running":
            assert fake.work is not None
            self.requests.append(self.loop.create_task(fake.work.before_request()))
            self.expected[number].enforce_budget()

    @rule()
    def tick(self) -> None:
        self.do(self.bridge.live.tick())
        for expected in self.expected:
            expected.enforce_budget()

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
        # A command runs beside the others: what it saw before may have changed when it is done.
        for earlier, later in pairwise(entry for entry in audit if entry.action != "execute_command"):
            between = (earlier.after, later.before)
            began = between == ("queued", "running")
            refused = later.before == "completed"  # by an end, which is no control, that was not on disk yet
            assert between[0] == between[1] or began or refused, audit


def test_random_commands_and_faults_keep_to_the_state_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr("quarterdeck.tools.queries.controls.PAUSE_PATIENCE", 0)
    health, phases = [HealthCheck.too_slow, HealthCheck.filter_too_much], [Phase.generate]  # to shrink takes minutes
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        QueryStates,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=health, phases=phases
        ),
    )
