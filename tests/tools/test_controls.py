"""Controls over agents without processes: pauses that wait for their boundary, changes, permissions, the audit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import ConflictError, DeckError, DeniedError, InvalidArgumentError
from quarterdeck.storage.runs.base import Query, Request
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.runners.base import Control, Outcome
from quarterdeck.tools.queries.controls import Options
from tests.tools.fakes import WORKER, Bridge, FakeAgent
from tests.until import until

MODELS = {"small": "tiny-1", "large": "huge-1"}
THINKER = replace(WORKER, model="small", models=MODELS)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncGenerator[Bridge]:
    bridge = Bridge(tmp_path, kind=THINKER)
    yield bridge
    await bridge.close()


async def begin(bridge: Bridge, **options: Any) -> tuple[Query, FakeAgent]:
    agent, fake = await bridge.spawn()
    query = await bridge.queries.start(agent.id, "work", query_id="q", **options)
    await fake.started.wait()
    return query, fake


async def control(bridge: Bridge, action: Control, **options: Any) -> Any:
    return await bridge.desk.control("q", action, actor="client", options=Options(**options))


async def ignore(_rows: Sequence[Query]) -> None:
    return None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quarterdeck.tools.queries.controls.PAUSE_PATIENCE", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_a_pause_that_waits_is_pending_until_it_is_parked(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    outcome = await control(bridge, "pause", level="hold")
    assert (outcome["status"], outcome["effectiveAt"], query.status) == ("pending", "next_boundary", "pausing")
    assert outcome["alternatives"] == ["resume", "resume, then pause with level freeze"]
    assert [await control(bridge, "pause"), await control(bridge, "pause", level="hold")] == [outcome, outcome]
    with pytest.raises(ConflictError, match="is pausing; possible now: resume"):
        await control(bridge, "pause", level="freeze")
    fake.reach_boundary()
    await until(lambda: query.status == "paused")
    assert (await control(bridge, "pause"))["reason"] == "it was paused before"
    with pytest.raises(ConflictError, match="possible now: resume"):
        await control(bridge, "pause", level="freeze")
    await control(bridge, "resume")
    fake.finish()
    await bridge.queries.wait(["q"], 20, ignore)
    later = [entry for entry in await bridge.queries.audit("q") if entry.after == "paused" != entry.before]
    assert [(entry.action, entry.after, entry.outcome["status"]) for entry in later] == [("pause", "paused", "applied")]


@pytest.mark.usefixtures("impatient")
async def test_a_pause_that_still_waits_is_taken_back_by_a_resume(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    await control(bridge, "pause", level="hold")
    assert (await control(bridge, "resume"))["status"] == "applied"
    assert query.status == "running"
    fake.finish("whole")
    [row] = await bridge.queries.wait(["q"], 20, ignore)
    assert (row.status, row.result, row.paused_ms) == ("completed", "whole", 0)


@pytest.mark.usefixtures("impatient")
async def test_a_query_can_be_terminated_while_its_pause_waits(bridge: Bridge) -> None:
    query, _ = await begin(bridge)
    await control(bridge, "pause", level="hold")
    assert (await control(bridge, "terminate"))["observed"]["status"] == "terminated"
    assert query.status == "terminated"


async def test_a_command_that_takes_its_time_holds_no_other_control_up(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    fake.command_ends.clear()
    command = asyncio.create_task(control(bridge, "execute_command", command="slow"))
    await until(lambda: fake.commands)
    assert (await asyncio.wait_for(control(bridge, "pause"), 20))["status"] == "applied"
    assert (await control(bridge, "terminate"))["observed"]["status"] == query.status == "terminated"
    assert not command.done()
    fake.command_ends.set()
    assert (await command)["status"] == "applied"


async def test_a_level_that_the_runner_has_not_is_unsupported_with_those_that_it_has(bridge: Bridge) -> None:
    query, _ = await begin(bridge)
    outcome = await control(bridge, "pause", level="interrupt")
    assert (outcome["status"], outcome["alternatives"], query.status) == ("unsupported", ["freeze", "hold"], "running")


@pytest.mark.parametrize(
    ("action", "options", "complaint"),
    [
        ("change_model", {}, "missing argument 'model'"),
        ("change_permissions", {"model": "small"}, "missing argument 'permissionMode'"),
        ("execute_command", {}, "missing argument 'command'"),
        ("pause", {"budget": {"tokens": 1}}, "budget: no meaning for pause"),
        ("terminate", {"level": "hold"}, r"level: no meaning for terminate \(its options: none\)"),
        ("change_model", {"model": "medium"}, r"unknown model 'medium' \(valid: small, large, haiku, opus, tiny-1"),
    ],
)
async def test_wrong_options_are_refused_by_name(
    bridge: Bridge, action: Control, options: dict[str, Any], complaint: str
) -> None:
    await begin(bridge)
    with pytest.raises(InvalidArgumentError, match=complaint):
        await control(bridge, action, **options)


async def test_a_model_is_the_querys_once_it_was_seen_at_work(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    assert query.model == "tiny-1"
    assert (await control(bridge, "change_model", model="opus"))["status"] == "queued"
    assert (fake.models, query.model) == (["huge-1"], "tiny-1")
    assert fake.work is not None
    fake.work.on_model("huge-1")
    assert (query.model, bridge.live.model_size("q")) == ("huge-1", "large")
    assert (await control(bridge, "change_model", model="large"))["status"] == "applied"
    assert len(fake.models) == 1


async def test_a_queued_query_takes_its_changes_to_its_start(bridge: Bridge) -> None:
    first, fake = await begin(bridge)
    await bridge.queries.start(first.agent_id, "more", query_id="second")
    changes: dict[Control, Options] = {
        "change_model": Options(model="large"),
        "change_permissions": Options(permission_mode="plan"),
    }
    for action, options in changes.items():
        outcome = await bridge.desk.control("second", action, actor="client", options=options)
        assert outcome.get("status") == "queued"
    fake.finish()
    await bridge.queries.wait(["q"], 20, ignore)
    await fake.started.wait()
    assert fake.work is not None
    assert (fake.work.id, fake.work.model, fake.work.permission_mode) == ("second", "huge-1", "plan")


async def test_less_is_always_granted_and_more_up_to_what_the_agent_was_granted(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    assert (await control(bridge, "change_permissions", permission_mode="plan"))["status"] == "applied"
    assert query.permission_mode == "plan"
    with pytest.raises(DeniedError, match="mode plan only reads"):
        await fake.call("memory_usage", {"action": "store", "namespace": "work"})
    await control(bridge, "change_permissions", permission_mode="default")
    await fake.call("memory_usage", {"action": "store", "namespace": "work"})
    for mode in ("acceptEdits", "bypassPermissions"):
        with pytest.raises(DeniedError, match=rf'widest_mode\] worker = "{mode}"'):
            await control(bridge, "change_permissions", permission_mode=mode)
    assert fake.modes == ["plan", "default"]
    denied = [entry for entry in await bridge.queries.audit("q") if entry.outcome["status"] == "denied"]
    assert [entry.outcome["asked"] for entry in denied] == [
        {"permissionMode": "acceptEdits"},
        {"permissionMode": "bypassPermissions"},
    ]


async def test_the_configuration_lets_a_running_query_have_more(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, kind=replace(THINKER, widest="bypassPermissions", sandboxed=True))
    query, _ = await begin(bridge)
    await control(bridge, "change_permissions", permission_mode="acceptEdits")
    with pytest.raises(DeniedError, match="a human's yes"):
        await control(bridge, "change_permissions", permission_mode="bypassPermissions")
    await control(bridge, "change_permissions", permission_mode="bypassPermissions", confirmed=True)
    assert query.permission_mode == "bypassPermissions"
    changes = [entry.outcome.get("changed") for entry in await bridge.queries.audit("q")]
    assert changes == [
        {"permissionMode": ["default", "acceptEdits"]},
        None,
        {"permissionMode": ["acceptEdits", "bypassPermissions"]},
    ]
    await bridge.close()


async def test_bypassing_needs_a_sandbox_whatever_a_human_says(tmp_path: Path) -> None:
    bridge = Bridge(tmp_path, kind=replace(THINKER, widest="bypassPermissions"))
    await begin(bridge)
    with pytest.raises(DeniedError, match="needs a sandbox"):
        await control(bridge, "change_permissions", permission_mode="bypassPermissions", confirmed=True)
    await bridge.close()


async def test_a_budget_holds_the_work_before_its_next_request(bridge: Bridge) -> None:
    query, fake = await begin(bridge, budget={"tokens": 100})
    assert fake.work is not None
    await fake.work.before_request()
    fake.work.on_usage({"tokens": 120})
    asking = asyncio.create_task(fake.work.before_request())
    await until(lambda: query.status == "paused")
    assert not asking.done()
    assert query.error == "paused by the budget: tokens 120 of 100"
    with pytest.raises(DeckError, match="tokens 120 of 110"):
        await control(bridge, "resume", budget={"tokens": 110})
    assert not asking.done()
    await control(bridge, "resume", budget={"tokens": 200})
    await asyncio.wait_for(asking, 20)
    assert (query.status, query.error) == ("running", None)


async def test_a_server_that_lives_but_does_not_answer_is_told_and_never_acts_later(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quarterdeck.tools.queries.desk.TAKE_PATIENCE", 0.02)
    myself = processes.identify(os.getpid())  # it lives, and serves nothing
    await bridge.runs.add_query(Query("q", "a", "worker", "p", myself, 1, status="running"))
    with pytest.raises(ConflictError, match=r"took nothing in 0.02 s; the request was withdrawn"):
        await control(bridge, "pause")
    assert await bridge.runs.requests_of(myself) == []


async def test_a_model_change_can_be_taken_back_before_it_was_seen(bridge: Bridge) -> None:
    query, fake = await begin(bridge)
    await control(bridge, "change_model", model="large")
    assert (await control(bridge, "change_model", model="small"))["status"] == "queued"
    assert (fake.models, query.model) == (["huge-1", "tiny-1"], "tiny-1")


async def test_a_command_that_takes_long_holds_up_no_other_control(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fake = await begin(bridge)
    entered, gate = asyncio.Event(), asyncio.Event()

    async def slow(_name: str) -> Outcome:
        entered.set()
        await gate.wait()
        return {"status": "applied"}

    monkeypatch.setattr(fake, "execute_command", slow)
    running = asyncio.create_task(control(bridge, "execute_command", command="slow"))
    await entered.wait()
    try:
        async with asyncio.timeout(5):
            assert (await control(bridge, "terminate"))["observed"]["status"] == "terminated"
    finally:
        gate.set()
    assert (await running)["status"] == "applied"


async def test_a_request_whose_caller_has_gone_is_withdrawn(bridge: Bridge) -> None:
    owner = processes.identify(os.getppid())  # lives, and takes nothing
    await bridge.runs.add_query(Query("theirs", "a", "worker", "work", owner, 1, status="running"))
    asking = asyncio.create_task(bridge.desk.control("theirs", "terminate", actor="client"))
    await until(lambda: bridge.runs.requests_of(owner))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await bridge.desk.close()
    assert not await bridge.runs.requests_of(owner)


async def test_a_row_that_cannot_be_read_does_not_end_the_serving(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_owner: object) -> list[Request]:
        raise ValueError("of a newer program")

    monkeypatch.setattr(bridge.runs, "requests_of", broken)
    serving = asyncio.create_task(bridge.desk.serve())
    await until(lambda: "requests of other servers" in caplog.text)
    assert not serving.done()
    serving.cancel()
