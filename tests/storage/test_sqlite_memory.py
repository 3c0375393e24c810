"""What only the SQLite backend of memory has: its full-text index and the migrations of its file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from quarterdeck.storage.memory.sqlite import MIGRATIONS, SqliteMemoryStore
from quarterdeck.storage.sqlite import open_database

NOW = 1_750_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


async def put(store: SqliteMemoryStore, namespace: str, key: str, text: str) -> None:
    await store.put(namespace, key, text, size=len(text), now=NOW, ttl=0, grace=0)


async def test_no_word_of_the_index_belongs_to_two_namespaces(path: Path) -> None:
    store = SqliteMemoryStore(path)
    for number in range(5):
        await put(store, f"n{number}", "user:42", '"tea, two cups"')
    assert len(await store.search("n1", ["tea"], now=NOW, limit=9)) == 1
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, words, row)")
        assert connection.execute("SELECT count(*), max(doc) FROM terms").fetchone() == (5 * 5, 1)


async def test_a_file_of_the_first_schema_is_searched_and_overwritten_like_a_new_one(path: Path) -> None:
    with closing(open_database(path, MIGRATIONS[:1])) as old:
        old.executemany(
            """
            INSERT INTO entries (id, namespace, key, version, size, created_at, updated_at, ttl, grace, value, words_id)
            VALUES (?, 'n', ?, 1, 7, 0, 0, 0, 0, ?, ?)
            """,
            [(1, "a", '"alpha"', 1), (2, "b", '"alpha beta"', 2), (3, "c", '"not yet in the index"', None)],
        )
        old.executemany(
            "INSERT INTO words (rowid, key, body) VALUES (?, ?, ?)", [(1, "a", "alpha"), (2, "b", "alpha beta")]
        )
    store = SqliteMemoryStore(path)

    async def found(word: str) -> list[str]:
        return sorted(hit.entry.key for hit in await store.search("n", [word], now=NOW, limit=9))

    await put(store, "n", "b", '"gamma"')
    assert await found("alpha") == ["a"]
    assert await found("beta") == []
    assert await found("gamma") == ["b"]
    assert await found("index") == ["c"]
    await put(store, "n", "a", '"delta"')
    assert await found("alpha") == []
    assert await found("delta") == ["a"]
    await store.close()
