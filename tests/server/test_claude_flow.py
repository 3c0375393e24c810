"""`quarterdeck import-claude-flow`, on files that claude-flow 2.7.0's own statements have written."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.here import DeckHere
from tests.server.test_keep import listed, run

# As claude-flow 2.7.0 makes its table, but for indexes, and writes into it.
TABLE = """CREATE TABLE memory_entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value TEXT NOT NULL,
    namespace TEXT NOT NULL DEFAULT 'default', metadata TEXT,
    created_at INTEGER DEFAULT (strftime('%s', 'now')), updated_at INTEGER DEFAULT (strftime('%s', 'now')),
    accessed_at INTEGER DEFAULT (strftime('%s', 'now')), access_count INTEGER DEFAULT 0,
    ttl INTEGER, expires_at INTEGER, UNIQUE(key, namespace))"""
STORE = """INSERT INTO memory_entries (key, value, namespace, metadata, ttl, expires_at) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT(key, namespace) DO UPDATE SET value = excluded.value, ttl = excluded.ttl,
    expires_at = excluded.expires_at, updated_at = strftime('%s', 'now'), access_count = access_count + 1"""


class ClaudeFlow:
    """A project with the memory of claude-flow, which holds the file open in WAL mode as the program does."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.file = project / ".swarm" / "memory.db"
        self.file.parent.mkdir(parents=True)
        self.connection = sqlite3.connect(self.file, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(TABLE)

    def store(self, key: Any, value: Any, namespace: Any = "default", ttl: int | None = None) -> None:
        expires_at = None if ttl is None else int(time.time()) + ttl
        self.connection.execute(STORE, (key, value, namespace, '{"storedBy":"mcp-server"}', ttl, expires_at))

    def change(self, key: str, **columns: Any) -> None:
        sets = ", ".join(f"{name} = ?" for name in columns)
        self.connection.execute(f"UPDATE memory_entries SET {sets} WHERE key = ?", (*columns.values(), key))


@contextmanager
def claude_flow(tmp_path: Path) -> Generator[ClaudeFlow]:
    program = ClaudeFlow(tmp_path / "project")
    with closing(program.connection):
        yield program


async def test_entries_come_over_beside_both_programs_and_once(tmp_path: Path) -> None:
    texts = {"number": "123", "null": "null", "json": '{"a": [1,  2]}', "text": "é\u2028漢", "empty": ""}
    large = json.dumps({"é": "x" * 2000}, ensure_ascii=False)
    with claude_flow(tmp_path) as old:
        for key, text in texts.items():
            old.store(key, text)
        old.change("json", created_at=1_700_000_000, updated_at=1_700_000_100)
        old.store("k", "elsewhere", namespace="swarm/a b", ttl=3600)
        old.store("large", "__compressed__" + base64.b64encode(large.encode()).decode())
        old.store("over", "x", ttl=-5)
        before = old.connection.execute("SELECT * FROM memory_entries").fetchall()
        async with DeckHere(tmp_path / "deck") as deck:
            code, out, told = await run(tmp_path / "deck", "import-claude-flow", old.project, "--dry-run")
            assert (code, out) == (0, "")
            assert told == "7 entries would be taken over, 0 unchanged (as new here), 1 expired, 0 skipped\n"
            assert await listed(deck) == []
            code, _, told = await run(tmp_path / "deck", "import-claude-flow", old.project)
            assert (code, told) == (0, "7 entries taken over, 0 unchanged (as new here), 1 expired, 0 skipped\n")
            entries = {entry["key"]: entry for entry in await listed(deck)}
            assert {key: entry["value"] for key, entry in entries.items()} == {**texts, "large": large}
            assert {entry["expiresAt"] for entry in entries.values()} == {None}
            assert entries["json"]["createdAt"] == "2023-11-14T22:13:20.000Z"
            assert entries["json"]["updatedAt"] == "2023-11-14T22:15:00.000Z"
            [other] = await listed(deck, "swarm/a b")
            [(expires_at,)] = old.connection.execute("SELECT expires_at FROM memory_entries WHERE key = 'k'")
            assert other["value"] == "elsewhere"
            shown = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(expires_at))
            assert other["expiresAt"] == shown
            for arguments in (["--dry-run"], []):
                code, _, told = await run(tmp_path / "deck", "import-claude-flow", old.file, *arguments)
                assert code == 0
                assert told.startswith("0 entries ")
                assert ", 7 unchanged (as new here), 1 expired, 0 skipped" in told
            assert {entry["key"]: entry for entry in await listed(deck)} == entries
        assert old.connection.execute("SELECT * FROM memory_entries").fetchall() == before


async def test_what_is_newer_here_stays_and_what_is_newer_there_comes(tmp_path: Path) -> None:
    with claude_flow(tmp_path) as old:
        old.store("ours", "old")
        old.store("theirs", "old")
        old.change("ours", updated_at=int(time.time()) - 60)
        async with DeckHere(tmp_path / "deck") as deck:
            for key in ("ours", "theirs"):
                await deck.call("memory_usage", action="store", key=key, value="here")
            old.change("theirs", value="there", updated_at=int(time.time()) + 60)
            told = [
                (await run(tmp_path / "deck", "import-claude-flow", old.project, *dry))[2]
                for dry in (["--dry-run"], [])
            ]
            assert [line.split(" (")[0].replace("would be ", "") for line in told] == [
                "1 entries taken over, 1 unchanged"
            ] * 2
            assert {entry["key"]: entry["value"] for entry in await listed(deck)} == {"ours": "here", "theirs": "there"}


async def test_damaged_rows_are_named_and_skipped(tmp_path: Path) -> None:
    with claude_flow(tmp_path) as old:
        for number in range(150):
            old.store(f"good {number:03}", "kept")
        old.store("blob", b"\x00\x01")
        old.store("large", "x" * (1 << 20))
        old.store("late", "x")
        old.change("late", updated_at="yesterday")
        old.store("a\nb", "x")
        old.store("unnamed", "x", namespace="")
        old.connection.execute("UPDATE memory_entries SET value = CAST(x'ff41' AS TEXT) WHERE key = 'good 120'")
        code, _, told = await run(tmp_path / "deck", "import-claude-flow", old.project)
        *skipped, total = told.splitlines()
        assert code == 1
        assert total == "149 entries taken over, 0 unchanged (as new here), 0 expired, 6 skipped"
        reasons = dict(line.removeprefix("skipped ").split(": ", 1) for line in skipped)
        assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
            "'good 120' in namespace 'default'": "value",
            "'blob' in namespace 'default'": "value",
            "'large' in namespace 'default'": "value",
            "'late' in namespace 'default'": "updated_at",
            r"'a\nb' in namespace 'default'": "key",
            "'unnamed' in namespace ''": "namespace",
        }
        _, exported, _ = await run(tmp_path / "deck", "memory", "export")
        assert len(exported.splitlines()) == 149


async def test_a_file_that_breaks_off_gives_what_comes_before(tmp_path: Path) -> None:
    with claude_flow(tmp_path) as old:
        for number in range(600):
            old.store(f"{number:03}", "x" * 200)
        old.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(old.file.read_bytes())
    [(root,)] = sqlite3.connect(old.file).execute("SELECT rootpage FROM sqlite_schema WHERE name = 'memory_entries'")
    page = int.from_bytes(data[16:18], "big")
    # The root's last pointer leads to the last rows: let it lead nowhere.
    data[(root - 1) * page + 8 : (root - 1) * page + 12] = (1 << 30).to_bytes(4, "big")
    old.file.write_bytes(data)
    code, _, told = await run(tmp_path / "deck", "import-claude-flow", old.file)
    assert code == 2
    assert "malformed" in told
    _, exported, _ = await run(tmp_path / "deck", "memory", "export")
    kept = [json.loads(line)["key"] for line in exported.splitlines()]
    assert len(kept) > 500
    assert f"; {len(kept)} entries before that are taken over" in told


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (None, "no file "),
        (
            b"this is no database" * 100,
            "is no SQLite database: give the memory.db of claude-flow, or the",
        ),
        (b"", "has no table memory_entries, as memory of claude-flow 2.7 has (tables: none)"),
    ],
)
async def test_another_file_is_refused(tmp_path: Path, contents: bytes | None, told: str) -> None:
    if contents is not None:
        (tmp_path / ".swarm").mkdir()
        (tmp_path / ".swarm" / "memory.db").write_bytes(contents)
    code, _, error = await run(tmp_path / "deck", "import-claude-flow", tmp_path)
    assert code == 2
    assert error.startswith("quarterdeck: ")
    assert told in error
    assert len(error.splitlines()) == 1


async def test_the_calls_of_claude_flow_do_what_the_readme_says_of_them(tmp_path: Path) -> None:
    async with DeckHere(tmp_path / "deck", era="legacy") as deck:

        async def refused(tool: str, **arguments: Any) -> str:
            result = await deck.client.call_tool(tool, arguments)
            assert result.is_error
            return "".join(getattr(part, "text", "") for part in result.content)

        for number in range(120):
            await deck.call("memory_usage", action="store", key=f"{number:03}", value="100% of it")
        listing = await deck.call("memory_usage", action="list", limit=100)
        assert (listing["count"], listing["nextCursor"] is None) == (100, False)
        week = listing["entries"][0]["expiresAt"]
        assert week is not None
        for text in ("123", "null"):
            await deck.call("memory_usage", action="store", namespace="n", key=text, value=text)
            found = await deck.call("memory_usage", action="retrieve", namespace="n", key=text)
            assert (found["found"], found["value"]) == (True, text)
        assert (await deck.call("memory_usage", action="search", value="10", namespace="default"))["count"] == 50
        assert "letter or digit" in await refused("memory_usage", action="search", value="%")
        assert "value" in await refused("memory_usage", action="store", key="k")
        assert "action" in await refused("memory_usage", action="nonsense")
        assert "unknown tool" in await refused("swarm_init")
        assert "no-such-query" in await refused("query_control", action="pause", queryId="no-such-query")
        spawned = await deck.client.call_tool("agents_spawn_parallel", {"agents": [{"type": "sage", "name": "a"}]})
        assert spawned.structured_content is not None
        assert spawned.structured_content["results"][0]["status"] == "failed"
        agent = {"type": "researcher", "name": "a", "priority": "medium"}
        done = await deck.call("agents_spawn_parallel", agents=[agent], maxConcurrency=5, batchSize=3)
        assert done["agentsSpawned"] == 1
        assert (await deck.call("query_list", includeHistory=False))["queries"] == []
