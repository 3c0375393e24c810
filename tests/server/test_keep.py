"""`quarterdeck memory export|import` and `backup|restore` beside real servers."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from tests.here import DeckHere
from tests.server.command import run_here
from tests.servers.postgres import PostgresServer
from tests.until import until


async def run(
    data_dir: Path, *arguments: str | Path, given: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command, beside the servers of the test."""
    return await asyncio.to_thread(run_here, *arguments, data_dir=data_dir, given=given, environment=environment)


async def run_process(data_dir: Path, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    """The same of a command that is a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quarterdeck.server", *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE,
        env={**os.environ, "QUARTERDECK_DATA_DIR": str(data_dir)},
    )  # fmt: skip
    out, err = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def listed(deck: DeckClient, namespace: str = "default") -> list[dict[str, Any]]:
    """All entries of a namespace, without what differs between two decks."""
    entries = (await deck.call("memory_usage", action="list", namespace=namespace, limit=500))["entries"]
    assert len(entries) < 500
    return entries


async def test_memory_moves_to_another_deck_with_versions_and_times(tmp_path: Path) -> None:
    async with DeckClient(tmp_path / "a") as a, DeckClient(tmp_path / "b") as b:
        for value in ("first", {"é": [1, None, "\u2028"]}):
            await a.call("memory_usage", action="store", key="k/1", value=value, ttl=3600)
        await a.call("memory_usage", action="store", key="null", value="null", ttl=0)
        await a.call("memory_usage", action="store", namespace="other", key="k", value=None)
        await a.call("memory_usage", action="store", key="gone", value=1)
        await a.call("memory_usage", action="delete", key="gone")

        code, exported, told = await run_process(tmp_path / "a", "memory", "export")
        assert (code, told) == (0, "3 entries exported\n")
        lines = [json.loads(line) for line in exported.split("\n")[:-1]]
        assert [(line["namespace"], line["key"], line["version"]) for line in lines] == [
            ("default", "k/1", 2),
            ("default", "null", 1),
            ("other", "k", 1),
        ]
        assert lines[1]["expiresAt"] is None

        code, _, told = await run_process(tmp_path / "b", "memory", "import", given=exported.encode())
        assert (code, told) == (0, "3 entries imported, 0 unchanged (as new here, or expired)\n")
        assert await listed(b) == await listed(a)
        assert await listed(b, "other") == await listed(a, "other")
        found = await b.call("memory_usage", action="search", query="first")
        assert found["count"] == 0  # what was replaced is not exported

        code, _, told = await run(tmp_path / "b", "memory", "import", given=exported.encode())
        assert (code, told) == (0, "0 entries imported, 3 unchanged (as new here, or expired)\n")
        assert await listed(b) == await listed(a)


async def test_what_is_newer_here_survives_an_import(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    async with DeckHere(tmp_path / "a") as deck:
        await deck.call("memory_usage", action="store", key="changed", value="old")
        await deck.call("memory_usage", action="store", key="deleted", value="old")
        assert (await run(tmp_path / "a", "memory", "export", file))[0] == 0
        assert file.stat().st_mode & 0o777 == 0o600
        await deck.call("memory_usage", action="store", key="changed", value="new")
        await deck.call("memory_usage", action="delete", key="deleted")
        _, _, told = await run(tmp_path / "a", "memory", "import", file)
        assert told.startswith("1 entries imported, 1 unchanged")
        values = {entry["key"]: entry["value"] for entry in await listed(deck)}
        assert values == {"changed": "new", "deleted": "old"}


async def test_one_namespace_goes_to_a_memory_server(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url = {"QUARTERDECK_MEMORY_URL": await postgres_server.new_database()}
    async with DeckHere(tmp_path / "a") as a:
        for number in range(150):
            await a.call("memory_usage", action="store", namespace="n", key=f"{number:03}", value=number)
        await a.call("memory_usage", action="store", key="not this", value=1)
        _, exported, _ = await run(tmp_path / "a", "memory", "export", "--namespace", "n")
        _, _, told = await run(tmp_path / "b", "memory", "import", given=exported.encode(), environment=url)
        assert told.startswith("150 entries imported")
        async with DeckHere(tmp_path / "b", environment=url) as b:
            assert await listed(b, "n") == await listed(a, "n")
            assert await listed(b) == []


GOOD = (
    b'{"namespace":"n","key":"%d","value":1,"version":1,"expiresAt":null,'
    b'"createdAt":"2026-01-01T00:00:00Z","updatedAt":"2026-01-01T00:00:00Z"}\n'
)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"no json", "line 3: not a JSON object"),
        (b"\xff\xfe", "line 3: not a JSON object"),
        (b"[1]", "line 3: entry: "),
        (b"[" * 100_000, "line 3: not a JSON object"),
        (GOOD.replace(b'"version":1', b'"version":0'), "line 3: entry: version"),
        (GOOD.replace(b'"version":1', b'"version":true'), "line 3: entry: version"),
        (GOOD.replace(b'"value":1', b'"value":NaN'), "line 3: value"),
        (GOOD.replace(b'"value":1', b'"worth":1'), "unknown argument 'worth'"),
        (GOOD.replace(b'"key":"%d"', b'"key":""'), "line 3: key: must be 1 to 512"),
        (GOOD.replace(b"2026-01-01T00:00:00Z", b"yesterday"), "line 3: entry: createdAt"),
        (GOOD.replace(b"2026-01-01T00:00:00Z", b"0001-01-01T00:00:00+14:00"), "line 3: "),
        (
            GOOD.replace(b"null", b'"9999-12-31T23:59:59Z"'),
            "line 3: createdAt, updatedAt, expiresAt: must be from 1970",
        ),
        (GOOD.replace(b"null", b'"2026-01-01T00:00:00Z"'), "line 3: expiresAt: must be after updatedAt"),
        (GOOD.replace(b'"version":1', b'"version":9007199254740992'), "line 3: version: must be 1 to 9007199"),
        (GOOD.replace(b'"version":1', b'"version":99999999999999999999'), "line 3: "),
    ],
)
async def test_a_bad_line_is_named_and_the_lines_before_it_are_kept(tmp_path: Path, line: bytes, told: str) -> None:
    lines = GOOD % 1 + b"\n" + line + b"\n" + GOOD % 2
    code, _, error = await run(tmp_path, "memory", "import", given=lines)
    assert code == 2
    assert error.startswith("quarterdeck: ")
    assert told in error
    assert "Traceback" not in error
    code, exported, _ = await run(tmp_path, "memory", "export")
    assert [json.loads(kept)["key"] for kept in exported.splitlines()] == ["1"]


async def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    code, _, told = await run(tmp_path / "a", "memory", "export", tmp_path / "no" / "file")
    assert code == 2
    assert told == f"quarterdeck: cannot write {tmp_path}/no/file: No such file or directory\n"


async def test_a_backup_beside_writers_is_of_one_moment(tmp_path: Path) -> None:
    acknowledged = 0

    async def write(deck: DeckClient) -> None:
        nonlocal acknowledged
        for number in range(100_000):
            await deck.call("memory_usage", action="store", key=f"{number:06}", value="v" * 2_000)
            acknowledged = number

    async with DeckClient(tmp_path / "a") as deck:
        await deck.call("upload", files=[{"name": "file.txt", "content": "some text"}])
        await deck.call("vector_upsert", collection="c", points=[{"id": "p", "vector": [1.0, 2.0]}])
        writer = asyncio.create_task(write(deck))
        await until(lambda: acknowledged > 300)
        before = acknowledged
        code, _, told = await run(tmp_path / "a", "backup", tmp_path / "copy")
        after = acknowledged
        writer.cancel()
        assert code == 0, told
        assert "backed up to" in told
        await asyncio.gather(writer, return_exceptions=True)

    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "copy").rglob("*")} == {0}
    code, _, told = await run(tmp_path / "b", "restore", tmp_path / "copy")
    assert code == 0, told
    assert "what was there" not in told
    with sqlite3.connect(tmp_path / "b" / "memory.db") as connection:
        rows = connection.execute("SELECT key FROM entries WHERE namespace = 'default' ORDER BY key").fetchall()
    connection.close()
    assert before < len(rows) <= after + 2
    assert rows == [(f"{number:06}",) for number in range(len(rows))]  # no later write without the earlier ones
    async with DeckClient(tmp_path / "b") as restored:
        found = await restored.call("vector_search", collection="c", vector=[1.0, 2.0])
        assert [hit["id"] for hit in found["results"][0]] == ["p"]
        [upload] = (await restored.call("uploads", action="list"))["uploads"]
        assert (await restored.call("uploads", action="read", key=upload["key"]))["content"] == "some text"


async def test_a_restore_moves_aside_what_was_there(tmp_path: Path) -> None:
    memory = {"QUARTERDECK_MEMORY_URL": f"sqlite://{tmp_path}/elsewhere.db"}
    async with DeckHere(tmp_path / "a", environment=memory) as deck:
        await deck.call("memory_usage", action="store", key="k", value="backed up")
        await deck.call("upload", files=[{"name": "first.txt", "content": "1"}])
    assert (await run(tmp_path / "a", "backup", tmp_path / "copy", environment=memory))[0] == 0
    async with DeckHere(tmp_path / "a", environment=memory) as deck:
        await deck.call("memory_usage", action="store", key="k", value="later")
        await deck.call("upload", files=[{"name": "second.txt", "content": "2"}])
        code, _, told = await run(tmp_path / "a", "restore", tmp_path / "copy", environment=memory)
        assert code == 2
        assert "is in use: close the clients" in told
        assert (await deck.call("memory_usage", action="retrieve", key="k"))["value"] == "later"
    code, _, told = await run(tmp_path / "a", "restore", tmp_path / "copy", environment=memory)
    assert code == 0, told
    [aside] = (tmp_path / "a").glob("replaced-*")
    assert told.endswith(f"; what was there is in {aside}\n")
    async with DeckHere(tmp_path / "a", environment=memory) as deck:
        assert (await deck.call("memory_usage", action="retrieve", key="k"))["value"] == "backed up"
        assert len((await deck.call("uploads", action="list"))["uploads"]) == 1
    with sqlite3.connect(aside / "memory.db") as connection:
        assert connection.execute("SELECT value FROM entries WHERE key = 'k'").fetchall() == [('"later"',)]
    connection.close()
    assert len(list((aside / "objects").glob("uploads*"))) == 2


async def test_a_damaged_backup_restores_nothing(tmp_path: Path) -> None:
    async with DeckHere(tmp_path / "a") as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
        assert (await run(tmp_path / "a", "backup", tmp_path / "copy"))[0] == 0
        assert "exists" in (await run(tmp_path / "a", "backup", tmp_path / "copy"))[2]
        assert "inside of the data directory" in (await run(tmp_path / "a", "backup", tmp_path / "a" / "x"))[2]
    with (tmp_path / "copy" / "memory.db").open("r+b") as file:
        file.seek(5_000)
        file.write(b"x")
    code, _, told = await run(tmp_path / "a", "restore", tmp_path / "copy")
    assert code == 2
    assert "is damaged: memory.db is not as it was backed up; nothing was restored" in told
    assert "is no backup: manifest.json" in (await run(tmp_path / "a", "restore", tmp_path))[2]
    manifest = tmp_path / "copy" / "manifest.json"
    about = json.loads(manifest.read_text())
    odd: list[Any] = [{}, {"memory.db": 5}, {"memory.db": {}}, None]
    for files in odd:
        manifest.write_text(json.dumps({**about, "files": files}))
        assert "is no backup: manifest.json: " in (await run(tmp_path / "a", "restore", tmp_path / "copy"))[2]
    manifest.write_text(json.dumps({**about, "files": {"../a/memory.db": {"bytes": 1, "sha256": ""}}}))
    assert "is not inside of it" in (await run(tmp_path / "a", "restore", tmp_path / "copy"))[2]
    async with DeckHere(tmp_path / "a") as deck:
        assert (await deck.call("memory_usage", action="retrieve", key="k"))["value"] == "kept"


async def test_a_backup_says_that_memory_is_elsewhere(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url = {"QUARTERDECK_MEMORY_URL": await postgres_server.new_database()}
    async with DeckHere(tmp_path / "a", environment=url) as deck:
        await deck.call("upload", files=[{"name": "f", "content": "x"}])
        code, _, told = await run(tmp_path / "a", "backup", tmp_path / "copy", environment=url)
    assert code == 0
    assert "memory is not in it: postgresql://" in told
    assert not (tmp_path / "copy" / "memory.db").exists()


async def test_a_namespace_keeps_its_limits_and_says_so(tmp_path: Path) -> None:
    limits = {
        "QUARTERDECK_MEMORY_MAX_NAMESPACE_ENTRIES": "3",
        "QUARTERDECK_MEMORY_MAX_NAMESPACE_BYTES": "100",
        "QUARTERDECK_MEMORY_MAX_VALUE_BYTES": "60",
    }
    async with DeckClient(tmp_path, environment=limits) as deck, DeckClient(tmp_path, environment=limits) as other:

        async def store(by: DeckClient, key: str, value: str, **more: Any) -> str:
            try:
                await by.call("memory_usage", action="store", key=key, value=value, **more)
            except ToolRefusedError as exc:
                return f"{exc.answer['code']}: {exc.answer['error']}"
            return "stored"

        assert "limit: value: 61 bytes of JSON, at most 60 (QUARTERDECK_MEMORY_MAX_VALUE_BYTES)" in await store(
            deck, "k", "x" * 59
        )
        outcomes = await asyncio.gather(*(store(deck, f"{number}", "x") for number in range(8)))
        assert outcomes.count("stored") == 3
        assert "limit: namespace 'default' holds 3 entries, 1 more would pass its limit of 3" in next(
            o for o in outcomes if o != "stored"
        )
        assert "holds 3 entries" in await store(other, "more", "x")
        assert await store(other, "more", "x", namespace="another") == "stored"
        kept = [entry["key"] for entry in await listed(deck)]
        assert await store(other, kept[0], "x" * 50) == "stored"
        assert "holds 58 bytes, 47 more would pass its limit of 100" in await store(deck, kept[1], "x" * 48)
        await deck.call("memory_usage", action="delete", key=kept[0])
        assert await store(deck, kept[1], "x" * 48) == "stored"
        assert await store(deck, "new", "y") == "stored"
        with pytest.raises(ToolRefusedError, match="holds 3 entries"):
            await deck.call("memory_usage", action="restore", key=kept[0])


async def test_an_export_goes_through_links_and_pipes_and_ends_with_its_reader(tmp_path: Path) -> None:
    async with DeckHere(tmp_path / "a") as deck:
        for number in range(300):
            await deck.call("memory_usage", action="store", key=f"{number}", value="v" * 1_000)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert (await run(tmp_path / "a", "memory", "export", tmp_path / "link"))[0] == 0
    assert (tmp_path / "link").is_symlink()
    whole = (tmp_path / "real").read_text()
    assert len(whole.splitlines()) == 300

    os.mkfifo(tmp_path / "pipe")
    reader = asyncio.to_thread((tmp_path / "pipe").read_text)
    read, (code, _, _) = await asyncio.gather(reader, run(tmp_path / "a", "memory", "export", tmp_path / "pipe"))
    assert (code, read) == (0, whole)

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quarterdeck.server", "memory", "export", stdout=PIPE, stderr=PIPE,
        env={**os.environ, "QUARTERDECK_DATA_DIR": str(tmp_path / "a")},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # pyright: ignore
    assert await process.stderr.read() == b"quarterdeck: cannot write stdout: Broken pipe\n"
    assert await process.wait() == 2


async def test_memory_under_any_name_is_backed_up(tmp_path: Path) -> None:
    memory = {"QUARTERDECK_MEMORY_URL": f"sqlite://{tmp_path}/a/mem.sqlite3"}
    async with DeckHere(tmp_path / "a", environment=memory) as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
        assert (await run(tmp_path / "a", "backup", tmp_path / "copy", environment=memory))[0] == 0
    assert sorted(path.name for path in (tmp_path / "copy").glob("m*")) == ["manifest.json", "memory.db"]
    assert (await run(tmp_path / "b", "restore", tmp_path / "copy"))[0] == 0
    async with DeckHere(tmp_path / "b") as deck:
        assert (await deck.call("memory_usage", action="retrieve", key="k"))["value"] == "kept"
    code, _, told = await run(tmp_path / "typo", "backup", tmp_path / "copy2")
    assert code == 2
    assert "there is no data directory" in told


async def test_a_restore_that_cannot_be_done_leaves_all_as_it_was(tmp_path: Path) -> None:
    async with DeckHere(tmp_path / "a") as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
        assert (await run(tmp_path / "a", "backup", tmp_path / "copy"))[0] == 0
    missing = {"QUARTERDECK_MEMORY_URL": f"sqlite://{tmp_path}/missing/mem.db"}
    code, _, told = await run(tmp_path / "a", "restore", tmp_path / "copy", environment=missing)
    assert code == 2
    assert "there is no folder" in told
    async with DeckHere(tmp_path / "a") as deck:
        assert (await deck.call("memory_usage", action="retrieve", key="k"))["value"] == "kept"
    assert [path.name for path in (tmp_path / "a").iterdir() if "re" in path.name] == []


async def test_a_restore_that_was_cut_off_is_told_and_done_again(tmp_path: Path) -> None:
    async with DeckHere(tmp_path / "a") as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
        assert (await run(tmp_path / "a", "backup", tmp_path / "copy"))[0] == 0
    (tmp_path / "a" / "memory.db").unlink()
    (tmp_path / "a" / ".restoring").write_text("replaced-before")  # as a kill in the midst of the moves leaves it
    code, _, told = await run(tmp_path / "a", "memory", "export")
    assert code == 2
    assert "run `quarterdeck restore` again; what was there is in replaced-before" in told
    assert (await run(tmp_path / "a", "restore", tmp_path / "copy"))[0] == 0
    assert "1 entries exported" in (await run(tmp_path / "a", "memory", "export"))[2]


async def test_a_memory_file_that_two_directories_share_is_locked_for_both(tmp_path: Path) -> None:
    memory = {"QUARTERDECK_MEMORY_URL": f"sqlite://{tmp_path}/mem.db"}
    async with DeckHere(tmp_path / "a", environment=memory) as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
        assert (await run(tmp_path / "a", "backup", tmp_path / "copy", environment=memory))[0] == 0
        code, _, told = await run(tmp_path / "b", "restore", tmp_path / "copy", environment=memory)
        assert code == 2
        assert f"{tmp_path} is in use" in told


async def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "notes.db") as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    url = {"QUARTERDECK_MEMORY_URL": f"sqlite://{tmp_path}/notes.db"}
    code, _, told = await run(tmp_path / "a", "memory", "export", environment=url)
    assert code == 2
    assert told == f"quarterdeck: {tmp_path}/notes.db is a database of another program: name another file\n"
