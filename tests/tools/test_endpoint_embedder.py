"""An embedder behind HTTP: what it sends, what it tries again, and what it refuses to believe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.vectors.embedders.base import EmbedderError
from quarterdeck.tools.vectors.embedders.endpoint import ATTEMPTS, BATCH, EndpointEmbedder
from tests.servers.embeddings import EmbeddingsServer
from tests.until import until

KEY = "s3cret-k3y"
AT_ONCE = {"Retry-After": "0"}


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    server = EmbeddingsServer()
    yield server
    server.close()


@pytest.fixture
async def embedder(server: EmbeddingsServer) -> AsyncIterator[EndpointEmbedder]:
    embedder = await opened(server.url)
    yield embedder
    await embedder.close()


async def opened(url: str, key: str | None = KEY, patience: float = 20) -> EndpointEmbedder:
    return await EndpointEmbedder.open("openai:letters", "letters", url, key, patience)


async def test_texts_become_unit_vectors_in_their_order(server: EmbeddingsServer, embedder: EndpointEmbedder) -> None:
    assert (embedder.name, embedder.dimension) == ("openai:letters", 26)
    texts = [f"{'ab' * number}z" for number in range(2 * BATCH + 1)]
    rows = await embedder.embed(texts)
    assert (rows.shape, rows.dtype) == ((len(texts), 26), np.float32)
    wanted = np.array([server.vector(text) for text in texts], np.float32)
    assert np.allclose(rows, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))
    assert [len(request["input"]) for request in server.requests] == [1, BATCH, BATCH, 1]
    assert {request["model"] for request in server.requests} == {"letters"}
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    assert (await embedder.embed([])).shape == (0, 26)


async def test_without_a_key_none_is_sent(server: EmbeddingsServer) -> None:
    await (await opened(server.url, key=None)).close()
    assert server.authorizations == [None]


async def test_a_lone_surrogate_is_replaced(server: EmbeddingsServer, embedder: EndpointEmbedder) -> None:
    await embedder.embed(["a\ud800b"])
    assert server.requests[-1]["input"] == ["a?b"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(server: EmbeddingsServer, embedder: EndpointEmbedder, status: int) -> None:
    server.next.extend([(status, AT_ONCE, "busy")] * (ATTEMPTS - 1))
    before = len(server.requests)
    assert (await embedder.embed(["words"])).shape == (1, 26)
    assert len(server.requests) == before + ATTEMPTS
    server.next.extend([(status, AT_ONCE, "busy")] * ATTEMPTS)
    with pytest.raises(EmbedderError, match=f"'openai:letters' at http://127.0.0.1:.*: HTTP {status}: busy"):
        await embedder.embed(["words"])
    assert not server.next


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_what_will_not_pass_is_tried_once_and_told_without_the_key(
    server: EmbeddingsServer, embedder: EndpointEmbedder, status: int
) -> None:
    server.next.append((status, {}, f'{{"error":\n "no {KEY} {"x" * 1000}"}}'))
    with pytest.raises(EmbedderError) as caught:
        await embedder.embed(["words"])
    assert f"HTTP {status}: " in caught.value.message
    assert '"no *** x' in caught.value.message
    assert len(caught.value.message) < 400
    assert ("QUARTERDECK_EMBEDDER_KEY" in caught.value.message) == (status == 401)


async def test_a_server_that_is_too_slow_is_given_up_at_once(server: EmbeddingsServer) -> None:
    server.silence.clear()
    with pytest.raises(EmbedderError, match="does not answer"):
        await opened(server.url, patience=0.2)
    assert len(server.requests) == 1


async def test_a_slow_server_does_not_hold_the_loop(server: EmbeddingsServer, embedder: EndpointEmbedder) -> None:
    server.silence.clear()
    asking = asyncio.create_task(embedder.embed(["words"]))
    await until(lambda: len(server.requests) == 2)
    assert not asking.done()
    server.silence.set()
    assert (await asking).shape == (1, 26)


async def test_nobody_there_is_said_plainly(server: EmbeddingsServer) -> None:
    with pytest.raises(EmbedderError, match=r"at http://127\.0\.0\.1:1/v1/ does not answer: .*connect"):
        await opened("http://127.0.0.1:1/v1")


def answer(*data: dict[str, Any]) -> str:
    return json.dumps({"data": data})


ONE = {"index": 0, "embedding": [1.0] * 26}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (answer({**ONE, "embedding": [1.0] * 25}), "a vector has 25 numbers, the first one had 26"),
        (answer({**ONE, "embedding": [0.0] * 26}), "a vector is zero or too large"),
        (answer({**ONE, "embedding": [1e300] * 26}), "a vector is zero or too large"),
        (answer(ONE, {**ONE, "index": 1}), "2 vectors for 1 texts"),
        (answer({**ONE, "index": 1}), "1 vectors for 1 texts"),
        (answer(), "0 vectors for 1 texts"),
        (answer({**ONE, "embedding": []}), "1 vectors for 1 texts"),
        (answer({**ONE, "embedding": [1e999]}), "not an embeddings answer: data.0.embedding.0"),
        (answer({**ONE, "embedding": "AAAA"}), "not an embeddings answer: data.0.embedding"),
        ("<html>", "not an embeddings answer"),
        ('{"embeddings": []}', "not an embeddings answer: data Field required"),
    ],
)
async def test_what_is_no_vector_is_refused(
    server: EmbeddingsServer, embedder: EndpointEmbedder, body: str, message: str
) -> None:
    server.next.append((200, {}, body))
    with pytest.raises(EmbedderError, match=message):
        await embedder.embed(["words"])


async def test_a_blank_text_is_refused_before_anything_is_sent(
    server: EmbeddingsServer, embedder: EndpointEmbedder
) -> None:
    with pytest.raises(InvalidArgumentError, match=r"nothing to embed in the text ' \\n'"):
        await embedder.embed(["fine", " \n"])
    assert len(server.requests) == 1
