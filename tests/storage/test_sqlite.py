"""Group commit, several processes on one file, and what happens when SQLite refuses."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from quarterdeck.storage import sqlite
from quarterdeck.storage.errors import InvalidArgumentError, StorageError
from quarterdeck.storage.sqlite import Database, open_database

MIGRATIONS = (
    """
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT UNIQUE);  -- a comment; with a semicolon
    CREATE TABLE parts (item INTEGER REFERENCES items DEFERRABLE INITIALLY DEFERRED);
    """,
    "INSERT INTO items (name) VALUES ('migrated; once');\n",
)

HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("COMMIT")
"""

COUNT_UP = """
import asyncio, sys
from pathlib import Path
from quarterdeck.storage.sqlite import Database

def count_up(connection):
    [(count,)] = connection.execute("SELECT count(*) FROM items").fetchall()
    connection.execute("INSERT INTO items (name) VALUES (?)", (f"number {count}",))

async def main():
    db = Database(Path(sys.argv[1]), ["CREATE TABLE items (name TEXT);"])
    print("ready", flush=True)
    sys.stdin.read()
    for _ in range(20):
        await asyncio.gather(*(db.write(count_up) for _ in range(5)))
    await db.close()

asyncio.run(main())
"""

MIGRATE = """
import sys
from pathlib import Path
from quarterdeck.storage.sqlite import open_database
print("ready", flush=True)
sys.stdin.read()
open_database(Path(sys.argv[1]), ["CREATE TABLE t (x);", "INSERT INTO t VALUES (1);\\n" * 50]).close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deck.db"


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    opened = Database(path, MIGRATIONS)
    yield opened
    await opened.close()


def insert(name: str) -> Callable[[sqlite3.Connection], int | None]:
    return lambda connection: connection.execute("INSERT INTO items (name) VALUES (?)", (name,)).lastrowid


def names(db: Database) -> list[str]:
    return [row[0] for row in db.read("SELECT name FROM items WHERE id > 1 ORDER BY id")]


async def start(script: str, path: Path) -> Process:
    """Another process, once it has said that it is there."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, path, stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline()
    return process


async def finish(*processes: Process) -> None:
    """Let them go on, and end."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [await process.wait() for process in processes] == [0] * len(processes)


async def test_changes_of_one_turn_share_a_commit(db: Database, path: Path) -> None:
    beside = sqlite3.connect(path)
    seen: list[int] = []

    def change(connection: sqlite3.Connection) -> int | None:
        seen.append(beside.execute("SELECT count(*) FROM items").fetchone()[0])
        return insert(f"item {len(seen)}")(connection)

    rows = await asyncio.gather(*(db.write(change) for _ in range(20)))
    assert seen == [1] * 20  # nothing was committed before the last change
    assert rows == list(range(2, 22))
    assert beside.execute("SELECT count(*) FROM items").fetchone()[0] == 21
    beside.close()


async def test_a_change_that_raises_is_undone_alone(db: Database) -> None:
    def change(connection: sqlite3.Connection) -> None:
        insert("half done")(connection)
        raise InvalidArgumentError("no")

    first, refused, last = await asyncio.gather(
        db.write(insert("first")), db.write(change), db.write(insert("last")), return_exceptions=True
    )
    assert isinstance(refused, InvalidArgumentError)
    assert (first, last) == (2, 3)
    assert names(db) == ["first", "last"]


async def test_a_failed_commit_fails_every_caller_and_keeps_nothing(db: Database) -> None:
    def dangling(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO parts VALUES (999)")  # checked by COMMIT only

    outcomes = await asyncio.gather(db.write(insert("a")), db.write(dangling), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageError, StorageError]
    assert "nothing of this call was kept" in str(outcomes[0])
    assert names(db) == []
    await db.write(insert("b"))
    assert names(db) == ["b"]


async def test_an_error_of_the_database_fails_the_transaction(db: Database) -> None:
    outcomes = await asyncio.gather(db.write(insert("a")), db.write(insert("a")), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageError, StorageError]
    assert names(db) == []


async def test_a_cancelled_caller_does_not_disturb_the_others(db: Database) -> None:
    cancelled = asyncio.ensure_future(db.write(insert("a")))
    other = asyncio.ensure_future(db.write(insert("b")))
    await asyncio.sleep(0)  # both are queued
    cancelled.cancel()
    assert await other == 3
    assert names(db) == ["a", "b"]


async def test_close_commits_what_is_queued(path: Path) -> None:
    db = Database(path, MIGRATIONS)
    write = asyncio.ensure_future(db.write(insert("a")))
    await asyncio.sleep(0)
    await db.close()
    assert await write == 2
    again = Database(path, MIGRATIONS)
    assert names(again) == ["a"]
    await again.close()


async def test_another_process_with_the_write_lock_does_not_stop_the_loop(db: Database, path: Path) -> None:
    holder = await start(HOLD_LOCK, path)
    write = asyncio.ensure_future(db.write(insert("a")))
    for _ in range(10):  # the loop turns, and reads go on
        await asyncio.sleep(0.002)
        assert names(db) == []
        assert not write.done()
    assert await db.scan("SELECT count(*) FROM items") == [(1,)]
    await finish(holder)
    assert await write == 2


async def test_a_lock_that_lasts_too_long_is_an_error(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT", 0.01)
    holder = await start(HOLD_LOCK, path)
    with pytest.raises(StorageError, match="locked"):
        await db.write(insert("a"))
    await finish(holder)
    assert await db.write(insert("b")) == 2


async def test_two_processes_lose_no_write(path: Path) -> None:
    await finish(*[await start(COUNT_UP, path) for _ in range(2)])
    with sqlite3.connect(path) as connection:
        found = {row[0] for row in connection.execute("SELECT name FROM items")}
    connection.close()
    assert found == {f"number {number}" for number in range(200)}


async def test_processes_that_start_together_migrate_once(path: Path) -> None:
    await finish(*[await start(MIGRATE, path) for _ in range(3)])
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_an_older_schema_is_migrated_in_place(path: Path) -> None:
    connection = open_database(path, MIGRATIONS[:1])
    connection.execute("INSERT INTO items (name) VALUES ('old')")
    connection.close()
    connection = open_database(path, MIGRATIONS)
    found = connection.execute("SELECT name FROM items ORDER BY id").fetchall()
    connection.close()
    assert found == [("old",), ("migrated; once",)]


def test_a_migration_that_fails_leaves_the_old_schema(path: Path) -> None:
    open_database(path, MIGRATIONS[:1]).close()
    with pytest.raises(StorageError, match="cannot use"):
        open_database(path, [MIGRATIONS[0], "CREATE TABLE more (x);\nSELECT nonsense;\n"])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
    connection.close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    open_database(path, MIGRATIONS).close()
    with pytest.raises(StorageError, match="schema 2, this program knows up to 1: upgrade"):
        open_database(path, MIGRATIONS[:1])


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(StorageError, match=str(path)):
        open_database(path, MIGRATIONS)
    with pytest.raises(StorageError, match="cannot open"):
        open_database(path / "below a file", MIGRATIONS)


async def test_only_the_owner_can_read_the_files(db: Database, path: Path) -> None:
    await db.write(insert("a"))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"deck.db": 0o600, "deck.db-wal": 0o600, "deck.db-shm": 0o600}


async def test_errors_of_reads_are_storage_errors(db: Database) -> None:
    with pytest.raises(StorageError, match="no such table"):
        db.read("SELECT * FROM nowhere")
    with pytest.raises(StorageError, match="no such table"):
        await db.scan("SELECT * FROM nowhere")


@pytest.mark.parametrize(("durability", "synchronous", "full"), [("process", 1, 0), ("power", 2, 1)])
async def test_durability_decides_what_a_commit_waits_for(
    path: Path, durability: sqlite.Durability, synchronous: int, full: int
) -> None:
    db = Database(path, MIGRATIONS, durability)
    assert (db.read("PRAGMA synchronous"), db.read("PRAGMA fullfsync")) == ([(synchronous,)], [(full,)])
    await db.close()


async def test_the_log_shrinks_again_under_steady_writes(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr(sqlite, "CHECKPOINT_EVERY", 10)
    log = path.with_name(path.name + "-wal")
    sizes = [0]
    while sizes[-1] >= max(sizes) and len(sizes) < 3_000:
        await db.write(insert(f"{len(sizes)} " + "x" * 10_000))
        sizes.append(log.stat().st_size)
    assert sizes[-1] < max(sizes)
    assert len(names(db)) == len(sizes) - 1


async def test_a_long_scan_does_not_hold_up_short_ones(db: Database) -> None:
    await db.write(insert("a"))
    long = asyncio.create_task(
        db.scan("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9000000) SELECT count(*) FROM n")
    )
    for _ in range(20):
        assert await db.scan("SELECT name FROM items WHERE name = 'a'") == [("a",)]
    assert not long.done()
    assert await long == [(9_000_000,)]
