"""Models behind an HTTP endpoint that speaks OpenAI's embeddings call: OpenAI itself, Ollama, vLLM, llama.cpp, TEI."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError

from quarterdeck.storage.remote import one_line

from .base import EmbedderError, check_texts

if TYPE_CHECKING:
    import httpx
    import numpy as np
    from numpy.typing import NDArray

BATCH = 32  # texts of one request: what a server takes unless it was told otherwise (TEI)
CONNECT_TIMEOUT = 5.0  # seconds
ATTEMPTS = 4
LONGEST_WAIT = 10.0  # seconds between two attempts
RETRIED = {408, 429, 500, 502, 503, 504}
SHOWN = 200  # characters of a server's error


class _Embedding(BaseModel):
    index: int
    embedding: list[Annotated[float, Field(allow_inf_nan=False)]]


class _Answer(BaseModel):
    data: list[_Embedding]


class _RefusedError(Exception):
    """An answer that is none. Logged by whoever retries, so without the URL."""

    def __init__(self, status: int, text: str, wait: float | None) -> None:
        super().__init__(f"HTTP {status}{': ' if text else ''}{text}")
        self.status = status
        self.wait = wait  # seconds that the server asks for


class EndpointEmbedder:
    """An `Embedder`."""

    def __init__(self, name: str, model: str, client: httpx.AsyncClient, dimension: int = 0) -> None:
        """Use `open`."""
        self.name = name
        self.dimension = dimension
        self._model = model
        self._client = client

    @classmethod
    async def open(cls, name: str, model: str, url: str, key: str | None, patience: float) -> EndpointEmbedder:
        """Ask the endpoint below `url` (as `https://api.openai.com/v1`) for a first vector, to learn the dimension.

        `patience` is in seconds, for one request.

        Raises:
            EmbedderError: it does not answer, or not with a vector.
        """
        for module in ("httpx", "stamina"):
            await asyncio.to_thread(import_module, module)  # other calls go on meanwhile
        import httpx

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Timeout(patience, connect=CONNECT_TIMEOUT)
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=limits)
        embedder = cls(name, model, client)
        try:
            [first] = await embedder._vectors(["dimension"])
        except BaseException:
            await client.aclose()
            raise
        embedder.dimension = len(first)
        return embedder

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        check_texts(texts)
        rows: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            rows += await self._vectors(texts[start : start + BATCH])
        if others := {len(row) for row in rows} - {self.dimension}:
            raise EmbedderError(
                f"{self._about}: a vector has {others.pop()} numbers, the first one had {self.dimension}"
            )
        with np.errstate(over="ignore"):  # it is seen below
            array = np.array(rows, np.float32).reshape(len(texts), self.dimension)
            lengths = np.linalg.norm(array, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise EmbedderError(f"{self._about}: a vector is zero or too large")
        array /= lengths
        return array

    async def close(self) -> None:
        await self._client.aclose()

    @property
    def _about(self) -> str:
        return f"the embedder '{self.name}' at {self._client.base_url}"

    async def _vectors(self, texts: Sequence[str]) -> list[list[float]]:
        import httpx
        import stamina

        try:
            retrying = stamina.AsyncRetryingCaller(attempts=ATTEMPTS, timeout=None, wait_max=LONGEST_WAIT)
            body = await retrying(_next_attempt, self._post, texts)
            answer = _Answer.model_validate_json(body)
        except _RefusedError as exc:
            remedy = "; check QUARTERDECK_EMBEDDER_KEY" if exc.status in (401, 403) else ""
            raise EmbedderError(f"{self._about}: {exc}{remedy}") from None
        except httpx.HTTPError as exc:
            raise EmbedderError(f"{self._about} does not answer: {one_line(exc)}") from exc
        except ValidationError as exc:
            [first, *_] = exc.errors(include_url=False, include_input=False)
            where = ".".join(map(str, first["loc"]))
            raise EmbedderError(f"{self._about}: not an embeddings answer: {where} {first['msg']}") from None
        answer.data.sort(key=lambda one: one.index)
        if [one.index for one in answer.data] != list(range(len(texts))) or not answer.data[0].embedding:
            raise EmbedderError(f"{self._about}: {len(answer.data)} vectors for {len(texts)} texts")
        return [one.embedding for one in answer.data]

    async def _post(self, texts: Sequence[str]) -> bytes:
        whole = [text.encode("utf-8", "replace").decode() for text in texts]  # no halves of characters
        body = {"model": self._model, "input": whole, "encoding_format": "float"}
        response = await self._client.post("embeddings", json=body)
        if response.is_success:
            return response.content
        text = " ".join(response.text.split())
        key = self._client.headers.get("Authorization", "").removeprefix("Bearer ")
        shown = text.replace(key, "***") if key else text
        raise _RefusedError(response.status_code, shown[:SHOWN], _asked_wait(response))


def _asked_wait(response: httpx.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), LONGEST_WAIT) if value.isascii() and value.isdigit() else None


def _next_attempt(exc: Exception) -> bool | float:
    """Whether to try again, or after how many seconds. A server that is too slow is not asked twice."""
    import httpx

    if isinstance(exc, _RefusedError):
        return exc.status in RETRIED and (True if exc.wait is None else exc.wait)
    return isinstance(exc, httpx.TransportError) and not isinstance(exc, httpx.ReadTimeout)
