"""Two-way synchronisation in a real worker, against the real memory tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .driver import Driver
from .real_tools import RealTools, real_tools

SIDES = ("left", "right")


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[RealTools]:
    async with real_tools(tmp_path) as tools:
        yield tools


@pytest.fixture
async def sync(tools: RealTools) -> AsyncIterator[Driver]:
    async with Driver("synchronization", tools) as worker:
        await worker.start()
        yield worker


async def run(sync: Driver, left: str = "left", right: str = "right", **prompt: Any) -> Any:
    return await sync.run({"do": "bidirectional_sync", "left": left, "right": right, **prompt})


async def contents(tools: RealTools, namespace: str) -> dict[str, Any]:
    page = await tools("memory_usage", {"action": "list", "namespace": namespace, "limit": 500})
    return {entry["key"]: entry["value"] for entry in page["entries"]}


async def put(tools: RealTools, namespace: str, **values: Any) -> None:
    for key, value in values.items():
        tools.clock.advance(1)
        await tools.memory("store", namespace, key, value=value)


def report(**what: Any) -> dict[str, Any]:
    return {
        "left": "left",
        "right": "right",
        "equal": 0,
        "copied": {"left": 0, "right": 0},
        "deleted": {"left": 0, "right": 0},
        "conflicts": [],
        "postponed": [],
        **what,
    }


async def test_changes_of_one_side_are_copied_and_deletions_carried_over(tools: RealTools, sync: Driver) -> None:
    await put(tools, "left", a=None, b={"x": 1, "y": 2}, c="1")
    await put(tools, "right", b={"y": 2, "x": 1}, d=[1.0])
    assert await run(sync) == report(equal=1, copied={"left": 1, "right": 2})
    everything = {"a": None, "b": {"x": 1, "y": 2}, "c": "1", "d": [1.0]}
    assert await contents(tools, "left") == await contents(tools, "right") == everything
    assert await run(sync) == report(equal=4)
    await put(tools, "left", a=False)
    await tools.memory("delete", "right", "c")
    await tools.memory("delete", "left", "d")
    await tools.memory("delete", "right", "d")
    assert await run(sync, "right", "left") == report(
        left="right", right="left", equal=1, copied={"left": 1, "right": 0}, deleted={"left": 0, "right": 1}
    )
    assert await contents(tools, "left") == await contents(tools, "right") == {"a": False, "b": {"x": 1, "y": 2}}
    await put(tools, "left", c="again")  # what both have forgotten is new
    assert (await run(sync))["copied"] == {"left": 0, "right": 1}


@pytest.mark.parametrize(
    ("rule", "kept", "value"), [("newer", "right", 3), ("left", "left", 2), ("right", "right", 3), ("report", None, 2)]
)
async def test_a_conflict_is_settled_by_the_rule_and_reported(
    tools: RealTools, sync: Driver, rule: str, kept: str | None, value: int
) -> None:
    await put(tools, "left", same=1, both=1)
    await run(sync)
    await put(tools, "left", same=5, both=2)
    await put(tools, "right", same=5, both=3)
    for repeated in (False, True):
        answer = await run(sync, rule=rule)
        if repeated and rule != "report":
            assert answer == report(equal=2)
            break
        assert answer["equal"] == 1
        [conflict] = answer["conflicts"]
        assert (conflict["key"], conflict["kept"]) == ("both", kept)
        assert [conflict[side]["content"] for side in SIDES] == ["2", "3"]
        assert conflict["left"]["updated"] < conflict["right"]["updated"]
    assert await contents(tools, "left") == {"same": 5, "both": value}
    assert await contents(tools, "right") == {"same": 5, "both": 3 if rule == "report" else value}


async def test_a_change_beats_a_deletion_and_equal_times_beat_nobody(tools: RealTools, sync: Driver) -> None:
    await put(tools, "left", changed=1, tied=1, gone=1)
    await run(sync)
    await put(tools, "left", changed=2)
    await tools.memory("delete", "right", "changed")
    tools.clock.advance(1)
    await tools.memory("store", "left", "tied", value=2)
    await tools.memory("store", "right", "tied", value=3)
    answer = await run(sync)
    assert [(conflict["key"], conflict["kept"]) for conflict in answer["conflicts"]] == [
        ("changed", "left"),
        ("tied", None),
    ]
    assert answer["conflicts"][0]["right"] is None
    assert await contents(tools, "right") == {"changed": 2, "tied": 3, "gone": 1}
    await tools.memory("delete", "left", "gone")
    await put(tools, "right", gone=2)
    assert (await run(sync, rule="left"))["deleted"] == {"left": 0, "right": 1}
    assert await contents(tools, "right") == {"changed": 2, "tied": 2}


async def test_a_copy_lives_as_long_as_its_original_and_an_expiry_is_no_deletion(
    tools: RealTools, sync: Driver
) -> None:
    await tools.memory("store", "left", "brief", value=1, ttl=10)
    await tools.memory("store", "left", "kept", value=1, ttl=0)
    tools.clock.advance(4)
    await run(sync)
    copies = {key: (await tools.memory("retrieve", "right", key))["expiresAt"] for key in ("brief", "kept")}
    assert copies == {"brief": (await tools.memory("retrieve", "left", "brief"))["expiresAt"], "kept": None}
    await tools.memory("touch", "left", "brief", ttl=100)
    tools.clock.advance(7)
    assert await contents(tools, "right") == {"kept": 1}
    assert await run(sync) == report(equal=1, copied={"left": 0, "right": 1})
    tools.clock.advance(100)
    assert await run(sync) == report(equal=1)
    assert await contents(tools, "left") == {"kept": 1}


async def test_what_changes_meanwhile_is_postponed_and_not_lost(tools: RealTools, sync: Driver) -> None:
    await put(tools, "left", source=1, target=1, gone=1, calm=1)
    await run(sync)
    await put(tools, "left", source=2, target=2, calm=2)
    await tools.memory("delete", "left", "gone")
    saves = count()

    async def interfere(tool: str, arguments: dict[str, Any]) -> None:
        if arguments["action"] == "store" and arguments["namespace"] == "sync" and next(saves) == 0:
            await put(tools, "left", source=3)  # both sides have been read
            await put(tools, "right", target=4, gone=4)

    tools.before = interfere
    answer = await run(sync)
    assert answer == report(copied={"left": 0, "right": 1}, postponed=["gone", "source", "target"])
    tools.before = None
    assert await contents(tools, "right") == {"source": 1, "target": 4, "gone": 4, "calm": 2}
    answer = await run(sync)
    assert [(conflict["key"], conflict["kept"]) for conflict in answer["conflicts"]] == [
        ("gone", "right"),
        ("target", "right"),
    ]
    assert (
        await contents(tools, "left")
        == await contents(tools, "right")
        == {"source": 3, "target": 4, "gone": 4, "calm": 2}
    )


async def test_a_run_that_is_cut_off_loses_nothing(tools: RealTools, sync: Driver) -> None:
    """After the copy, before it is remembered; then a side goes back to what both had at first."""
    await put(tools, "left", k="old")
    await run(sync)
    await put(tools, "left", k="new")
    saves = count()

    async def refuse(tool: str, arguments: dict[str, Any]) -> None:
        if arguments["action"] == "store" and arguments["namespace"] == "sync" and next(saves) == 1:
            await tools.memory("store", "sync", arguments["key"], value={"records": {}})  # another agent's run

    tools.before = refuse
    prompt = {"do": "bidirectional_sync", "left": "left", "right": "right"}
    assert "run it again" in await sync.refuse(prompt)
    tools.before = None
    assert await contents(tools, "right") == {"k": "new"}
    await put(tools, "right", k="old")
    [conflict] = (await run(sync))["conflicts"]
    assert [conflict[side]["content"] for side in SIDES] == ['"new"', '"old"']


async def test_what_cannot_be_synchronised_is_refused(sync: Driver) -> None:
    prompt = {"do": "bidirectional_sync", "left": "a"}
    assert await sync.refuse("make them equal") == (
        "bidirectional_sync needs 'left'; its fields are left (needed): text, right (needed): text, "
        "rule: one of newer | left | right | report, kind: one of memory | vectors"
    )
    assert "both 'a'" in await sync.refuse({**prompt, "right": "a"})
    assert "its own records" in await sync.refuse({**prompt, "right": "sync"})
    assert "one of newer | left | right | report" in await sync.refuse({**prompt, "right": "b", "rule": "older"})
    assert "conflict_resolution needs 'namespace'" in await sync.refuse(
        {"do": "conflict_resolution", "key": "k", "base": {}, "value": {}}
    )


async def test_conflicts_within_a_value_are_merged_as_the_coordinator_does(tools: RealTools, sync: Driver) -> None:
    await put(tools, "plans", plan={"a": 1, "b": 2})
    merge = {"do": "conflict_resolution", "namespace": "plans", "key": "plan", "base": {"a": 1, "b": 1}}
    merged = await sync.run({**merge, "value": {"a": 2, "b": 1}})
    assert (merged["value"], merged["conflicts"]) == ({"a": 2, "b": 2}, [])


VALUES = st.one_of(st.none(), st.integers(0, 2), st.just("0"), st.just({"n": 0}))
CHANGE = st.tuples(
    st.sampled_from(SIDES), st.sampled_from("abc"), st.one_of(st.just("delete"), VALUES.map(lambda v: [v]))
)
SYNC = st.sampled_from(("newer", "left", "right", "report"))
RUNS = count()


@given(st.lists(st.one_of(CHANGE, CHANGE, CHANGE, SYNC), max_size=25))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_any_changes_converge_and_none_is_lost_unseen(tools: RealTools, sync: Driver, steps: list[Any]) -> None:
    number = next(RUNS)
    names = {side: f"{side}-{number}" for side in SIDES}
    common: dict[str, Any] = {}
    after: list[dict[str, Any]] = []
    for step in [*steps, "newer"]:
        tools.clock.advance(1)
        if not isinstance(step, str):
            side, key, change = step
            action = {"action": "delete"} if change == "delete" else {"action": "store", "value": change[0]}
            await tools("memory_usage", {**action, "namespace": names[side], "key": key})
            continue
        before = [await contents(tools, name) for name in names.values()]
        answer = await run(sync, *names.values(), rule=step)
        after = [await contents(tools, name) for name in names.values()]
        disputed = {conflict["key"]: conflict["kept"] for conflict in answer["conflicts"]}
        assert answer["postponed"] == []
        for key in "abc":
            ours, theirs = (shown(side, key) for side in before)
            known = shown(common, key)
            assert (key in disputed) == (ours != theirs and known not in (ours, theirs))
            if key in disputed:
                winner = {"left": ours, "right": theirs, None: None}[disputed[key]]
                expected = (winner, winner) if winner is not None else (ours, theirs)
                assert (winner is None) == (step == "report")
            else:
                expected = (ours, ours) if theirs == known else (theirs, theirs)
            assert tuple(shown(side, key) for side in after) == expected
            if expected[0] == expected[1]:
                common.pop(key, None)
                if key in after[0]:
                    common[key] = after[0][key]
    assert after[0] == after[1]


def shown(side: dict[str, Any], key: str) -> str:
    """A content as text, so that 0, false and absence differ."""
    return repr(side[key]) if key in side else "absent"
