"""Bringing agents of dead servers back: only with what the configuration allows now, and again after a failure."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.storage.errors import ConflictError, DeniedError, InvalidArgumentError
from quarterdeck.storage.runs.base import Agent, Query
from quarterdeck.tools.queries.controls import Options
from tests.tools.fakes import DEAD, WORKER, Bridge


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncGenerator[Bridge]:
    bridge = Bridge(tmp_path, kind=replace(WORKER, cwd=tmp_path / "work"))
    (tmp_path / "work" / "sub").mkdir(parents=True)
    yield bridge
    await bridge.close()


async def left_behind(bridge: Bridge, folder: Path, *, mode: str = "default", **options: Any) -> None:
    """An agent with a session, and its query, of a server that is gone."""
    row: dict[str, Any] = {"permission_mode": "default", "cwd": str(folder), "status": "interrupted", **options}
    await bridge.runs.put_agent(Agent("a", "worker", "w0", "process", DEAD, 1, session="s", **row))
    query = Query("q", "a", "worker", "work", DEAD, 1, status="interrupted", started_at=1, ended_at=2)
    query.permission_mode = mode
    assert await bridge.runs.add_query(query)


async def resume(bridge: Bridge) -> Any:
    return await bridge.desk.control("q", "resume", actor="client", options=Options())


async def test_a_revival_that_failed_can_be_tried_again(bridge: Bridge, tmp_path: Path) -> None:
    await left_behind(bridge, tmp_path / "work")
    bridge.runner.failures = 1
    with pytest.raises(ConflictError, match="could not be brought back: did not get ready; resume it once"):
        await resume(bridge)
    row = await bridge.runs.get_agent("a")
    assert row is not None
    assert (row.status, row.error) == ("interrupted", "did not get ready")
    assert (await resume(bridge))["status"] == "queued"
    live = bridge.orchestrator.agents.get("a")
    assert live is not None
    assert live.row.error is None


@pytest.mark.parametrize("whose", ["agent", "query"])
async def test_rights_that_the_configuration_gives_no_more_do_not_come_back(
    bridge: Bridge, tmp_path: Path, whose: str
) -> None:
    wide = "bypassPermissions"
    if whose == "agent":
        await left_behind(bridge, tmp_path / "work", permission_mode=wide)
    else:
        await left_behind(bridge, tmp_path / "work", mode=wide)
    with pytest.raises(DeniedError, match="widest_mode"):
        await resume(bridge)
    assert not bridge.runner.order


async def test_a_folder_that_has_become_a_way_out_is_not_worked_in(bridge: Bridge, tmp_path: Path) -> None:
    sub = tmp_path / "work" / "sub"
    await left_behind(bridge, sub)
    sub.rmdir()
    sub.symlink_to("/")
    with pytest.raises(InvalidArgumentError, match="no folder below"):
        await resume(bridge)
    assert not bridge.runner.order
