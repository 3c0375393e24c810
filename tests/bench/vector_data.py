"""Points of any number out of real texts' embeddings, held-out queries, and what a search should find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quarterdeck.storage.vectors.base import Hit, Point
from tests.clustered import Matrix

from .texts import embedded_texts

DIMENSION = 384
REAL = 10_000  # of the texts are points, the others queries and points to insert
QUERIES = 200
LIMIT = 10
TOPICS = 100
CHUNK = 10_000
NEIGHBOURS = 8
NOISE = 0.3  # length of what is added to a mixture of two neighbours of length 1

Truth = list[set[int]]  # for each query the numbers of its nearest points


class Data:
    def __init__(self, size: int) -> None:
        texts = embedded_texts()
        self.size = size
        self.points = _grown(texts[:REAL], size)
        self.queries = texts[REAL : REAL + QUERIES]
        self.more = texts[REAL + QUERIES :]
        centres = texts[:TOPICS]
        self.topics = np.concatenate([(chunk @ centres.T).argmax(axis=1) for chunk in self.chunks()])
        held = np.bincount(self.topics, minlength=TOPICS) >= LIMIT
        nearness = np.where(held, self.queries @ centres.T, np.nan)
        near, far = np.nanargmax(nearness, axis=1), np.nanargmin(nearness, axis=1)
        self.asked_topics = [int(pair[number % 2]) for number, pair in enumerate(zip(near, far, strict=True))]
        """For each query the topic that is next to it, or the one farthest from it."""
        self.nearest = self.truth()

    def chunks(self) -> Sequence[Matrix]:
        return [self.points[first : first + CHUNK] for first in range(0, self.size, CHUNK)]

    def batches(self) -> Iterator[list[Point]]:
        for number, chunk in enumerate(self.chunks()):
            yield self.named(chunk, number * CHUNK)

    def named(self, matrix: Matrix, first: int) -> list[Point]:
        return [Point(str(number), row, self.payload(number)) for number, row in enumerate(matrix, first)]

    def payload(self, number: int) -> dict[str, Any]:
        topic = int(self.topics[number]) if number < self.size else TOPICS
        return {"n": number, "of": number % 100, "topic": topic, "title": f"The title of text {number}"}

    def truth(self, among: NDArray[np.bool_] | None = None) -> Truth:
        """By brute force; `among` says for each query which points count, of shape (queries, points); None: all."""
        places: list[NDArray[np.int64]] = []
        values: list[Matrix] = []
        for number, chunk in enumerate(self.chunks()):
            first = number * CHUNK
            scores = self.queries @ chunk.T
            if among is not None:
                scores[~among[:, first : first + len(chunk)]] = -np.inf
            best = np.argpartition(-scores, LIMIT, axis=1)[:, :LIMIT]
            places.append(best + first)
            values.append(np.take_along_axis(scores, best, axis=1))
        candidates, scores = np.hstack(places), np.hstack(values)
        best = np.argpartition(-scores, LIMIT - 1, axis=1)[:, :LIMIT]
        return [set(row) for row in np.take_along_axis(candidates, best, axis=1).tolist()]


def numbers(hits: Sequence[Hit]) -> set[int]:
    return {hit.payload["n"] for hit in hits}


def recall(found: Sequence[set[int]], truth: Truth) -> float:
    """The mean share of the nearest ten that was found."""
    return float(np.mean([len(some & nearest) / LIMIT for some, nearest in zip(found, truth, strict=True)]))


def _grown(real: Matrix, size: int) -> Matrix:
    """The real ones first, then mixtures of a real one and a neighbour of it, and a little of how two others differ."""
    grown = np.empty((size, DIMENSION), np.float32)
    grown[: len(real)] = real[:size]
    random = np.random.default_rng(size)
    near = np.concatenate(
        [np.argpartition(-(real[at : at + 1000] @ real.T), NEIGHBOURS)[:, :NEIGHBOURS] for at in range(0, REAL, 1000)]
    )
    for first in range(REAL, size, CHUNK):
        count = min(CHUNK, size - first)
        one, other, another = random.integers(REAL, size=(3, count))
        neighbour = near[one, random.integers(NEIGHBOURS, size=count)]
        weight = random.uniform(0.2, 0.8, (count, 1)).astype(np.float32)
        noise = real[other] - real[another]
        noise *= NOISE / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-6)
        grown[first : first + count] = weight * real[one] + (1 - weight) * real[neighbour] + noise
    grown /= np.linalg.norm(grown, axis=1, keepdims=True)
    return grown
