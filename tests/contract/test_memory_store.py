"""What every memory backend does alike. A new backend is one more parameter of the fixture `memory_url`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from quarterdeck.server.stores import open_memory_store
from quarterdeck.storage.errors import ConflictError
from quarterdeck.storage.memory.base import Entry, MemoryStore, NamespaceStats, searchable_text

NOW = 1_750_000_000_000
DAY = 86_400_000


@pytest.fixture
async def open_store(memory_url: str, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[MemoryStore]]]:
    """Opens another store on the same place at each call."""
    async with AsyncExitStack() as stack:

        async def opener() -> MemoryStore:
            store = await open_memory_store(memory_url, tmp_path)
            stack.push_async_callback(store.close)
            return store

        yield opener


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[MemoryStore]]) -> MemoryStore:
    return await open_store()


async def put(
    store: MemoryStore,
    key: str,
    text: str = '"x"',
    *,
    namespace: str = "n",
    now: int = NOW,
    ttl: int = 0,
    grace: int = DAY,
    if_version: int | None = None,
) -> Entry:
    return await store.put(
        namespace, key, text, size=len(text.encode()), now=now, ttl=ttl, grace=grace, if_version=if_version
    )


async def test_an_entry_comes_back_as_it_was_put(store: MemoryStore) -> None:
    entry = await put(store, "k", '{"a":[1,"é"]}', ttl=5_000)
    assert entry == Entry("n", "k", '{"a":[1,"é"]}', 14, 1, NOW, NOW, NOW + 5_000)
    assert await store.get("n", "k", now=NOW) == entry
    assert entry.value == {"a": [1, "é"]}


async def test_heads_are_entries_without_their_values(store: MemoryStore) -> None:
    kept = await put(store, "k", "[1]", ttl=5_000)
    await put(store, "deleted")
    await store.delete("n", "deleted", now=NOW)
    keys = ["k", "k", "deleted", "never"]
    assert await store.get_many("n", keys, now=NOW) == {"k": kept}
    assert await store.heads("n", keys, now=NOW) == {"k": replace(kept, text="")}
    assert await store.heads("n", keys, now=NOW + 5_000) == {}
    assert await store.heads("n", [], now=NOW) == {}


async def test_a_new_value_keeps_the_creation_and_counts_the_version(store: MemoryStore) -> None:
    await put(store, "k", "1")
    entry = await put(store, "k", "2", now=NOW + 7)
    assert (entry.version, entry.created_at, entry.updated_at) == (2, NOW, NOW + 7)
    assert await store.get("n", "k", now=NOW + 7) == entry


async def test_an_entry_ends_exactly_at_its_expiry(store: MemoryStore) -> None:
    await put(store, "k", ttl=1_000)
    assert await store.get("n", "k", now=NOW + 999) is not None
    for read in (
        await store.get("n", "k", now=NOW + 1_000),
        await store.get_many("n", ["k"], now=NOW + 1_000),
        await store.heads("n", ["k"], now=NOW + 1_000),
        await store.page("n", now=NOW + 1_000, limit=9),
        await store.search("n", ["x"], now=NOW + 1_000, limit=9),
        await store.namespaces(now=NOW + 1_000, limit=9),
        await store.touch("n", "k", now=NOW + 1_000, ttl=None),
        await store.delete("n", "k", now=NOW + 1_000),
    ):
        assert not read


async def test_a_version_that_is_not_the_current_one_changes_nothing(store: MemoryStore) -> None:
    await put(store, "k", "1", if_version=0)
    await put(store, "k", "2", if_version=1)
    for wrong in (0, 1, 3):
        with pytest.raises(ConflictError, match="is at version 2"):
            await put(store, "k", "3", if_version=wrong)
        with pytest.raises(ConflictError, match="is at version 2"):
            await store.delete("n", "k", now=NOW, if_version=wrong)
    with pytest.raises(ConflictError, match="does not exist"):
        await put(store, "other", if_version=1)
    entry = await store.get("n", "k", now=NOW)
    assert entry is not None
    assert entry.text == "2"
    assert await store.delete("n", "k", now=NOW, if_version=2)


async def test_of_many_compare_and_sets_at_once_one_wins(store: MemoryStore) -> None:
    await put(store, "k")
    outcomes = await asyncio.gather(*(put(store, "k", str(i), if_version=1) for i in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, Entry) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 19


async def test_a_deleted_entry_is_gone_and_its_version_goes_on(store: MemoryStore) -> None:
    await put(store, "k")
    assert await store.delete("n", "k", now=NOW)
    assert not await store.delete("n", "k", now=NOW)
    assert await store.get("n", "k", now=NOW) is None
    entry = await put(store, "k", now=NOW + 5, if_version=0)
    assert (entry.version, entry.created_at) == (2, NOW + 5)


async def test_a_deleted_entry_stays_deleted_when_the_wall_clock_is_set_back(store: MemoryStore) -> None:
    await put(store, "k")
    await store.delete("n", "k", now=NOW + 60_000)
    assert await store.get("n", "k", now=NOW) is None


async def test_restore_brings_back_what_was_deleted_with_its_own_ttl(store: MemoryStore) -> None:
    await put(store, "k", "1", ttl=5_000)
    await store.delete("n", "k", now=NOW + 1)
    entry = await store.restore("n", "k", now=NOW + 10, ttl=None)
    assert entry == Entry("n", "k", "1", 1, 2, NOW, NOW + 10, NOW + 5_010)
    assert await store.get("n", "k", now=NOW + 10) == entry


async def test_restore_brings_back_what_expired_or_a_ttl_of_the_callers(store: MemoryStore) -> None:
    await put(store, "k", "1", ttl=5_000)
    entry = await store.restore("n", "k", now=NOW + 6_000, ttl=0)
    assert entry is not None
    assert (entry.text, entry.version, entry.expires_at) == ("1", 2, None)


async def test_restore_of_a_live_entry_swaps_it_with_its_earlier_value(store: MemoryStore) -> None:
    await put(store, "k", '"first"', ttl=5_000)
    await put(store, "k", '"the second"', ttl=0)
    back = await store.restore("n", "k", now=NOW + 10, ttl=None)
    assert back is not None
    assert (back.text, back.size, back.version, back.expires_at) == ('"first"', 7, 3, NOW + 5_010)
    forth = await store.restore("n", "k", now=NOW + 20, ttl=None)
    assert forth is not None
    assert (forth.text, forth.size, forth.version, forth.expires_at) == ('"the second"', 12, 4, None)


async def test_the_size_of_a_restored_value_is_in_bytes(store: MemoryStore) -> None:
    await put(store, "k", '"é"')
    await put(store, "k", "1")
    back = await store.restore("n", "k", now=NOW, ttl=None)
    assert back is not None
    assert (back.text, back.size) == ('"é"', 4)


async def test_the_grace_of_what_had_expired_counts_from_its_expiry(store: MemoryStore) -> None:
    await put(store, "k", "1", ttl=1_000, grace=5_000)
    await put(store, "k", "2", now=NOW + 3_000)
    assert await store.restore("n", "k", now=NOW + 6_000, ttl=None) is None
    assert await store.restore("n", "k", now=NOW + 5_999, ttl=None) is not None


async def test_a_delete_then_an_overwrite_are_undone_one_after_the_other(store: MemoryStore) -> None:
    await put(store, "k", "1")
    await put(store, "k", "2")
    await store.delete("n", "k", now=NOW)
    texts = [entry.text for _ in range(2) if (entry := await store.restore("n", "k", now=NOW, ttl=None))]
    assert texts == ["2", "1"]


async def test_what_ended_is_restorable_until_its_grace_is_over(store: MemoryStore) -> None:
    await put(store, "k", "1", grace=1_000)
    await store.delete("n", "k", now=NOW)
    await put(store, "over", "1", grace=1_000)
    await put(store, "over", "2", grace=1_000)
    for key in ("k", "over"):
        assert await store.restore("n", key, now=NOW + 1_000, ttl=None) is None
        assert await store.restore("n", key, now=NOW + 999, ttl=None) is not None


async def test_without_grace_nothing_is_restorable(store: MemoryStore) -> None:
    await put(store, "k", "1", grace=0)
    await put(store, "k", "2", grace=0)
    assert await store.restore("n", "k", now=NOW, ttl=None) is None
    await store.delete("n", "k", now=NOW)
    assert await store.restore("n", "k", now=NOW, ttl=None) is None
    assert await store.restore("n", "never", now=NOW, ttl=None) is None


async def test_touch_starts_the_lifetime_again(store: MemoryStore) -> None:
    await put(store, "k", ttl=5_000)
    own = await store.touch("n", "k", now=NOW + 3_000, ttl=None)
    assert own is not None
    assert (own.expires_at, own.version) == (NOW + 8_000, 1)
    given = await store.touch("n", "k", now=NOW + 3_000, ttl=0)
    assert given is not None
    assert given.expires_at is None
    assert await store.touch("n", "never", now=NOW, ttl=None) is None


async def test_purge_frees_what_is_beyond_its_grace_and_nothing_else(store: MemoryStore) -> None:
    await put(store, "ended", ttl=1_000, grace=1_000)
    await put(store, "restorable", ttl=1_000, grace=9_000)
    await put(store, "live", '"old"', grace=1_000)
    await put(store, "live", '"new"', grace=1_000)
    await store.search("n", ["x"], now=NOW, limit=9)
    for _ in range(2):  # it takes turns
        await store.purge(now=NOW + 5_000, limit=9)
    # What is purged is not even there for a reader in the past.
    assert [entry.key for entry in await store.page("n", now=NOW, limit=9)] == ["live", "restorable"]
    assert await store.restore("n", "live", now=NOW, ttl=None) is None
    assert await store.restore("n", "restorable", now=NOW + 5_000, ttl=None) is not None
    assert [hit.entry.key for hit in await store.search("n", ["x"], now=NOW + 5_000, limit=9)] == ["restorable"]


async def test_search_is_right_after_a_purge_of_indexed_entries(store: MemoryStore) -> None:
    for round_ in range(3):
        for number in range(5):
            await put(store, f"{round_}-{number}", f'"word{round_}"', ttl=1_000, grace=0, now=NOW + round_ * 2_000)
        later = NOW + round_ * 2_000 + 1
        assert len(await store.search("n", [f"word{round_}"], now=later, limit=9)) == 5
        for _ in range(2):
            await store.purge(now=NOW + round_ * 2_000 + 1_500, limit=100)


async def test_pages_go_by_key_and_stay_stable_while_entries_change(store: MemoryStore) -> None:
    keys = ["a", "b", "ba", "bb", "c", "é", "\U0001f600"]
    for key in reversed(keys):
        await put(store, key)
    first = await store.page("n", now=NOW, limit=3)
    assert [entry.key for entry in first] == keys[:3]
    assert first[0].text == ""
    await store.delete("n", "a", now=NOW)
    await put(store, "aa")
    rest = await store.page("n", now=NOW, limit=9, after="ba")
    assert [entry.key for entry in rest] == keys[3:]


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("b", ["b", "b%", "b_", "ba"]),
        ("b%", ["b%"]),
        ("b_", ["b_"]),
        ("%", []),
        ("\ud7ff", ["\ud7ff", "\ud7ffx"]),
        ("\U0010ffff", ["\U0010ffff", "\U0010ffffx"]),
    ],
)
async def test_a_prefix_is_plain_text(store: MemoryStore, prefix: str, found: list[str]) -> None:
    for key in ("a", "b", "b%", "b_", "ba", "c", "\ud7ff", "\ud7ffx", "\ue000", "\U0010ffff", "\U0010ffffx"):
        await put(store, key)
    assert [entry.key for entry in await store.page("n", now=NOW, limit=99, prefix=prefix)] == found


async def test_a_page_of_a_prefix_goes_on_within_it(store: MemoryStore) -> None:
    for key in ("a", "aa", "b1", "b2", "b3", "c"):
        await put(store, key)
    for after, found in (("a", ["b1", "b2", "b3"]), ("b1", ["b2", "b3"]), ("b3", []), ("c", [])):
        page = await store.page("n", now=NOW, limit=9, prefix="b", after=after)
        assert [entry.key for entry in page] == found


async def test_namespaces_fence_every_call(store: MemoryStore) -> None:
    await put(store, "k", '"here"', namespace="a")
    await put(store, "k", '"there"', namespace="b")
    assert not await store.delete("c", "k", now=NOW)
    assert await store.get("c", "k", now=NOW) is None
    assert await store.get_many("c", ["k"], now=NOW) == {}
    assert await store.page("c", now=NOW, limit=9) == []
    assert await store.search("a", ["there"], now=NOW, limit=9) == []
    assert await store.touch("c", "k", now=NOW, ttl=1) is None
    assert await store.delete("a", "k", now=NOW)
    assert await store.restore("c", "k", now=NOW, ttl=None) is None
    kept = await store.get("b", "k", now=NOW)
    assert kept is not None
    assert (kept.text, kept.version) == ('"there"', 1)


async def test_namespaces_are_counted_without_what_has_ended(store: MemoryStore) -> None:
    await put(store, "k", "123", namespace="a", ttl=9_000)
    await put(store, "l", "12", namespace="a", ttl=4_000)
    await put(store, "m", "1", namespace="a", ttl=1_000)
    await put(store, "k", namespace="b", ttl=0)
    await put(store, "k", namespace="c")
    await store.delete("c", "k", now=NOW)
    found = await store.namespaces(now=NOW + 2_000, limit=9)
    assert [(s.namespace, s.count, s.size, s.next_expiry) for s in found] == [
        ("a", 2, 5, NOW + 4_000),
        ("b", 1, 3, None),
    ]
    assert [s.namespace for s in await store.namespaces(now=NOW, limit=1, after="a")] == ["b"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["auth"], ["decision:auth", "user:42"]),  # the beginning of a word, in key or value
        (["user:42"], ["user:42"]),
        (["user:4"], ["user:42"]),
        (["EXPIRE"], ["decision:auth"]),
        (["zoe"], ["user:42"]),  # accents do not matter
        (["authentication", "zoë"], ["user:42"]),  # every word
        (["tokens", "zoë"], []),
        (["line"], ["text"]),  # no escape sticks to a word
        (["AND"], []),
        (['"'], []),
        (["NEAR(auth)"], []),
        (["key:auth"], []),
        (["auth*"], ["decision:auth", "user:42"]),
    ],
)
async def test_search_finds_words_and_never_reads_syntax(
    store: MemoryStore, words: list[str], found: list[str]
) -> None:
    await put(store, "user:42", '{"name":"Zoë","method":["authentication"]}')
    await put(store, "decision:auth", '"tokens expire"')
    await put(store, "text", r'"first\nline \"quoted\""')
    assert sorted(hit.entry.key for hit in await store.search("n", words, now=NOW, limit=9)) == found


async def test_a_word_does_not_go_on_from_the_key_into_the_value(store: MemoryStore) -> None:
    await put(store, "user", '"42"')
    assert await store.search("n", ["user:42"], now=NOW, limit=9) == []
    assert len(await store.search("n", ["user", "42"], now=NOW, limit=9)) == 1


async def test_search_ranks_pages_and_shows_a_snippet(store: MemoryStore) -> None:
    await put(store, "once", '"' + "many other things " * 50 + ' Tea"')
    await put(store, "often", '"tea tea tea"')
    for number in range(20):
        await put(store, f"filler-{number}", '"coffee"')
    best, second = await store.search("n", ["tea"], now=NOW, limit=9)
    assert (best.entry.key, second.entry.key) == ("often", "once")
    assert best.score > second.score
    assert best.snippet == "tea tea tea"
    assert second.snippet.endswith("things  Tea")
    assert len(second.snippet) <= 200
    assert [hit.entry.key for hit in await store.search("n", ["tea"], now=NOW, limit=1, offset=1)] == ["once"]


async def test_search_sees_every_change_at_once(store: MemoryStore) -> None:
    async def found(word: str) -> bool:
        return bool(await store.search("n", [word], now=NOW, limit=9))

    await put(store, "k", '"alpha"')
    assert await found("alpha")
    await put(store, "k", '"beta"')
    assert await found("beta")
    assert not await found("alpha")
    await store.delete("n", "k", now=NOW)
    assert not await found("beta")
    await store.restore("n", "k", now=NOW, ttl=None)
    assert await found("beta")
    await store.restore("n", "k", now=NOW, ttl=None)
    assert await found("alpha")
    assert not await found("beta")


async def test_search_takes_in_more_than_one_batch(store: MemoryStore) -> None:
    await asyncio.gather(*(put(store, f"k{number}", f'"common w{number}"') for number in range(450)))
    await put(store, "large", '"' + "common " * 60_000 + '"')
    assert len(await store.search("n", ["common"], now=NOW, limit=999)) == 451
    assert [hit.entry.key for hit in await store.search("n", ["w449"], now=NOW, limit=9)] == ["k449"]


async def test_two_stores_on_one_place_see_each_other(open_store: Callable[[], Awaitable[MemoryStore]]) -> None:
    one, two = await open_store(), await open_store()
    await put(one, "k", '"alpha"')
    assert await two.search("n", ["alpha"], now=NOW, limit=9)
    await put(two, "k", '"beta"', if_version=1)
    assert await one.search("n", ["beta"], now=NOW, limit=9)
    assert not await one.search("n", ["alpha"], now=NOW, limit=9)


async def test_entries_outlive_the_store(memory_url: str, tmp_path: Path) -> None:
    store = await open_memory_store(memory_url, tmp_path)
    entry = await put(store, "k", '"kept"')
    await store.close()
    again = await open_memory_store(memory_url, tmp_path)
    assert await again.get("n", "k", now=NOW) == entry
    await again.close()


def test_searchable_text_is_every_name_and_leaf() -> None:
    assert searchable_text(r'{"na\tme":["a\"b",1.5,true,null,{"x":{}}]}') == 'na\tme\na"b\n1.5\ntrue\nnull\nx'


async def test_usage_counts_one_namespace_without_what_has_ended(store: MemoryStore) -> None:
    await put(store, "a", "123", ttl=9_000)
    await put(store, "b", "12", ttl=1_000)
    await put(store, "c", "1")
    await store.delete("n", "c", now=NOW)
    await put(store, "d", "12345", namespace="other")
    assert await store.usage("n", now=NOW + 2_000) == NamespaceStats("n", 1, 3, NOW + 9_000)
    assert await store.usage("none", now=NOW) == NamespaceStats("none", 0, 0, None)


OTHER_DECKS = Entry("n", "k", '"theirs"', 8, 7, NOW - 50, NOW - 20, NOW + 5_000)


async def test_an_entry_of_another_deck_is_loaded_as_it_was(store: MemoryStore) -> None:
    assert await store.load(OTHER_DECKS, now=NOW, grace=DAY)
    assert await store.get("n", "k", now=NOW) == OTHER_DECKS
    assert [hit.entry.version for hit in await store.search("n", ["theirs"], now=NOW, limit=9)] == [7]
    assert await store.get("n", "k", now=NOW + 5_000) is None
    touched = await store.touch("n", "k", now=NOW, ttl=None)
    assert touched is not None
    assert touched.expires_at == NOW + 5_020


async def test_loading_again_changes_nothing(store: MemoryStore) -> None:
    for_ever = replace(OTHER_DECKS, key="for ever", expires_at=None)
    for entry in (OTHER_DECKS, for_ever):
        assert await store.load(entry, now=NOW, grace=DAY)
        assert not await store.load(entry, now=NOW + 1, grace=DAY)
        assert await store.get("n", entry.key, now=NOW) == entry


async def test_a_later_entry_stays_when_an_earlier_one_is_loaded(store: MemoryStore) -> None:
    mine = await put(store, "k", '"mine"')
    assert not await store.load(OTHER_DECKS, now=NOW, grace=DAY)
    assert not await store.load(replace(OTHER_DECKS, updated_at=NOW), now=NOW, grace=DAY)
    assert await store.get("n", "k", now=NOW) == mine


async def test_a_loaded_entry_replaces_an_earlier_one_that_stays_restorable(store: MemoryStore) -> None:
    for _ in range(9):
        await put(store, "k", '"mine"', now=NOW - 100)
    assert await store.load(OTHER_DECKS, now=NOW, grace=DAY)
    entry = await store.get("n", "k", now=NOW)
    assert entry == replace(OTHER_DECKS, version=10)  # no version has two values
    back = await store.restore("n", "k", now=NOW, ttl=None)
    assert back is not None
    assert (back.text, back.version) == ('"mine"', 11)


async def test_loading_brings_back_what_was_deleted(store: MemoryStore) -> None:
    await put(store, "k", '"mine"')
    await store.delete("n", "k", now=NOW)
    assert await store.load(OTHER_DECKS, now=NOW, grace=DAY)
    entry = await store.get("n", "k", now=NOW)
    assert entry is not None
    assert (entry.text, entry.version) == ('"theirs"', 7)


async def test_a_time_is_noted_for_the_next_deck(open_store: Callable[[], Awaitable[MemoryStore]]) -> None:
    first = await open_store()
    assert await first.note_time(NOW, trust=10) == 0
    second = await open_store()
    assert await second.note_time(NOW - 10, trust=10) == NOW
    assert await second.note_time(NOW + 5, trust=10) == NOW
    assert await first.note_time(NOW - 6, trust=10) == NOW + 5  # too far ahead to be believed
    assert await first.note_time(NOW, trust=10) == NOW - 6
