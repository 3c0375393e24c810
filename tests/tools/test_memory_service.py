"""Lifetimes, checks, paging and the trash, on the real store and a manual clock."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.storage.errors import ConflictError, InvalidArgumentError, LimitError, NotFoundError, StorageError
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.tools.memory.service import MemoryService
from tests.clock import ManualClock
from tests.ready import ready

WEEK = 604_800
DAY = 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteMemoryStore]:
    opened = SqliteMemoryStore(tmp_path / "memory.db")
    yield opened
    await opened.close()


@pytest.fixture
def service(store: SqliteMemoryStore, clock: ManualClock) -> MemoryService:
    return MemoryService(ready(store), clock, WEEK, DAY)


async def test_the_default_ttl_and_zero_for_ever(service: MemoryService, clock: ManualClock) -> None:
    entry = await service.store("n", "k", 1)
    assert entry.expires_at == clock.now() + WEEK * 1000
    assert (await service.store("n", "k", 1, ttl=0)).expires_at is None


async def test_ttl_1_lives_its_whole_second_and_no_longer(service: MemoryService, clock: ManualClock) -> None:
    await service.store("n", "k", 1, ttl=1)
    clock.advance(0.999)
    assert await service.retrieve("n", "k") is not None
    clock.advance(0.001)
    assert await service.retrieve("n", "k") is None


@pytest.mark.parametrize(("ttl", "lifetime"), [(1.1, 1_100), (0.0004, 1), (0.001, 1), (2.0006, 2_001), (5e-324, 1)])
async def test_ttl_counts_to_the_millisecond(
    service: MemoryService, clock: ManualClock, ttl: float, lifetime: int
) -> None:
    assert (await service.store("n", "k", 1, ttl=ttl)).expires_at == clock.now() + lifetime


@pytest.mark.parametrize("ttl", [True, False, -1, -0.001, math.nan, math.inf, -math.inf, 1e30])
async def test_a_ttl_that_is_none_is_refused(service: MemoryService, ttl: float) -> None:
    await service.store("n", "k", 1)
    for call in (
        service.store("n", "k", 2, ttl=ttl),
        service.touch("n", "k", ttl=ttl),
        service.restore("n", "k", ttl=ttl),
    ):
        with pytest.raises(InvalidArgumentError, match="seconds from 0"):
            await call
    entry = await service.retrieve("n", "k")
    assert entry is not None
    assert entry.version == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("123", '"123"'),
        ("null", '"null"'),
        (None, "null"),
        ("", '""'),
        (123, "123"),
        (1.0, "1.0"),
        (2**70, "1180591620717411303424"),
        ([], "[]"),
        ({"é": [True, " \u2028\x00"]}, '{"é":[true," \u2028\\u0000"]}'),
    ],
)
async def test_values_keep_their_type_and_bytes(service: MemoryService, value: Any, text: str) -> None:
    await service.store("n", "k", value)
    entry = await service.retrieve("n", "k")
    assert entry is not None
    assert entry.text == text
    assert entry.value == value
    assert type(entry.value) is type(value)


async def test_180_thousand_non_ascii_characters_stay_whole(service: MemoryService) -> None:
    value = "é漢🚀" * 60_000
    stored = await service.store("n", "k", value)
    assert stored.size == 180_000 * 3 + 2
    entry = await service.retrieve("n", "k")
    assert entry is not None
    assert entry.value == value


async def test_a_value_holds_a_mebibyte_of_json(service: MemoryService) -> None:
    assert (await service.store("n", "k", "x" * (2**20 - 2))).size == 2**20
    with pytest.raises(LimitError, match="at most 1048576"):
        await service.store("n", "k", "x" * (2**20 - 1))
    with pytest.raises(LimitError, match="at most 1048576"):
        await service.store("n", "k", "é" * 2**19)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


async def test_values_are_nested_a_hundred_deep_at_most(service: MemoryService) -> None:
    await service.store("n", "k", nested(100))
    await service.store("n", "flat", [[1]] * 500)
    for depth in (101, 5_000):
        with pytest.raises(LimitError, match="100 deep"):
            await service.store("n", "k", nested(depth))


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], "\ud800", {"\udfff": 1}, object(), b"x", {1, 2}])
async def test_what_is_no_json_is_refused(service: MemoryService, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="value: "):
        await service.store("n", "k", value)
    assert await service.retrieve("n", "k") is None


@pytest.mark.parametrize("name", ["", "a\x00b", "a\nb", "\x7f", "\ud800", "x" * 513])
async def test_names_are_checked_everywhere(service: MemoryService, name: str) -> None:
    for call in (
        service.store("n", name, 1),
        service.store(name, "k", 1),
        service.retrieve("n", name),
        service.retrieve(name, "k"),
        service.delete("n", name),
        service.touch(name, "k"),
        service.restore("n", name),
        service.list(name),
        service.search(name, "x"),
    ):
        with pytest.raises(InvalidArgumentError, match="must be 1 to"):
            await call


async def test_compare_and_set(service: MemoryService) -> None:
    await service.store("n", "k", 1, if_version=0)
    with pytest.raises(ConflictError, match="at version 1, not at 0") as caught:
        await service.store("n", "k", 2, if_version=0)
    assert caught.value.details == {"version": 1}
    assert (await service.store("n", "k", 2, if_version=1)).version == 2
    for wrong in (-1, True):
        with pytest.raises(InvalidArgumentError, match="ifVersion"):
            await service.store("n", "k", 2, if_version=wrong)


async def test_touch_renews_with_the_entrys_own_ttl(service: MemoryService, clock: ManualClock) -> None:
    await service.store("n", "k", 1, ttl=10)
    await service.store("n", "ever", 1, ttl=0)
    clock.advance(9)
    assert (await service.touch("n", "k")).expires_at == clock.now() + 10_000
    assert (await service.touch("n", "ever")).expires_at is None
    assert (await service.touch("n", "k", ttl=60)).expires_at == clock.now() + 60_000
    with pytest.raises(NotFoundError, match="to touch"):
        await service.touch("n", "never")


async def test_what_has_expired_stays_so_when_the_clock_is_set_back(service: MemoryService, clock: ManualClock) -> None:
    await service.store("n", "short", 1, ttl=10)
    await service.store("n", "long", 1, ttl=1_000)
    clock.advance(10)
    assert await service.retrieve("n", "short") is None
    clock.set_wall_clock(-600)
    assert await service.retrieve("n", "short") is None
    assert [entry.key for entry in (await service.list("n")).entries] == ["long"]
    assert [s.count for s in (await service.namespaces()).namespaces] == [1]
    clock.advance(989.999)
    assert await service.retrieve("n", "long") is not None  # what is left of a ttl passes as ever
    clock.advance(0.001)
    assert await service.retrieve("n", "long") is None


async def test_a_restarted_deck_goes_on_from_the_latest_time(store: SqliteMemoryStore, clock: ManualClock) -> None:
    first = MemoryService(ready(store), clock, WEEK, DAY)
    await first.store("n", "k", 1, ttl=10)
    clock.advance(10)
    assert await first.retrieve("n", "k") is None  # whoever uses it notes the time
    clock.set_wall_clock(-1_800)
    restarted = MemoryService(ready(store), clock, WEEK, DAY)
    assert await restarted.retrieve("n", "k") is None
    stored = await restarted.store("n", "new", 1, ttl=5)
    assert stored.expires_at == restarted.clock.now() + 5_000
    clock.advance(5)
    assert await restarted.retrieve("n", "new") is None


async def test_decks_side_by_side_follow_the_latest_time(store: SqliteMemoryStore, clock: ManualClock) -> None:
    slow = ManualClock(clock.now())
    ahead, behind = MemoryService(ready(store), clock, WEEK, DAY), MemoryService(ready(store), slow, WEEK, DAY)
    await behind.store("n", "k", 1, ttl=600)
    clock.set_wall_clock(1_200)
    assert await ahead.retrieve("n", "k") is None
    slow.advance(1)
    assert await behind.retrieve("n", "k") is None
    await behind.store("n", "other", 1)
    restarted = MemoryService(ready(store), slow, WEEK, DAY)
    assert await restarted.retrieve("n", "k") is None


async def test_a_clock_that_was_far_ahead_once_is_not_followed(
    store: SqliteMemoryStore, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.set_wall_clock(30 * DAY)
    await MemoryService(ready(store), clock, WEEK, DAY).store("n", "k", 1)
    clock.set_wall_clock(-30 * DAY)
    restarted = MemoryService(ready(store), clock, WEEK, DAY)
    stored = await restarted.store("n", "new", 1, ttl=5)
    assert stored.expires_at == clock.now() + 5_000
    assert f"memory was last used {30 * DAY} s in the future" in caplog.text
    again = MemoryService(ready(store), clock, WEEK, DAY)
    assert (await again.store("n", "new", 1)).updated_at == clock.now()
    assert caplog.text.count("in the future") == 1


async def test_restore_within_the_window_only(service: MemoryService, clock: ManualClock) -> None:
    await service.store("n", "k", "kept", ttl=0)
    await service.delete("n", "k")
    clock.advance(DAY - 1)
    assert (await service.restore("n", "k")).value == "kept"
    await service.delete("n", "k")
    clock.advance(DAY)
    with pytest.raises(NotFoundError, match="nothing to restore"):
        await service.restore("n", "k")


async def test_a_window_of_zero_turns_restoring_off(
    store: SqliteMemoryStore, service: MemoryService, clock: ManualClock
) -> None:
    await service.store("n", "old", 1)
    without = MemoryService(ready(store), clock, WEEK, 0)
    for key in ("old", "new"):
        await without.store("n", key, 1)
        await without.delete("n", key)
        with pytest.raises(NotFoundError, match="nothing to restore"):
            await without.restore("n", key)


async def test_entries_that_skip_the_trash(service: MemoryService) -> None:
    await service.store("n", "k", 1, own_record=True)
    await service.store("n", "k", 2, own_record=True)
    with pytest.raises(NotFoundError):
        await service.restore("n", "k")
    await service.delete("n", "k")
    with pytest.raises(NotFoundError):
        await service.restore("n", "k")


async def test_writes_clear_away_what_is_over(store: SqliteMemoryStore, clock: ManualClock) -> None:
    service = MemoryService(ready(store), clock, WEEK, 60)
    start = clock.now()
    for number in range(50):
        await service.store("n", f"short-{number}", 1, ttl=1)
    clock.advance(61)
    for number in range(300):
        await service.store("n", f"long-{number % 10}", 1)
    # Purged entries are not even there for a reader in the past.
    assert await store.page("n", now=start, limit=99, prefix="short") == []
    assert len((await service.list("n")).entries) == 10


async def test_listing_reaches_everything_while_entries_change(service: MemoryService) -> None:
    for number in range(230):
        await service.store("n", f"k{number:03}", number)
    seen: list[str] = []
    cursor = None
    while True:
        page = await service.list("n", limit=50, cursor=cursor)
        seen += [entry.key for entry in page.entries]
        assert page.notice is None
        cursor = page.next_cursor
        if cursor is None:
            break
        await service.delete("n", seen[0])
        await service.store("n", seen[0] + "-", 1)
    assert seen == [f"k{number:03}" for number in range(230)]


async def test_a_full_last_page_has_no_cursor(service: MemoryService) -> None:
    for number in range(4):
        await service.store("n", f"k{number}", number)
    assert (await service.list("n", limit=4)).next_cursor is None
    assert (await service.search("n", "k", limit=4)).next_cursor is None
    assert (await service.namespaces(limit=1)).next_cursor is None
    assert (await service.list("empty")).entries == []


@pytest.mark.parametrize("cursor", ["x", "é", "not base64!", "_w==", "AA==", "bg", "-1", "1" * 40, "0x1"])
async def test_a_forged_cursor_is_refused(service: MemoryService, cursor: str) -> None:
    for call in (service.list("n", cursor=cursor), service.search("n", "x", cursor=cursor)):
        with pytest.raises(InvalidArgumentError, match="nextCursor"):
            await call


async def test_search_pages_and_refuses_what_holds_no_word(service: MemoryService) -> None:
    for number in range(5):
        await service.store("n", f"k{number}", "tea")
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = await service.search("n", "tea", limit=2, cursor=cursor)
        seen += [hit.entry.key for hit in page.hits]
        cursor = page.next_cursor
    assert sorted(seen) == [f"k{number}" for number in range(5)]
    assert cursor is None
    for query in ("", " ", "%", "_ *", "tea\x00", "\ud800", "x" * 513):
        with pytest.raises(InvalidArgumentError, match="query: must"):
            await service.search("n", query)
    assert len((await service.search("n", "%\ttea\n")).hits) == 5


async def test_a_token_limit_says_what_it_left_out(service: MemoryService) -> None:
    for number in range(10):
        await service.store("n", f"k{number}", "word " * 200)
    await service.store("n", "a-large", "word " * 4_000)
    seen: list[str] = []
    notices: list[str | None] = []
    cursor = None
    while True:
        page = await service.list("n", cursor=cursor, max_tokens=2_000)
        seen += [entry.key for entry in page.entries]
        notices.append(page.notice)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["a-large", *(f"k{number}" for number in range(10))]
    assert notices[0] == "'a-large' alone needs about 5271 tokens: raise maxTokens, or retrieve it by its key"
    assert notices[1] == "5 of 10 fit maxTokens: pass nextCursor as cursor for the rest"
    assert notices[-1] is None
    first = (await service.list("n", max_tokens=2_000)).entries[0]
    assert (first.text, first.size) == ("", 20_002)
    assert len((await service.list("n", include_values=False, max_tokens=2_000)).entries) > 5
    found = await service.search("n", "word", max_tokens=2_000)
    assert found.notice
    assert found.next_cursor


async def test_namespaces(service: MemoryService) -> None:
    for name in ("a", "b", "c"):
        await service.store(name, "k", "x")
    page = await service.namespaces(limit=2)
    assert [(s.namespace, s.count, s.size) for s in page.namespaces] == [("a", 1, 3), ("b", 1, 3)]
    rest = await service.namespaces(limit=2, cursor=page.next_cursor)
    assert [s.namespace for s in rest.namespaces] == ["c"]
    assert rest.next_cursor is None


async def test_a_store_that_cannot_write_is_an_error_and_not_a_success(
    store: SqliteMemoryStore, service: MemoryService
) -> None:
    await service.store("n", "k", 1)
    await store.close()
    with pytest.raises(StorageError):
        await service.store("n", "k", 2)
    with pytest.raises(StorageError):
        await service.retrieve("n", "k")


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
characters = st.characters(exclude_categories=["Cs"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(characters),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=9), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(namespace=names, key=names, value=json_values, ttl=st.none() | st.floats(0, 1e6) | st.integers(0, 10**9))
async def test_any_json_under_any_name_comes_back_the_same(
    namespace: str, key: str, value: Any, ttl: float | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteMemoryStore(Path(folder) / "m.db")
        service = MemoryService(ready(store), ManualClock(), WEEK, DAY)
        stored = await service.store(namespace, key, value, ttl=ttl)
        read = await service.retrieve(namespace, key)
        assert read is not None
        assert read == stored
        assert json.dumps(read.value) == json.dumps(value)
        assert [entry.key for entry in (await service.list(namespace, prefix=key)).entries] == [key]
        await store.close()


@dataclass(frozen=True)
class Model:
    """What a user expects of one key."""

    value: int = 0
    version: int = 0
    ttl: int = 0
    expires_at: int | None = None
    deleted_at: int | None = None
    earlier: tuple[int, int, int] | None = None  # value, ttl, restorable until

    def ended_at(self, now: int) -> int | None:
        """When it ended, None while it lives."""
        if self.deleted_at is not None:
            return self.deleted_at
        return self.expires_at if self.expires_at is not None and self.expires_at <= now else None

    def live(self, now: int) -> bool:
        return self.version > 0 and self.ended_at(now) is None


WINDOW = 30
keys = st.sampled_from(["a", "b"])
ttls = st.sampled_from([0, 5, 50])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("store"), keys, ttls),
        st.tuples(st.just("store at"), keys, ttls),
        st.tuples(st.just("delete"), keys, st.none()),
        st.tuples(st.just("touch"), keys, st.none() | ttls),
        st.tuples(st.just("restore"), keys, st.none() | ttls),
        st.tuples(st.just("advance"), st.none(), st.sampled_from([1, 4, 5, 29, 30])),
    ),
    max_size=25,
)


def expires(now: int, ttl: int) -> int | None:
    return now + ttl * 1000 if ttl else None


def after_store(model: Model, now: int, value: int, ttl: int) -> Model:
    until = (model.ended_at(now) or now) + WINDOW * 1000
    earlier = (model.value, model.ttl, until) if model.version and until > now else None
    return Model(value, model.version + 1, ttl, expires(now, ttl), None, earlier)


def after_restore(model: Model, now: int, ttl: int | None) -> Model | None:
    version = model.version + 1
    ended = model.ended_at(now)
    if model.live(now):
        if model.earlier is None or model.earlier[2] <= now:
            return None
        value, own, _ = model.earlier
        ttl = own if ttl is None else ttl
        return Model(value, version, ttl, expires(now, ttl), None, (model.value, model.ttl, now + WINDOW * 1000))
    if ended is None or ended + WINDOW * 1000 <= now:
        return None
    ttl = model.ttl if ttl is None else ttl
    return replace(model, version=version, ttl=ttl, expires_at=expires(now, ttl), deleted_at=None)


@settings(max_examples=80, deadline=None)
@given(steps=steps)
async def test_any_sequence_of_calls_does_what_the_model_says(steps: list[tuple[str, str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteMemoryStore(Path(folder) / "m.db")
        clock = ManualClock()
        service = MemoryService(ready(store), clock, 5, WINDOW)
        models = {"a": Model(), "b": Model()}
        for number, (step, key, argument) in enumerate(steps):
            now = clock.now()
            if step == "advance":
                clock.advance(argument)
            else:
                model = models[key]
                seen = model.version if model.live(now) else 0
                match step:
                    case "store" | "store at":
                        entry = await service.store(
                            "n", key, number, ttl=argument, if_version=seen if step == "store at" else None
                        )
                        models[key] = after_store(model, now, number, argument)
                        assert entry.version == models[key].version
                    case "delete":
                        assert await service.delete("n", key) == (seen > 0)
                        if seen:
                            models[key] = replace(model, deleted_at=now)
                    case "touch" if seen:
                        ttl = model.ttl if argument is None else argument
                        await service.touch("n", key, ttl=argument)
                        models[key] = replace(model, ttl=ttl, expires_at=expires(now, ttl))
                    case "touch":
                        with pytest.raises(NotFoundError):
                            await service.touch("n", key, ttl=argument)
                    case _:
                        restored = after_restore(model, now, argument)
                        if restored is None:
                            with pytest.raises(NotFoundError):
                                await service.restore("n", key, ttl=argument)
                        else:
                            await service.restore("n", key, ttl=argument)
                            models[key] = restored
            now = clock.now()
            live = {key: model for key, model in models.items() if model.live(now)}
            assert {e.key: (e.value, e.version, e.expires_at) for e in (await service.list("n")).entries} == {
                key: (model.value, model.version, model.expires_at) for key, model in live.items()
            }
            for key in models:
                assert (await service.retrieve("n", key) is not None) == (key in live)
                hits = (await service.search("n", f"{key} {models[key].value}")).hits
                assert [hit.entry.key for hit in hits] == [key] * (key in live)
        await store.close()
