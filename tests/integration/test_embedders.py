"""Embedders through a real server: a sentence model, an endpoint, a change from one to the other, and a kill in it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError

from quarterdeck.server.client import DeckClient, ToolRefusedError
from tests.embedders import MINILM, unpack_minilm
from tests.here import DeckHere
from tests.servers.embeddings import EmbeddingsServer
from tests.until import until

SEMANTIC = f"semantic:{MINILM}"
KEY = "s3cret-k3y"
TEXTS = {
    "car": "The automobile would not start this morning",
    "sea": "Humpback whales sing for hours",
    "tea": "Pour boiling water over the leaves and wait",
    "law": "The court dismissed the appeal",
}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_minilm(tmp_path_factory.mktemp("models") / "minilm")


@pytest.fixture
def endpoint() -> Iterator[EmbeddingsServer]:
    server = EmbeddingsServer()
    yield server
    server.close()


def points(texts: dict[str, str]) -> list[dict[str, Any]]:
    return [{"id": key, "text": text} for key, text in texts.items()]


async def best(deck: DeckClient, collection: str, query: str, **arguments: Any) -> str:
    answer = await deck.call("vector_search", collection=collection, query=query, limit=1, **arguments)
    [[hit]] = answer["results"]
    key: str = hit["id"]
    return key


async def described(deck: DeckClient, collection: str) -> dict[str, Any]:
    answer = await deck.call("vector_collections", action="describe", collection=collection)
    [info] = answer["collections"]
    return info


async def refused(deck: DeckClient, tool: str, **arguments: Any) -> str:
    with pytest.raises(ToolRefusedError) as caught:
        await deck.call(tool, **arguments)
    error: str = caught.value.answer["error"]
    return error


async def test_a_collection_keeps_its_embedder_until_it_is_converted(tmp_path: Path, minilm: Path) -> None:
    data = tmp_path / "data"
    environment = {"QUARTERDECK_EMBEDDER": f"{SEMANTIC}@{minilm}", "HF_ENDPOINT": "http://127.0.0.1:1"}
    async with DeckHere(data) as deck:
        await deck.call("vector_upsert", collection="old", points=points(TEXTS))

    async with DeckHere(data, environment=environment) as deck:
        assert await best(deck, "old", "whales") == "sea", "the lexical embedder is still there for what it made"
        await deck.call("vector_upsert", collection="old", points=[{"id": "late", "text": "tides turn"}])
        await deck.call("vector_upsert", collection="new", points=points(TEXTS))
        assert [(await described(deck, name))["embedder"] for name in ("old", "new")] == ["lexical", SEMANTIC]
        assert await best(deck, "new", "a car that is broken") == "car", "no word in common"

        told: list[tuple[float, float | None, str | None]] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, total, message))

        answer = await deck.call("vector_collections", action="reembed", collection="old", on_progress=on_progress)
        assert (answer["collections"][0]["embedder"], answer["collections"][0]["count"]) == (SEMANTIC, 5)
        assert told[-1] == (5, 5, f"embedding with {SEMANTIC}")
        assert await best(deck, "old", "a car that is broken") == "car"
        listed = await deck.call("vector_collections", action="list")
        assert [info["collection"] for info in listed["collections"]] == ["new", "old"]

    async with DeckHere(data) as deck:
        for tool, arguments in (
            ("vector_search", {"query": "whales"}),
            ("vector_upsert", {"points": points({"more": "tides"})}),
        ):
            error = await refused(deck, tool, collection="new", **arguments)
            assert f"holds texts embedded by '{SEMANTIC}' (384 numbers), which is not configured here" in error
            assert "set QUARTERDECK_EMBEDDER to it, or convert the collection with vector_collections reembed" in error
        assert await best(deck, "new", "whales", mode="text") == "sea", "words need no embedder"
        await deck.call("vector_collections", action="reembed", collection="new", embedder="lexical")
        assert await best(deck, "new", "whales") == "sea"


async def test_hybrid_finds_by_meaning_and_by_words(tmp_path: Path, minilm: Path) -> None:
    texts = TEXTS | {"part": "Item XJ-4711 is in stock", "ink": "The printer is out of ink"}
    async with DeckHere(tmp_path, environment={"QUARTERDECK_EMBEDDER": f"semantic@{minilm}"}) as deck:
        await deck.call("vector_upsert", collection="c", points=points(texts))
        found = {
            mode: await deck.call("vector_search", collection="c", query="broken car XJ-4711", mode=mode, limit=2)
            for mode in ("text", "hybrid")
        }
    ranks = {mode: [hit["id"] for hit in answer["results"][0]] for mode, answer in found.items()}
    assert ranks == {"text": ["part"], "hybrid": ["part", "car"]}


async def test_without_network_and_model_the_call_is_refused_and_the_deck_serves_on(tmp_path: Path) -> None:
    environment = {"QUARTERDECK_EMBEDDER": "semantic", "HF_ENDPOINT": "http://127.0.0.1:1"}
    async with DeckClient(tmp_path, environment=environment) as deck:
        error = await refused(deck, "vector_upsert", collection="c", points=points(TEXTS))
        assert "the model hub does not answer" in error
        assert f"QUARTERDECK_EMBEDDER=semantic:{MINILM}@FOLDER" in error
        await deck.call("vector_collections", action="create", collection="c", embedder="lexical")
        await deck.call("vector_upsert", collection="c", points=points(TEXTS))
        assert await best(deck, "c", "whales") == "sea"
        assert '"level": "ERROR"' not in deck.stderr


async def test_an_endpoint_embeds_and_its_key_stays_hidden(tmp_path: Path, endpoint: EmbeddingsServer) -> None:
    environment = {"QUARTERDECK_EMBEDDER": f"openai:letters@{endpoint.url}", "QUARTERDECK_EMBEDDER_KEY": KEY}
    async with DeckClient(tmp_path, environment=environment) as deck:
        endpoint.next.append((500, {"Retry-After": "0"}, "no"))
        await deck.call("vector_upsert", collection="c", points=points(TEXTS))
        assert await best(deck, "c", TEXTS["law"]) == "law"
        endpoint.next.append((401, {}, f"bad key {KEY}"))
        error = await refused(deck, "vector_search", collection="c", query="whales")
        assert "HTTP 401: bad key ***; check QUARTERDECK_EMBEDDER_KEY" in error
        assert KEY not in deck.stderr
    assert set(endpoint.authorizations) == {f"Bearer {KEY}"}

    endpoint.dimension = 20
    async with DeckClient(tmp_path, environment=environment) as deck:
        error = await refused(deck, "vector_upsert", collection="c", points=points(TEXTS))
        assert "embedded by 'openai:letters' in 26 numbers, and it makes 20 now" in error
        await deck.call("vector_collections", action="reembed", collection="c")
        assert (await described(deck, "c"))["dimension"] == 20
        assert await best(deck, "c", TEXTS["law"]) == "law"


def test_the_configuration_shows_no_key(tmp_path: Path) -> None:
    environment = {**os.environ, "QUARTERDECK_DATA_DIR": str(tmp_path), "QUARTERDECK_EMBEDDER_KEY": KEY}
    command = [sys.executable, "-m", "quarterdeck.server", "config"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "QUARTERDECK_EMBEDDER_KEY=***" in done.stdout
    assert KEY not in done.stdout + done.stderr


async def test_a_kill_in_a_conversion_leaves_the_old_and_the_next_goes_on(
    tmp_path: Path, endpoint: EmbeddingsServer
) -> None:
    many = {f"p{number:03}": f"text {chr(97 + number % 26) * (1 + number)}" for number in range(300)}
    environment = {"QUARTERDECK_EMBEDDER": f"openai:letters@{endpoint.url}"}
    async with DeckClient(tmp_path, environment=environment) as deck:
        await deck.call("vector_collections", action="create", collection="c", embedder="lexical", metric="dot")
        await deck.call("vector_upsert", collection="c", points=points(many))
        pages: list[float] = []

        async def hold(progress: float, total: float | None, message: str | None) -> None:
            pages.append(progress)
            endpoint.silence.clear()

        converting = asyncio.create_task(
            deck.call("vector_collections", action="reembed", collection="c", on_progress=hold)
        )
        await until(lambda: endpoint.is_withholding)
        assert pages
        await deck.call("vector_upsert", collection="c", points=points({"p000": "whales sing", "zz": "tides turn"}))
        await deck.call("vector_delete", collection="c", ids=["p001"])
        assert await best(deck, "c", "whales") == "p000", "the old one serves"
        await deck.kill()
        with pytest.raises(MCPError, match="Connection closed"):
            await converting
    endpoint.silence.set()

    async with DeckClient(tmp_path, environment=environment) as deck:
        assert (await described(deck, "c"))["embedder"] == "lexical"
        assert await best(deck, "c", "whales") == "p000"
        listed = await deck.call("vector_collections", action="list")
        assert [info["collection"] for info in listed["collections"]] == ["c"]
        endpoint.requests.clear()
        await deck.call("vector_collections", action="reembed", collection="c")
        info = await described(deck, "c")
        assert (info["embedder"], info["dimension"], info["metric"]) == ("openai:letters", 26, "dot")
        assert info["count"] == 300
        again = [text for request in endpoint.requests for text in request["input"]]
        assert len(again) == 1 + 1 + 100 + 1, "the dimension, what was changed, and what had not been embedded"
        assert await best(deck, "c", "whales sing") == "p000"
        assert await best(deck, "c", "zzz", filter={"text": "tides turn"}) == "zz"
