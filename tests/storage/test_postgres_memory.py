"""What is PostgreSQL's alone: its tables, its limits, and its own words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.memory.base import Entry
from quarterdeck.storage.memory.postgres import MIGRATIONS, PostgresMemoryStore
from tests.servers.postgres import PostgresServer

NOW = 1_750_000_000_000


@pytest.fixture
async def url(postgres_server: PostgresServer) -> str:
    return await postgres_server.new_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresMemoryStore]:
    opened = await PostgresMemoryStore.open(url)
    yield opened
    await opened.close()


async def put(store: PostgresMemoryStore, key: str, value: object, namespace: str = "n", ttl: int = 0) -> Entry:
    text = json.dumps(value, ensure_ascii=False)
    return await store.put(namespace, key, text, size=len(text.encode()), now=NOW, ttl=ttl, grace=0)


async def keys_with(store: PostgresMemoryStore, *words: str) -> list[str]:
    return [hit.entry.key for hit in await store.search("n", words, now=NOW, limit=9)]


async def test_processes_that_start_together_make_the_tables_once(url: str) -> None:
    stores = await asyncio.gather(*(PostgresMemoryStore.open(url) for _ in range(6)))
    await asyncio.gather(*(put(store, f"k{number}", number) for number, store in enumerate(stores)))
    assert len(await stores[0].page("n", now=NOW, limit=9)) == 6
    for store in stores:
        await store.close()


async def test_tables_of_a_newer_program_are_refused_and_stay(url: str, store: PostgresMemoryStore) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE quarterdeck_schemas SET version = 99")
    known = f"schema 99, this program knows up to {len(MIGRATIONS)}: upgrade quarterdeck"
    with pytest.raises(StorageError, match=known):
        await PostgresMemoryStore.open(url)
    assert await connection.fetchval("SELECT version FROM quarterdeck_schemas") == 99
    await connection.close()


async def test_a_user_who_may_not_make_tables_can_use_them(url: str, store: PostgresMemoryStore) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN")
    await connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO clerk")
    clerk = await PostgresMemoryStore.open(url.replace("postgres:@", "clerk:@"))
    assert await put(clerk, "k", 1) == await store.get("n", "k", now=NOW)
    await clerk.close()
    await connection.execute("DROP OWNED BY clerk; DROP ROLE clerk")
    await connection.close()


async def test_a_database_in_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    await connection.close()
    with pytest.raises(StorageError, match="encoded in LATIN1: use one in UTF8"):
        await PostgresMemoryStore.open(postgres_server.url.replace("/postgres?", "/latin?"))


async def test_the_longest_names_fit(store: PostgresMemoryStore) -> None:
    namespace, key = (
        "".join(chr(0x10000 + 7 * i + start) for i in range(length)) for start, length in ((0, 128), (9, 512))
    )
    entry = await put(store, key, "x", namespace)
    assert await store.get(namespace, key, now=NOW) == entry


@pytest.mark.parametrize(
    "value",
    [
        " ".join(f"{number:x}" for number in range(180_000)),  # more words than a tsvector takes with their places
        " ".join(f"{number:08d}" for number in range(116_000)),  # more than it takes without
        "word " * 200_000,
        "x" * 1_000_000,
        "日" * 300_000,
    ],
    ids=["many words", "too many words", "one word", "one long word", "no blanks"],
)
async def test_the_largest_values_are_kept_and_found(store: PostgresMemoryStore, value: str) -> None:
    entry = await put(store, "k", value)
    assert await store.get("n", "k", now=NOW) == entry
    assert await keys_with(store, value.split()[0][:100]) == ["k"]


async def test_the_parts_of_a_word_stand_together_where_places_are_kept(store: PostgresMemoryStore) -> None:
    await put(store, "small", "user one, order 42")
    await put(store, "user:42", "its key")
    await put(store, "user", "42 does not follow the key")
    await put(store, "large", "user:1 " * 300 + "user:42")  # beyond the 255th place
    await put(store, "far", "filler " * 16_400 + "user:42")  # beyond the 16,383rd
    assert sorted(await keys_with(store, "user:4")) == ["far", "large", "user:42"]


async def test_lexemes_of_namespaces_do_not_mix(store: PostgresMemoryStore, url: str) -> None:
    await put(store, "k", "tea", "n")
    await put(store, "k", "tea", "other")
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT array_agg(lexeme) FROM quarterdeck_memory, unnest(words) GROUP BY namespace")
    one, two = (set(row[0]) for row in rows)
    assert len(one) == len(two) == 2
    assert not one & two
    await connection.close()


async def test_without_grace_no_earlier_value_is_kept(store: PostgresMemoryStore, url: str) -> None:
    await put(store, "k", "first")
    await put(store, "k", "second")
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT previous IS NULL FROM quarterdeck_memory")
    await connection.close()


async def test_purge_passes_over_what_another_server_is_changing(store: PostgresMemoryStore, url: str) -> None:
    await put(store, "busy", 1, ttl=1)
    await put(store, "over", 1, ttl=1)
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT FROM quarterdeck_memory WHERE key = 'busy' FOR UPDATE")
        await store.purge(now=NOW + 10, limit=9)
        assert [row[0] for row in await connection.fetch("SELECT key FROM quarterdeck_memory")] == ["busy"]
    await store.purge(now=NOW + 10, limit=9)
    assert await connection.fetchval("SELECT count(*) FROM quarterdeck_memory") == 0
    await connection.close()
