"""The SDKs' own clients over stdio, in both protocol eras."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quarterdeck.server.client import Era

from . import story
from .npm import NODE, run

NEWEST = "2026-07-28"
HANDSHAKE = "2025-11-25"


@pytest.mark.parametrize(("era", "protocol"), [("auto", NEWEST), ("legacy", HANDSHAKE)])
async def test_pythons_client(era: Era, protocol: str, tmp_path: Path) -> None:
    story.check(await story.tell(era, tmp_path / "deck"), protocol)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "mode", "protocol"),
    [
        ("@modelcontextprotocol/sdk", "legacy", HANDSHAKE),
        ("@modelcontextprotocol/client", "auto", NEWEST),
        ("@modelcontextprotocol/client", "legacy", HANDSHAKE),
    ],
    ids=["first", "auto", "legacy"],
)
async def test_typescripts_client(package: str, mode: str, protocol: str, tmp_path: Path) -> None:
    server = {"command": story.SERVER[0], "args": story.SERVER[1:], "env": story.environment(tmp_path / "deck")}
    ended = await run(NODE, "story.mjs", json.dumps({"package": package, "mode": mode, **server}))
    assert ended.code == 0, ended.err
    story.check(json.loads(ended.out), protocol)
