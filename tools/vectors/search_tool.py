"""The tool `vector_search`."""

from __future__ import annotations

from itertools import zip_longest
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import to_json
from typing_extensions import TypedDict

from quarterdeck.storage.vectors.base import Hit, Metric, Precision
from quarterdeck.tools.arguments import Arguments, FromJsonText, Limit
from quarterdeck.tools.contract import Call, DeckTool, Json, deck_tool

from .numbers import Numbers
from .service import Mode, VectorService

MAX_QUERIES = 100
MAX_TOKENS = 25_000
BYTES_PER_TOKEN = 4

Queries = Annotated[list[str], Field(min_length=1, max_length=MAX_QUERIES), FromJsonText]
Vectors = Annotated[list[Numbers], Field(min_length=1, max_length=MAX_QUERIES), FromJsonText]
Filter = Annotated[
    dict[str, Json],
    FromJsonText,
    Field(description="on payload: {field: value or {eq|ne|in|gt|gte|lt|lte|exists: …}}, and, or, not"),
]


class SearchArguments(Arguments):
    collection: str
    query: Annotated[str | None, Field(description="a text; give exactly one of query, vector, queries, vectors")] = (
        None
    )
    vector: Numbers | None = None
    queries: Queries | None = None
    vectors: Vectors | None = None
    limit: Limit = 10
    score_threshold: Annotated[
        float | None, Field(allow_inf_nan=False, description="mode vector: least score; for l2 the greatest distance")
    ] = None
    filter: Filter | None = None
    precision: Precision | None = None
    mode: Annotated[
        Mode, Field(description="text: by words of payload.text; hybrid: both; with your own vectors give them too")
    ] = "vector"
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000, description="the worst hits are left out")] = MAX_TOKENS

    @property
    def texts(self) -> list[str] | None:
        return self.queries if self.query is None else [self.query]

    @property
    def points(self) -> list[Numbers] | None:
        return self.vectors if self.vector is None else [self.vector]

    @model_validator(mode="after")
    def _has_what_its_mode_needs(self) -> SearchArguments:
        forms = [form for form in (self.query, self.vector, self.queries, self.vectors) if form is not None]
        if self.mode == "hybrid" and len(forms) == 2 and len(self.texts or ()) == len(self.points or ()):
            pass
        elif len(forms) != 1:
            raise ValueError("give exactly one of query, vector, queries, vectors")
        elif self.mode != "vector" and self.texts is None:
            raise ValueError(f"mode {self.mode} needs query or queries")
        if self.mode != "vector" and self.score_threshold is not None:
            raise ValueError(f"scoreThreshold: not in mode {self.mode}, whose scores only rank")
        if self.mode == "text" and self.precision is not None:
            raise ValueError("precision: not in mode text, which has no vectors")
        return self


class HitAnswer(TypedDict):
    id: str
    score: float
    payload: dict[str, Json]


class SearchAnswer(TypedDict, total=False):
    success: bool
    collection: str
    metric: Metric
    results: list[list[HitAnswer]]
    omitted: int
    notice: str


def search_tool(service: VectorService) -> DeckTool:
    async def search(args: SearchArguments, _: Call) -> SearchAnswer:
        found = await service.search(
            args.collection,
            texts=args.texts or (),
            vectors=args.points,
            mode=args.mode,
            limit=args.limit,
            threshold=args.score_threshold,
            where=args.filter,
            precision=args.precision or "balanced",
        )
        results = [[_hit(hit) for hit in hits] for hits in found.results]
        answer: SearchAnswer = {
            "success": True,
            "collection": args.collection,
            "metric": found.metric,
            "results": results,
        }
        if omitted := _shorten(results, args.max_tokens * BYTES_PER_TOKEN):
            answer["omitted"] = omitted
            answer["notice"] = (
                f"{omitted} of {omitted + sum(map(len, results))} hits are left out, the worst of each query, to keep "
                f"within maxTokens {args.max_tokens}: raise it, or ask for fewer"
            )
        return answer

    return deck_tool(
        "vector_search",
        "Find the nearest points of a vector collection for one or up to 100 queries, by vectors, words or both. "
        "results has one list per query.",
        SearchArguments,
        SearchAnswer,
        search,
        title="Search vectors",
        read_only=True,
        idempotent=True,
    )


def _hit(hit: Hit) -> HitAnswer:
    return {"id": hit.id, "score": float(f"{hit.score:.7g}"), "payload": dict(hit.payload)}  # a float32 has 7 digits


def _shorten(results: list[list[HitAnswer]], room: int) -> int:
    """Keep what fits in `room` bytes, the best of every query first, and return how many hits were cut off."""
    if len(to_json(results)) <= room:
        return 0
    total = sum(map(len, results))
    kept = [0] * len(results)
    for rank in zip_longest(*results):
        for number, hit in enumerate(rank):
            if hit is None:
                continue
            room -= len(to_json(hit)) + 1  # and a comma
            if room < 0:
                for hits, count in zip(results, kept, strict=True):
                    del hits[count:]
                return total - sum(kept)
            kept[number] += 1
    return 0
