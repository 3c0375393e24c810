"""What is particular to the Qdrant store: filters in its terms, several decks, servers that go away, the API key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from quarterdeck.storage.errors import ConflictError, LimitError, NotFoundError, StorageError
from quarterdeck.storage.vectors import qdrant_catalogue
from quarterdeck.storage.vectors.base import CollectionInfo, IndexKind, Point, Quantization
from quarterdeck.storage.vectors.filters import parse_filter
from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from quarterdeck.storage.vectors.qdrant_catalogue import FRESH
from quarterdeck.storage.vectors.qdrant_filters import translate
from quarterdeck.storage.vectors.qdrant_options import note_on
from quarterdeck.storage.vectors.qdrant_points import to_structs
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from tests.clock import ManualClock
from tests.docstrings import docstrings
from tests.servers.qdrant import API_KEY, QDRANTS, SHIM, QdrantShim, qdrant_place

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
Open = Callable[[], Awaitable[QdrantVectorStore]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=QDRANTS)
async def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[str, str | None]]:
    async with qdrant_place(request, monkeypatch) as url_and_key:
        yield url_and_key


@pytest.fixture
async def open_store(place: tuple[str, str | None], clock: ManualClock) -> AsyncIterator[Open]:
    """Opens stores on one server, as several decks do."""
    opened: list[QdrantVectorStore] = []

    async def open_one() -> QdrantVectorStore:
        opened.append(await QdrantVectorStore.open(*place, clock))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


async def found(store: QdrantVectorStore, **options: Any) -> list[str]:
    (hits,) = await store.search("c", [EAST], limit=options.pop("limit", 500), **options)
    return sorted(hit.id for hit in hits)


# ---- filters

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.5, 1.0, -0.0, 2**53, 2**53 + 1, 2**70, "a", "b" * 80, "", "1", "\U0001f600", '["x"]'])
)
fields = st.sampled_from(["x", "y", "x.y", "x.z", "y y", 'q"q', "é"])
payloads = st.dictionaries(
    st.sampled_from(["x", "y", "z", "y y", 'q"q', "é", "x.y", ""]),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["y", "z"]), inner, max_size=2),
        max_leaves=6,
    ),
    max_size=3,
)
bounds = st.sampled_from([0, 1, 0.5, 2**53 + 1, "a", "1"])
operations = st.one_of(
    st.fixed_dictionaries({"eq": scalars}),
    st.fixed_dictionaries({"ne": scalars}),
    st.fixed_dictionaries({"in": st.lists(scalars, max_size=3)}),
    st.fixed_dictionaries({"exists": st.booleans()}),
    *(st.fixed_dictionaries({name: bounds}) for name in ("gt", "gte", "lt", "lte")),
)
filters = st.recursive(
    st.dictionaries(fields, scalars | operations, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(payloads=st.lists(payloads, min_size=1, max_size=8), wheres=st.lists(filters, min_size=1, max_size=12))
async def test_filters_mean_what_they_mean_everywhere(
    open_store: Open, payloads: list[dict[str, Any]], wheres: list[dict[str, Any]]
) -> None:
    store = await open_store()
    with contextlib.suppress(NotFoundError):
        await store.drop("c")
    await store.upsert("c", [Point(str(n), EAST, payload) for n, payload in enumerate(payloads)])
    for where in wheres:
        accepts = parse_filter(where)
        expected = sorted(str(n) for n, payload in enumerate(payloads) if accepts(payload))
        assert await found(store, where=where) == expected, where
        assert await store.count("c", where) == len(expected), where
        if expected:
            assert await found(store, where=where, limit=1), "some is found, however many do not match"
    await store.close()


def test_common_filters_are_the_servers_work_alone() -> None:
    for where in (
        {},
        {"lang": "en", "tags": {"in": ["a", "b"]}},
        {"author.born": {"gte": 1800, "lt": 1900.5}},
        {"or": [{"draft": {"exists": False}}, {"not": {"draft": True}}]},
    ):
        assert translate(where).is_exact
    for where in ({"date": {"gte": "2024"}}, {"not": {"date": {"gte": "2024"}}}, {"n": {"gt": 2**60}}):
        assert not translate(where).is_exact


async def test_unit_vectors_are_kept_to_the_bit_without_a_copy(open_store: Open) -> None:
    matrix = await LexicalEmbedder().embed(list(docstrings().values())[:100])
    points = [Point(str(n), row) for n, row in enumerate(matrix)]
    info = CollectionInfo("c", matrix.shape[1], "cosine", None, 0)
    assert not any("given" in (struct.payload or {}) for struct in to_structs(points, info))
    store = await open_store()
    await store.upsert("c", points)
    for point, kept in zip(points, await store.get("c", [point.id for point in points]), strict=True):
        assert np.array_equal(kept.vector, point.vector)


# ---- several decks


async def test_decks_that_make_one_collection_at_once_end_with_one(open_store: Open, clock: ManualClock) -> None:
    decks = [await open_store() for _ in range(4)]
    results = await asyncio.gather(*(deck.create("c", 2 + n) for n, deck in enumerate(decks)), return_exceptions=True)
    made = [result for result in results if isinstance(result, CollectionInfo)]
    assert len(made) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 3
    clock.advance(FRESH)
    assert [await deck.describe("c") for deck in decks] == made * 4


async def test_a_deck_follows_a_replacement_within_its_search(open_store: Open) -> None:
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point("old", EAST)])
    assert await found(two) == ["old"]
    await one.upsert("next", [Point("new", EAST)])
    await one.replace("c", "next")
    assert await found(two) == ["new"], "what it took the collection for is gone"
    await one.drop("c")
    with pytest.raises(NotFoundError, match="'c'"):
        await found(two)


async def test_a_write_that_a_replacement_overtook_is_not_acknowledged(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point("old", EAST)])
    await one.upsert("next", [Point("new", EAST)])
    write = AsyncQdrantClient.batch_update_points

    async def overtaken(client: AsyncQdrantClient, name: str, *arguments: Any, **options: Any) -> Any:
        done = await write(client, name, *arguments, **options)
        monkeypatch.setattr(AsyncQdrantClient, "batch_update_points", write)
        await two.replace("c", "next")
        return done

    monkeypatch.setattr(AsyncQdrantClient, "batch_update_points", overtaken)
    with pytest.raises(ConflictError, match="replaced or dropped meanwhile"):
        await one.upsert("c", [Point("lost", EAST)])
    assert await found(one) == ["new"]


async def test_a_successor_does_not_replace_what_was_written_meanwhile(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await open_store(), await open_store()
    await one.upsert("c", [Point("old", EAST)])
    await one.upsert("next", [Point("new", EAST)])
    token = await one.change_token("c")
    remove = qdrant_catalogue.Catalogue.remove

    async def overtaken(catalogue: Any, head: Any) -> None:
        await two.upsert("c", [Point("late", EAST)])
        await remove(catalogue, head)

    monkeypatch.setattr(qdrant_catalogue.Catalogue, "remove", overtaken)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await one.replace("c", "next", unchanged_since=token)
    assert await found(one) == ["late", "old"]
    assert await one.count("next") == 1


async def test_a_cancelled_write_is_announced(open_store: Open) -> None:
    store = await open_store()
    await store.upsert("c", [Point("a", EAST)])
    token = await store.change_token("c")
    writing = asyncio.create_task(store.upsert("c", [Point("b", EAST)]))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await store.close()  # waits for it
    again = await open_store()
    assert await again.change_token("c") != token
    assert await found(again) == ["a", "b"]


# ---- options


@pytest.mark.parametrize(
    ("index", "quantization"),
    [("exact", "none"), ("hnsw", "sq8"), ("auto", "sq4"), ("auto", "pq"), ("pq", "none"), ("hash", "none")],
)
async def test_every_form_of_a_collection_is_searched(open_store: Open, index: Any, quantization: Any) -> None:
    store = await open_store()
    await store.create("c", 32, "cosine", index=index, quantization=quantization)
    rows = np.random.default_rng(5).normal(size=(200, 32)).astype(np.float32)
    await store.upsert("c", [Point(str(n), row) for n, row in enumerate(rows)])
    for precision in ("fast", "balanced", "exact"):
        answers = await store.search("c", list(rows[:20]), limit=1, precision=precision)
        assert [hits[0].id for hits in answers] == [str(n) for n in range(20)]
    state = await store.inspect("c")
    assert (state.index, state.quantization) == ("exact", "none"), "there are too few points for a graph and codes"
    assert (state.note is None) == (index in ("auto", "exact"))


@pytest.mark.parametrize(("index", "quantization", "told"), [("hnsw", "fp16", True), ("hnsw", "none", False)])
def test_a_wish_that_qdrant_has_not_is_told(index: IndexKind, quantization: Quantization, told: bool) -> None:
    info = CollectionInfo("c", 2, "cosine", None, 0, index, quantization)
    assert (note_on(info, "hnsw") is not None) == told


# ---- servers that fail


@pytest.fixture
async def own_shim() -> AsyncIterator[QdrantShim]:
    shim = await asyncio.to_thread(QdrantShim)
    yield shim
    shim.close()


async def test_a_server_that_dies_is_told_and_found_again(own_shim: QdrantShim, clock: ManualClock) -> None:
    store = await QdrantVectorStore.open(own_shim.url, API_KEY, clock)
    await store.upsert("c", [Point("a", EAST)])
    own_shim.kill()
    for call in (found(store), store.upsert("c", [Point("b", EAST)]), store.describe("c")):
        clock.advance(FRESH)
        with pytest.raises(StorageError, match=own_shim.url) as refused:
            await call
        assert API_KEY not in refused.value.message
    with pytest.raises(StorageError, match="cannot connect"):
        await QdrantVectorStore.open(own_shim.url, API_KEY, clock)
    await asyncio.to_thread(own_shim.restart)
    assert await found(store) == ["a"]
    await store.upsert("c", [Point("b", EAST)])
    assert await found(store) == ["a", "b"]
    await store.close()


async def test_a_connection_that_is_cut_in_the_middle_is_told_and_leaves_a_whole_batch_or_none(
    qdrant_shim: QdrantShim, monkeypatch: pytest.MonkeyPatch, clock: ManualClock, request: pytest.FixtureRequest
) -> None:
    request.param = SHIM
    async with qdrant_place(request, monkeypatch), CuttingProxy(qdrant_shim.port) as proxy:
        direct = await QdrantVectorStore.open(qdrant_shim.url, API_KEY, clock)
        store = await QdrantVectorStore.open(proxy.url, API_KEY, clock)
        await store.upsert("c", [Point("a", EAST)])
        acknowledged, told = 0, list[str]()
        for room in range(0, 60_000, 4_000):
            proxy.room = room
            batch = [Point(f"{room}-{n}", EAST, {"pad": "x" * 100}) for n in range(50)]
            try:
                await store.upsert("c", batch)
                acknowledged += 1
            except StorageError as exc:
                told.append(exc.message)
            proxy.room = None
            there = [each for each in await found(direct, limit=2000) if each.startswith(f"{room}-")]
            assert len(there) in (0, 50)
            clock.advance(FRESH)
            assert await found(store, limit=2000) == await found(direct, limit=2000)
        assert 0 < acknowledged < 15
        assert all(text.startswith(f"{proxy.url} gave no proper answer") for text in told)
        await store.close()
        await direct.close()


class CuttingProxy:
    """Passes bytes on to `port`; once a connection has sent `room` of them, it is cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.room: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, sink = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, sink}
        await asyncio.gather(self._pass(reader, sink, counts=True), self._pass(upstream, writer, counts=False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        try:
            while data := await reader.read(2_000):
                if counts and self.room is not None:
                    self.room -= len(data)
                    if self.room < 0:
                        break
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        for each in self._writers if counts and self.room is not None and self.room < 0 else {writer}:
            each.close()


async def test_a_refused_key_is_told_without_it(qdrant_shim: QdrantShim, clock: ManualClock) -> None:
    for key in ("sesame", None):
        with pytest.raises(StorageError, match="refuses the API key") as refused:
            await QdrantVectorStore.open(qdrant_shim.url, key, clock)
        assert "sesame" not in repr(refused.value)
    with pytest.raises(StorageError, match="not a valid address"):
        await QdrantVectorStore.open("http://host:port", None, clock)


async def answering(status: str, body: str) -> tuple[asyncio.Server, str]:
    """A server that gives every request the same answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        ("200 OK", '{"title": "q", "version": "1.9.2"}', StorageError, "Qdrant 1.9.2 is too old: upgrade it to 1.17"),
        ("200 OK", "<html>a page</html>", StorageError, "gave no proper answer"),
        ("500 Internal", '{"status": {"error": "disk\\nfull"}}', StorageError, "HTTP 500: disk full"),
        ("413 Too Large", "", LimitError, "upsert fewer points"),
        ("429 Too Many", "", StorageError, "HTTP 429"),
    ],
)
async def test_what_a_server_may_answer(
    status: str, body: str, error: type[Exception], text: str, clock: ManualClock
) -> None:
    server, url = await answering(status, body)
    with pytest.raises(error, match=text):
        await QdrantVectorStore.open(url, "sesame", clock)
    server.close()
    await server.wait_closed()
