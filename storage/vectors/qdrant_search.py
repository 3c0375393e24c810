"""Finding points on a Qdrant server: it narrows them down, and our own predicate, which may be stricter, decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient, models

from ..clock import Clock
from .base import Hit, Precision, Vector
from .filters import Predicate, parse_filter
from .matrix import Matrix, to_queries
from .qdrant_catalogue import Catalogue, Head
from .qdrant_filters import translate
from .qdrant_options import search_params
from .qdrant_points import EXPIRY, ID, PAYLOAD, live, payload_of, scored, wide_threshold

PAGE = 500
WIDENED = 4  # times as many are asked for where too few of those found matched


class Search:
    def __init__(self, client: AsyncQdrantClient, catalogue: Catalogue, clock: Clock) -> None:
        self._client = client
        self._catalogue = catalogue
        self._clock = clock

    async def matching(self, head: Head, where: Mapping[str, Any]) -> AsyncIterator[models.Record]:
        """All points that `where` accepts, with their payload only."""
        accepts, offset = parse_filter(where), None
        condition = live(self._clock.now(), translate(where).condition)
        while True:
            found, offset = await self._client.scroll(
                head.stored_as, condition, limit=PAGE, offset=offset, with_payload=[PAYLOAD]
            )
            for record in found:
                if accepts(payload_of(record)):
                    yield record
            if offset is None:
                return

    async def hits(
        self,
        head: Head,
        queries: Sequence[Vector],
        *,
        limit: int,
        threshold: float | None,
        where: Mapping[str, Any] | None,
        precision: Precision,
    ) -> list[list[Hit]]:
        """The nearest points of each query, as `VectorStore.search`."""
        info = head.info
        asked = to_queries(queries, info)
        request = models.QueryRequest(
            filter=live(self._clock.now(), translate(where or {}).condition),
            params=search_params(precision),
            score_threshold=wide_threshold(threshold, info.metric),
            with_payload=[ID, PAYLOAD, EXPIRY],
        )
        accepts = None if where is None else parse_filter(where)
        return await self._widened(head, request, asked, limit, threshold, accepts)

    async def _widened(
        self,
        head: Head,
        request: models.QueryRequest,
        asked: Matrix,
        limit: int,
        threshold: float | None,
        accepts: Predicate | None,
    ) -> list[list[Hit]]:
        """Ask for more where the predicate leaves too few."""
        found: list[list[Hit]] = [[] for _ in asked]
        waiting, size = list(range(len(asked))), limit
        while waiting:
            requests = [request.model_copy(update={"query": asked[n].tolist(), "limit": size}) for n in waiting]
            answers = await self._client.query_batch_points(head.stored_as, requests)
            for number, answer in zip(waiting, answers, strict=True):
                for point in answer.points:
                    if end := (point.payload or {}).get(EXPIRY):
                        self._catalogue.note_end(head, end)
                hits = [Hit(*each) for each in scored(answer.points, head.info.metric, threshold)]
                found[number] = [hit for hit in hits if accepts is None or accepts(hit.payload)][:limit]
            sizes = {number: len(answer.points) for number, answer in zip(waiting, answers, strict=True)}
            waiting = [n for n in waiting if accepts and len(found[n]) < limit and sizes[n] == size]
            size *= WIDENED
        return found
