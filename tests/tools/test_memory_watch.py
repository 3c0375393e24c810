"""The watch: every change of what is listened to, nothing else, and no reading while nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from quarterdeck.storage.errors import LimitError, StorageError
from quarterdeck.storage.memory.base import Entry
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.uri import uri_of
from quarterdeck.tools.memory.watch import MAX_WATCHED, MemoryWatch
from tests.clock import ManualClock
from tests.ready import ready
from tests.until import until

K = uri_of("n", "k")


class CountingStore(SqliteMemoryStore):
    """Counts the looks, and fails when told."""

    looks = 0
    broken = False

    async def heads(self, namespace: str, keys: Sequence[str], *, now: int) -> dict[str, Entry]:
        self.looks += 1
        if self.broken:
            raise StorageError("the disk is gone")
        return await super().heads(namespace, keys, now=now)


class Deck:
    """A watch, and a service on another connection, which the watch can learn of by looking only."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        self.store = CountingStore(path)
        self.other_store = SqliteMemoryStore(path)
        self.memory = MemoryService(ready(self.other_store), self.clock, default_ttl=3600, restore_window=3600)
        watched = MemoryService(ready(self.store), self.clock, default_ttl=3600, restore_window=3600)
        self.published: list[str] = []
        self.watch = MemoryWatch(watched, self._publish)

    async def _publish(self, uri: str) -> None:
        self.published.append(uri)

    async def next(self) -> list[str]:
        """What is published by the first look that finds anything."""
        await until(lambda: self.published)
        looks = self.store.looks
        await until(lambda: self.store.looks > looks)
        published, self.published = self.published, []
        return published


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    deck = Deck(tmp_path / "memory.db")
    yield deck
    await deck.store.close()
    await deck.other_store.close()


async def test_every_kind_of_change_is_published_once(deck: Deck) -> None:
    async with deck.watch.watching([K]):
        await deck.memory.store("n", "k", 1)
        assert await deck.next() == [K]
        await deck.memory.store("n", "k", 1)
        assert await deck.next() == [K]
        deck.clock.advance(60)
        await deck.memory.touch("n", "k")
        assert await deck.next() == [K]
        await deck.memory.delete("n", "k")
        assert await deck.next() == [K]
        await deck.memory.restore("n", "k", ttl=5)
        assert await deck.next() == [K]
        deck.clock.advance(4.999)
        looks = deck.store.looks
        await until(lambda: deck.store.looks > looks + 1)
        assert deck.published == []
        deck.clock.advance(0.001)
        assert await deck.next() == [K]


async def test_deleted_and_stored_again_between_two_looks_is_a_change(deck: Deck) -> None:
    await deck.memory.store("n", "k", 1)
    async with deck.watch.watching([K]):
        await deck.memory.delete("n", "k")
        await deck.memory.store("n", "k", 1)
        assert await deck.next() == [K]


async def test_only_what_is_listened_to_is_published_in_the_spelling_of_the_listener(deck: Deck) -> None:
    spellings = [uri_of("a/b", "ü"), "memory://a%2fb/ü", "memory://%61%2Fb/%C3%BC"]
    async with deck.watch.watching([*spellings, K, "memory://broken", "file:///etc/passwd", "memory://n/%"]):
        await deck.memory.store("n", "other", 1)
        await deck.memory.store("a/b", "ü", 1)
        assert sorted(await deck.next()) == sorted(spellings)


async def test_what_changed_before_is_not_published(deck: Deck) -> None:
    await deck.memory.store("n", "k", 1)
    async with deck.watch.watching([K]):
        await deck.memory.store("n", "k", 2)
        assert await deck.next() == [K]
    await deck.memory.store("n", "k", 3)
    async with deck.watch.watching([K, uri_of("n", "l")]):
        await deck.memory.store("n", "l", 1)
        assert await deck.next() == [uri_of("n", "l")]


async def test_a_second_listener_takes_no_change_from_the_first(deck: Deck) -> None:
    async with deck.watch.watching([K]):
        await deck.memory.store("n", "k", 1)
        async with deck.watch.watching([K, uri_of("n", "l")]):
            assert await deck.next() == [K]
            await deck.memory.store("n", "l", 1)
            assert await deck.next() == [uri_of("n", "l")]
        await deck.memory.store("n", "l", 2)
        await deck.memory.store("n", "k", 2)
        assert await deck.next() == [K]


async def test_nothing_is_read_while_nobody_listens(deck: Deck) -> None:
    deck.watch.look_soon()
    async with deck.watch.watching(["memory://broken", "file:///etc/passwd"]):
        assert deck.store.looks == 0
    with suppress(ZeroDivisionError):
        async with deck.watch.watching([K]):
            await until(lambda: deck.store.looks > 2)
            raise ZeroDivisionError
    async with deck.watch.watching([uri_of("n", "l")]):
        await until(lambda: deck.store.looks > 4)
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    looks = deck.store.looks
    deck.watch.look_soon()
    with pytest.raises(TimeoutError):
        await until(lambda: deck.store.looks > looks, seconds=0.6)


async def test_no_change_is_lost_while_the_store_cannot_be_read(deck: Deck, caplog: pytest.LogCaptureFixture) -> None:
    async with deck.watch.watching([K]):
        deck.store.broken = True
        await deck.memory.store("n", "k", 1)
        looks = deck.store.looks
        await until(lambda: deck.store.looks > looks + 2)
        deck.store.broken = False
        assert await deck.next() == [K]
    assert caplog.text.count("cannot see which memories change") == 1
    deck.store.broken = True
    with pytest.raises(StorageError, match="the disk is gone"):
        async with deck.watch.watching([K]):
            pytest.fail("there is nothing to compare with")


async def test_the_number_of_watched_entries_is_bounded(deck: Deck) -> None:
    half = [uri_of("n", str(number)) for number in range(MAX_WATCHED // 2)]
    async with deck.watch.watching(half), deck.watch.watching(half):
        with pytest.raises(LimitError, match="at most 1000"):
            async with deck.watch.watching([K]):
                pytest.fail("one too many")
    async with deck.watch.watching([K]):
        await deck.memory.store("n", "k", 1)
        assert await deck.next() == [K]
