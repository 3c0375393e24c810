"""The vector tools as a client sees them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from mcp.server.mcpserver import MCPServer

from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.vectors.base import VectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from quarterdeck.tools.vectors.search_tool import MAX_QUERIES, SearchArguments
from quarterdeck.tools.vectors.service import VectorService
from quarterdeck.tools.vectors.tool import MAX_POINTS, vector_tools
from tests.clock import ManualClock
from tests.docstrings import docstrings
from tests.embedders import offering
from tests.tools.calling import call

PLANE: list[dict[str, Any]] = [
    {"id": "east", "vector": [1, 0], "payload": {"n": 1}},
    {"id": "north", "vector": [0, 1], "payload": {"n": 2}},
    {"id": "west", "vector": [-1, 0.0]},
]


class Deck:
    """Calls a server that has only these tools, and checks each answer against the published schema."""

    def __init__(self, service: VectorService, clock: ManualClock) -> None:
        tools = vector_tools(service)
        self.clock = clock
        self._server = MCPServer("test", tools=[*tools])
        self._schemas = {tool.name: tool.fn_metadata.output_schema for tool in tools}

    async def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        is_error, answer = await call(self._server, tool, arguments)
        assert not is_error, answer
        assert answer["success"] is True
        jsonschema.validate(answer, self._schemas[tool] or False)
        return answer

    async def refusal(self, tool: str, **arguments: Any) -> str:
        is_error, answer = await call(self._server, tool, arguments)
        assert is_error, answer
        assert answer["success"] is False
        text: str = answer["error"]
        return text

    async def nearest(self, **arguments: Any) -> list[str]:
        (hits,) = (await self.answer("vector_search", collection="c", **arguments))["results"]
        return [hit["id"] for hit in hits]


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    clock = ManualClock()

    async def open_store() -> VectorStore:
        return await FaissVectorStore.open(tmp_path / "vectors.db", clock)

    store = OnFirstUse(open_store)
    yield Deck(VectorService(store, offering(), clock), clock)
    if store.opened is not None:
        await store.opened.close()


async def test_vectors_are_upserted_searched_and_deleted(deck: Deck) -> None:
    assert await deck.answer("vector_upsert", collection="c", points=PLANE) == {
        "success": True,
        "collection": "c",
        "upserted": 3,
        "count": 3,
    }
    assert await deck.answer("vector_search", collection="c", vector=[2, 0.0], limit=2) == {
        "success": True,
        "collection": "c",
        "metric": "cosine",
        "results": [
            [{"id": "east", "score": 1.0, "payload": {"n": 1}}, {"id": "north", "score": 0.0, "payload": {"n": 2}}]
        ],
    }
    assert await deck.nearest(vector=[1, 0], filter={"n": {"gt": 1}}) == ["north"]
    assert await deck.nearest(vector=[1, 0], scoreThreshold=0.5) == ["east"]
    assert await deck.nearest(vector=[1, 0], score_threshold=0.5) == ["east"]
    deleted = await deck.answer("vector_delete", collection="c", ids=["east", "unknown"])
    assert (deleted["deleted"], deleted["count"]) == (1, 2)
    deleted = await deck.answer("vector_delete", collection="c", filter={"n": {"exists": False}})
    assert (deleted["deleted"], deleted["count"]) == (1, 1)


async def test_lists_and_objects_may_come_as_json_text(deck: Deck) -> None:
    await deck.answer("vector_upsert", collection="c", points=json.dumps(PLANE))
    assert await deck.nearest(vector="[0, 3]", limit=1) == ["north"]
    assert await deck.nearest(vector=[1, 0], filter='{"n": 2}') == ["north"]
    answer = await deck.answer("vector_search", collection="c", vectors="[[1, 0], [0, 1]]", limit=1)
    assert [[hit["id"] for hit in hits] for hits in answer["results"]] == [["east"], ["north"]]
    assert (await deck.answer("vector_delete", collection="c", ids='["east"]'))["deleted"] == 1


async def test_real_texts_are_found_by_their_words(deck: Deck) -> None:
    points = [{"id": key, "text": text, "payload": {"module": key.split(".")[0]}} for key, text in docstrings().items()]
    await deck.answer("vector_upsert", collection="c", points=points)
    queries = ["merge multiple sorted inputs into a single sorted output", "wrap a paragraph of text to a given width"]
    answer = await deck.answer("vector_search", collection="c", queries=queries, limit=5)
    merged, wrapped = answer["results"]
    assert merged[0]["id"] == "heapq.merge"
    assert merged[0]["payload"] == {"module": "heapq", "text": docstrings()["heapq.merge"]}
    assert any(hit["id"].startswith("textwrap.") for hit in wrapped[:2])
    only = await deck.nearest(query=queries[0], filter={"module": "shutil"}, limit=3)
    assert len(only) == 3
    assert all(key.startswith("shutil.") for key in only)


async def test_hybrid_fuses_both_rankings_by_reciprocal_rank(deck: Deck) -> None:
    """On a real corpus, with vectors of the callers: the answer is the formula's, from the two lists."""
    texts = docstrings()
    vectors = dict(zip(texts, await LexicalEmbedder(48).embed(list(texts.values())), strict=True))  # 48: often wrong
    points = [
        {"id": key, "vector": vectors[key].tolist(), "payload": {"text": text, "long": len(text) > 500}}
        for key, text in texts.items()
    ]
    await deck.answer("vector_upsert", collection="c", points=points)
    asked = ["merge multiple sorted inputs into a single sorted output", "wrap a paragraph of text to a given width"]
    near = [vector.tolist() for vector in await LexicalEmbedder(48).embed(asked)]
    for filtered in ({}, {"filter": {"long": True}}):
        lists = [
            (await deck.answer("vector_search", collection="c", limit=100, maxTokens=10**6, **form, **filtered))[
                "results"
            ]
            for form in ({"vectors": near}, {"queries": asked, "mode": "text"})
        ]
        both = {"queries": asked, "vectors": near, "mode": "hybrid", "limit": 10, **filtered}
        answer = await deck.answer("vector_search", collection="c", **both)
        for rankings, hits in zip(zip(*lists, strict=True), answer["results"], strict=True):
            scores: dict[str, float] = {}
            for ranking in rankings:
                for rank, hit in enumerate(ranking):
                    scores[hit["id"]] = scores.get(hit["id"], 0) + 1 / (61 + rank)
            wanted = sorted(scores, key=lambda key: (-scores[key], key))[:10]
            assert [hit["id"] for hit in hits] == wanted
            assert [hit["score"] for hit in hits] == pytest.approx([scores[key] for key in wanted])
            assert [[hit["id"] for hit in ranking[:10]] for ranking in rankings] != [wanted, wanted]
    [[alone]] = (await deck.answer("vector_search", collection="c", query=asked[0], mode="text", limit=1))["results"]
    assert alone["id"] == "heapq.merge"
    assert "holds vectors of its callers" in await deck.refusal(
        "vector_search", collection="c", query=asked[0], mode="hybrid"
    )


async def test_many_queries_are_one_batch_and_answer_as_each_alone(deck: Deck) -> None:
    await deck.answer("vector_upsert", collection="c", points=[{"id": k, "text": t} for k, t in docstrings().items()])
    asked = [text[:60] for text in list(docstrings().values())[:20]]
    for mode in ("vector", "text", "hybrid"):
        batch = (await deck.answer("vector_search", collection="c", queries=asked, mode=mode, limit=3))["results"]
        for query, hits in zip(asked, batch, strict=True):
            alone = await deck.answer("vector_search", collection="c", query=query, mode=mode, limit=3)
            assert [hit["id"] for hit in hits] == [hit["id"] for hit in alone["results"][0]]


async def test_every_precision_is_taken_and_optimize_says_how_the_index_is(deck: Deck) -> None:
    options = {"index": "hnsw", "quantization": "sq8"}
    await deck.answer("vector_collections", action="create", collection="c", dimension=2, **options)
    await deck.answer("vector_upsert", collection="c", points=PLANE)
    for precision in ("fast", "balanced", "exact"):
        assert await deck.nearest(vector=[1, 0.1], precision=precision, limit=2) == ["east", "north"]
    await deck.answer("vector_delete", collection="c", ids=["east"])
    [info] = (await deck.answer("vector_collections", action="optimize", collection="c"))["collections"]
    assert {key: info[key] for key in options} == options
    assert info["state"]["tombstones"] == 0
    assert await deck.nearest(vector=[1, 0.1], limit=1) == ["north"]


async def test_a_conversion_gives_every_point_a_new_vector_and_keeps_the_rest(deck: Deck) -> None:
    points = [{"id": "a", "text": "whales sing", "payload": {"n": 1}}, {"id": "b", "text": "tides turn", "ttl": 5}]
    await deck.answer("vector_collections", action="create", collection="c", embedder="lexical", metric="l2")
    await deck.answer("vector_upsert", collection="c", points=points)
    own = [{"id": "a", "vector": [1, 0], "payload": {"text": "whales sing", "n": 1}}]
    await deck.answer("vector_upsert", collection="own", points=own)
    for name in ("c", "own"):
        answer = await deck.answer("vector_collections", action="reembed", collection=name)
        assert answer["collections"][0]["embedder"] == "lexical"
        hits = (await deck.answer("vector_search", collection=name, query="whales"))["results"][0]
        assert (hits[0]["id"], hits[0]["payload"]) == ("a", {"text": "whales sing", "n": 1})
    deck.clock.advance(5)
    assert await deck.nearest(query="tides") == ["a"]


async def test_a_payload_keeps_its_own_text(deck: Deck) -> None:
    points = [{"id": "a", "text": "what is embedded", "payload": {"text": "what is shown"}}]
    await deck.answer("vector_upsert", collection="c", points=points)
    answer = await deck.answer("vector_search", collection="c", query="embedded")
    assert answer["results"][0][0]["payload"] == {"text": "what is shown"}


async def test_a_ttl_ends_a_point_and_zero_keeps_it(deck: Deck) -> None:
    points: list[dict[str, Any]] = [
        {"id": "brief", "vector": [1, 0], "ttl": 0.5},
        {"id": "ever", "vector": [1, 0], "ttl": 0},
        {"id": "none", "vector": [1, 0]},
    ]
    await deck.answer("vector_upsert", collection="c", points=points)
    deck.clock.advance(0.499)
    assert sorted(await deck.nearest(vector=[1, 0])) == ["brief", "ever", "none"]
    deck.clock.advance(0.001)
    assert sorted(await deck.nearest(vector=[1, 0])) == ["ever", "none"]


async def test_collections_are_created_described_listed_and_dropped(deck: Deck) -> None:
    created = await deck.answer("vector_collections", action="create", collection="c", dimension=2, metric="l2")
    options = {"index": "auto", "quantization": "none"}
    shape = {"collection": "c", "dimension": 2, "metric": "l2", "embedder": None, "count": 0, **options}
    assert created == {"success": True, "action": "create", "collections": [shape]}
    await deck.answer("vector_upsert", collection="c", points=PLANE)
    described = await deck.answer("vector_collections", action="describe", collection="c")
    [info] = described["collections"]
    state = info.pop("state")
    assert info == {**shape, "count": 3}
    assert (state["index"], state["tombstones"], state["note"]) == ("exact", 0, None)
    await deck.answer("vector_collections", action="create", collection="texts")
    await deck.answer("vector_collections", action="create", collection="a", dimension=5)

    page = await deck.answer("vector_collections", action="list", limit=2)
    assert [info["collection"] for info in page["collections"]] == ["a", "c"]
    page = await deck.answer("vector_collections", action="list", limit=2, cursor=page["nextCursor"])
    assert page["collections"] == [
        {"collection": "texts", "dimension": 384, "metric": "cosine", "embedder": "lexical", "count": 0, **options}
    ]
    assert page["nextCursor"] is None

    dropped = await deck.answer("vector_collections", action="drop", collection="c")
    assert dropped == {"success": True, "action": "drop", "dropped": "c", "deleted": 3}
    assert "no collection 'c' (there: a, texts)" in await deck.refusal("vector_search", collection="c", vector=[1])


async def test_a_collection_made_by_dimension_takes_texts_of_that_dimension(deck: Deck) -> None:
    await deck.answer("vector_collections", action="create", collection="c", dimension=384)
    await deck.answer("vector_upsert", collection="c", points=[{"id": "a", "text": "hello there"}])
    assert await deck.nearest(query="hello") == ["a"]


async def test_scores_are_distances_for_l2(deck: Deck) -> None:
    await deck.answer("vector_collections", action="create", collection="c", dimension=2, metric="l2")
    await deck.answer("vector_upsert", collection="c", points=PLANE)
    answer = await deck.answer("vector_search", collection="c", vector=[1, 0], scoreThreshold=1.5)
    assert [(hit["id"], hit["score"]) for hit in answer["results"][0]] == [("east", 0.0), ("north", 1.414214)]


async def test_max_tokens_leaves_out_the_worst_hits_and_counts_them(deck: Deck) -> None:
    points = [{"id": str(n), "vector": [1, n / 10], "payload": {"x": "y" * 400}} for n in range(10)]
    await deck.answer("vector_upsert", collection="c", points=points)
    whole = await deck.answer("vector_search", collection="c", vectors=[[1, 0], [1, 1]], maxTokens=100_000)
    assert "omitted" not in whole
    short = await deck.answer("vector_search", collection="c", vectors=[[1, 0], [1, 1]], maxTokens=600)
    assert short["results"] == [
        hits[:3] if first else hits[:2] for first, hits in zip((1, 0), whole["results"], strict=True)
    ]
    assert short["omitted"] == 15
    assert short["notice"].startswith("15 of 20 hits are left out")
    assert "maxTokens 600" in short["notice"]
    assert len(json.dumps(short["results"])) <= 2400
    none = await deck.answer("vector_search", collection="c", vector=[1, 0], maxTokens=1)
    assert (none["results"], none["omitted"]) == ([[]], 10)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("vector_search", {}, "give exactly one of query, vector, queries, vectors"),
        ("vector_search", {"query": "a", "vector": [1]}, "give exactly one of query, vector, queries, vectors"),
        ("vector_search", {"queries": []}, "queries"),
        ("vector_search", {"queries": ["a"] * (MAX_QUERIES + 1)}, f"at most {MAX_QUERIES}"),
        ("vector_search", {"vector": [1, "2"]}, "vector.1"),
        ("vector_search", {"vector": [1, True]}, "vector.1"),
        ("vector_search", {"vector": [1]}, "query 0 has dimension 1, the collection has 2"),
        ("vector_search", {"vector": [0, 0]}, "query 0 is a zero vector"),
        ("vector_search", {"vector": [1, 0], "limit": 0}, "limit"),
        (
            "vector_search",
            {"vector": [1, 0], "filter": {"n": {"like": 1}}},
            "valid: eq, ne, in, gt, gte, lt, lte, exists",
        ),
        ("vector_search", {"vector": [1, 0], "filter": [1]}, "filter"),
        ("vector_search", {"vector": [1, 0], "mode": "hybrid"}, "mode hybrid needs query or queries"),
        ("vector_search", {"vector": [1, 0], "mode": "both"}, "'vector', 'text' or 'hybrid'"),
        ("vector_search", {"vector": [1, 0], "query": "a"}, "give exactly one of"),
        ("vector_search", {"vector": [1, 0], "queries": ["a", "b"], "mode": "hybrid"}, "give exactly one of"),
        ("vector_search", {"query": "a", "mode": "text", "precision": "fast"}, "precision: not in mode text"),
        (
            "vector_search",
            {"query": "a", "mode": "hybrid", "scoreThreshold": 0.5},
            "scoreThreshold: not in mode hybrid",
        ),
        ("vector_search", {"vector": [1, 0], "precision": "best"}, "'fast', 'balanced' or 'exact'"),
        ("vector_search", {"query": "words"}, "collection 'c' holds vectors of its callers (2 numbers)"),
        ("vector_upsert", {"points": []}, "points"),
        ("vector_upsert", {"points": [{"id": "a"}]}, "give either vector or text"),
        ("vector_upsert", {"points": [{"id": "a", "text": "b", "vector": [1, 0]}]}, "give either vector or text"),
        ("vector_upsert", {"points": [{"id": "a", "text": "b"}, {"id": "b", "vector": [1, 0]}]}, "each a vector"),
        ("vector_upsert", {"points": [{"id": "a", "text": "b"}]}, "collection 'c' has dimension 2"),
        ("vector_upsert", {"points": [{"id": 1, "vector": [1, 0]}]}, "points.0.id"),
        ("vector_upsert", {"points": [{"id": "a", "vector": [1, 0], "ttl": -1}]}, "ttl"),
        ("vector_upsert", {"points": [{"id": "a", "vector": [1, 0], "ttl": True}]}, "ttl"),
        ("vector_upsert", {"points": [{"id": "a", "vector": [1, 0], "payload": 5}]}, "payload"),
        ("vector_upsert", {"points": [{"id": "a", "vector": [1, 0]}] * 2}, "point 'a' is twice in this batch"),
        ("vector_upsert", {"points": PLANE * (MAX_POINTS // 3 + 1)}, f"at most {MAX_POINTS}"),
        ("vector_delete", {}, "give either ids or filter"),
        ("vector_delete", {"ids": ["a"], "filter": {"a": 1}}, "give either ids or filter"),
        ("vector_delete", {"filter": {}}, "an empty one means every point"),
        ("vector_collections", {"action": "create"}, "'c' exists already"),
        ("vector_collections", {"action": "burn"}, "'create', 'list', 'describe', 'drop', 'optimize' or 'reembed'"),
        ("vector_collections", {"action": "reembed"}, "point 'east' has no payload.text to embed"),
        (
            "vector_collections",
            {"action": "reembed", "embedder": "magic"},
            "'magic' is not configured here (valid: lexical)",
        ),
        ("vector_collections", {"action": "optimize", "index": "pq"}, "index: only for create"),
        ("vector_collections", {"action": "drop", "embedder": "lexical"}, "embedder: only for create and reembed"),
        ("vector_collections", {"action": "create", "dimension": 2, "embedder": "lexical"}, "not both"),
        ("vector_collections", {"action": "list"}, "list takes none"),
        ("vector_collections", {"action": "describe", "metric": "dot"}, "metric: only for create"),
    ],
)
async def test_bad_arguments_are_named(deck: Deck, tool: str, arguments: dict[str, Any], message: str) -> None:
    await deck.answer("vector_upsert", collection="c", points=PLANE)
    assert message in await deck.refusal(tool, collection="c", **arguments)
    assert (await deck.answer("vector_collections", action="describe", collection="c"))["collections"][0]["count"] == 3


async def test_texts_and_vectors_do_not_mix(deck: Deck) -> None:
    await deck.answer("vector_upsert", collection="c", points=[{"id": "a", "text": "some words"}])
    refusal = await deck.refusal("vector_upsert", collection="c", points=[{"id": "b", "vector": [1.0] * 384}])
    assert "come from the embedder 'lexical', these from its callers" in refusal
    assert await deck.nearest(vector=[1.0] * 384) == ["a"]


async def test_a_missing_collection_is_answered_with_those_there_are(deck: Deck) -> None:
    assert "no collection 'c' (there: none)" in await deck.refusal("vector_search", collection="c", query="a")
    for number in range(25):
        await deck.answer("vector_collections", action="create", collection=f"n{number:02}", dimension=1)
    for tool, arguments in (
        ("vector_search", {"vector": [1]}),
        ("vector_delete", {"ids": ["a"]}),
        ("vector_delete", {"filter": {"a": 1}}),
        ("vector_collections", {"action": "describe"}),
        ("vector_collections", {"action": "drop"}),
    ):
        refusal = await deck.refusal(tool, collection="c", **arguments)
        assert "n00, n01" in refusal
        assert "n19, …" in refusal
        assert "n20" not in refusal
        assert "vector_upsert or vector_collections create" in refusal


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "ä", "x" * 129, "a\n"])
async def test_a_bad_collection_name_is_refused(deck: Deck, name: str) -> None:
    for tool, arguments in (
        ("vector_upsert", {"points": PLANE}),
        ("vector_collections", {"action": "create", "dimension": 2}),
        ("vector_search", {"vector": [1, 0]}),
    ):
        assert "1 to 128 letters, digits" in await deck.refusal(tool, collection=name, **arguments)


async def test_a_cursor_of_somebody_else_is_refused(deck: Deck) -> None:
    assert "pass the nextCursor" in await deck.refusal("vector_collections", action="list", cursor="a b")


async def test_an_action_without_its_collection_is_refused(deck: Deck) -> None:
    for action in ("create", "describe", "drop"):
        assert f"{action} needs 'collection'" in await deck.refusal("vector_collections", action=action)


def test_starting_with_these_tools_loads_no_numerics() -> None:
    program = (
        "import sys; from quarterdeck.tools.vectors.tool import vector_tools; "
        "print({'numpy', 'faiss', 'aiosqlite'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("given", [[1, 2.5], "[1, 2.5]"])
def test_numbers_become_an_array_at_once(given: object) -> None:
    arguments = SearchArguments.model_validate({"collection": "c", "vector": given})
    assert isinstance(arguments.vector, np.ndarray)
    assert arguments.vector.tolist() == [1.0, 2.5]
