"""Clusters and outliers among vectors: k-means (FAISS), silhouettes, distances to neighbours.

Under cosine, vectors and centroids have length 1 and a distance is 1 - cosine: spherical k-means (I. Dhillon, D. Modha,
"Concept decompositions for large sparse text data using clustering", Machine Learning 42, 2001). Under l2 and dot,
distances are Euclidean. Everything is seeded: the same vectors in the same order give the same clusters.
"""

from __future__ import annotations

from base64 import b64decode
from math import isqrt
from typing import Any, NamedTuple, Protocol, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.vectors.matrix import STORED, Matrix, to_unit_length

SEED = 20
ITERATIONS = 25
STARTS = 3  # of k-means; the best is taken
SAMPLE = 2000  # points that k is chosen on
MOST_CLUSTERS = 100
FEWEST_POINTS = 4
OUTLYING = 3.5  # modified z-scores above it are outliers, as Iglewicz and Hoaglin recommend

Labels = NDArray[np.int64]


class _Kmeans(Protocol):
    """What is used of `faiss.Kmeans`, which has no types."""

    centroids: Matrix

    def train(self, x: Matrix) -> float: ...


class _Index(Protocol):
    def add(self, x: Matrix) -> None: ...
    def search(self, x: Matrix, k: int) -> tuple[Matrix, Labels]: ...


class _Partition(NamedTuple):
    """Clusters by falling size: `labels` has each point's, `distances` how far it is from that one's centroid."""

    centroids: Matrix
    labels: Labels
    distances: Matrix

    @property
    def sizes(self) -> Labels:
        return np.bincount(self.labels, minlength=len(self.centroids))


class Space:
    """The vectors, laid out so that the metric's distances follow from FAISS's."""

    def __init__(self, vectors: list[str], metric: str) -> None:
        if len(vectors) < FEWEST_POINTS:
            raise InvalidArgumentError(f"{len(vectors)} points are too few for clusters: {FEWEST_POINTS} are needed")
        raw = np.frombuffer(b"".join(map(b64decode, vectors)), STORED).astype(np.float32).reshape(len(vectors), -1)
        self.is_cosine = metric == "cosine"
        # What is far from the origin loses its short distances in the rounding; moving all changes none of them.
        self.points: Matrix = to_unit_length(raw) if self.is_cosine else raw - raw.mean(axis=0)

    def nearest(self, points: Matrix, among: Matrix, count: int) -> tuple[Matrix, Labels]:
        """For each point the `count` nearest of `among`, and how far they are."""
        kind = faiss.METRIC_INNER_PRODUCT if self.is_cosine else faiss.METRIC_L2
        index = cast("_Index", faiss.IndexFlat(points.shape[1], kind))
        index.add(among)
        found, labels = index.search(points, count)
        return self._to_distances(found), labels

    def between(self, points: Matrix) -> Matrix:
        """All distances among a few points."""
        products: Matrix = points @ points.T
        if self.is_cosine:
            return self._to_distances(products)
        squares = products.diagonal()
        return self._to_distances(squares[:, None] + squares - 2 * products)

    def _to_distances(self, found: Matrix) -> Matrix:
        """From cosines, or from squares of Euclidean distances."""
        return (1 - found).clip(0, 2) if self.is_cosine else np.sqrt(found.clip(0))

    def partition(self, points: Matrix, k: int) -> _Partition:
        """k-means from k-means++ seeds (D. Arthur, S. Vassilvitskii, SODA 2007); fewer than k clusters where many
        points are alike."""
        trainer = cast("_Kmeans", faiss.Kmeans(
            points.shape[1], k, niter=ITERATIONS, nredo=STARTS, seed=SEED, spherical=self.is_cosine,
            min_points_per_centroid=1, max_points_per_centroid=len(points),
            init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        ))  # fmt: skip
        trainer.train(points)
        distances, labels = self.nearest(points, trainer.centroids, 1)
        sizes = np.bincount(labels[:, 0], minlength=k)
        order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]  # duplicates can leave clusters empty
        renumbered = np.empty(k, np.int64)
        renumbered[order] = np.arange(len(order))
        return _Partition(trainer.centroids[order], renumbered[labels[:, 0]], distances[:, 0])


def find_clusters(vectors: list[str], metric: str, k: int | None) -> dict[str, Any]:
    """Partition the vectors (base64 of little-endian float32) into k clusters, or into as many as fit best.

    Returns `{k, tried: [{k, silhouette}], sample, silhouette, clusters, labels, distances}`: `clusters` by falling size
    with `{size, meanDistance, maxDistance, toNearestCentroid}`, `labels` and `distances` by point. The silhouettes are
    those of a sample; `silhouette` is null for one cluster, `toNearestCentroid` too.

    Raises:
        InvalidArgumentError: too few points, or a k that they do not allow.
    """
    space = Space(vectors, metric)
    chosen, tried, partition = _fit(space, k)
    sample = _sample(len(vectors))
    return {
        "k": chosen,
        "tried": tried,
        "sample": len(sample),
        "silhouette": _rounded(silhouette(space.between(space.points[sample]), partition.labels[sample])),
        "clusters": _describe(space, partition),
        "labels": partition.labels.tolist(),
        "distances": [round(distance, 6) for distance in partition.distances.tolist()],
    }


def _fit(space: Space, k: int | None) -> tuple[int, list[dict[str, Any]], _Partition]:
    count = len(space.points)
    if k is not None and k > min(count, MOST_CLUSTERS):
        raise InvalidArgumentError(f"k: {count} points make 1 to {min(count, MOST_CLUSTERS)} clusters, got {k}")
    tried: list[dict[str, Any]] = []
    if k is None:
        k, tried = _choose(space)
    partition = space.partition(space.points, k)
    return len(partition.centroids), tried, partition


def _choose(space: Space) -> tuple[int, list[dict[str, Any]]]:
    """The k whose clusters of a sample have the greatest mean silhouette (P. Rousseeuw, Journal of Computational and
    Applied Mathematics 20, 1987); 1 where none has one above 0. No k over the square root of the sample is tried.
    """
    points = space.points[_sample(len(space.points))]
    distances = space.between(points)
    tried: list[dict[str, Any]] = []
    for k in _candidates(isqrt(len(points))):
        score = silhouette(distances, space.partition(points, k).labels)
        if score is not None:
            tried.append({"k": k, "silhouette": _rounded(score)})
    best = max(tried, key=lambda attempt: attempt["silhouette"], default={"k": 1, "silhouette": 0})
    return (best["k"] if best["silhouette"] > 0 else 1), tried


def _candidates(most: int) -> list[int]:
    """From 2, the steps growing with k."""
    found = [2]
    while (following := found[-1] + max(1, found[-1] // 5)) <= most:
        found.append(following)
    return found


def _sample(count: int) -> Labels:
    """The places of SAMPLE points, or of all."""
    if count <= SAMPLE:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, SAMPLE, replace=False))


def silhouette(distances: Matrix, labels: Labels) -> float | None:
    """The mean of (b - a) / max(a, b): a is a point's mean distance to its own cluster, b to the nearest other one."""
    used, labels = np.unique(labels, return_inverse=True)
    if len(used) < 2:
        return None
    members = np.eye(len(used), dtype=np.float32)[labels]
    sizes = members.sum(axis=0)
    sums = distances @ members
    rows = np.arange(len(labels))
    own = sizes[labels]
    inside = sums[rows, labels] / np.maximum(own - 1, 1)
    means = sums / sizes
    means[rows, labels] = np.inf
    outside = means.min(axis=1)
    longest = np.maximum(inside, outside)
    scores = np.divide(outside - inside, longest, out=np.zeros_like(longest), where=longest > 0)
    return float(np.where(own > 1, scores, 0).mean())  # by definition 0 for a cluster of one


def _describe(space: Space, partition: _Partition) -> list[dict[str, Any]]:
    count = len(partition.centroids)
    gaps = space.nearest(partition.centroids, partition.centroids, 2)[0][:, 1] if count > 1 else None
    described: list[dict[str, Any]] = []
    for number in range(count):
        distances = partition.distances[partition.labels == number]
        described.append(
            {
                "size": len(distances),
                "meanDistance": _rounded(float(distances.mean())),
                "maxDistance": _rounded(float(distances.max())),
                "toNearestCentroid": None if gaps is None else _rounded(float(gaps[number])),
            }
        )
    return described


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def find_outliers(vectors: list[str], metric: str, k: int | None, neighbours: int) -> dict[str, Any]:
    """Find points that are far from every centroid, or from their neighbours, by the measure of the others.

    Far is a modified z-score, 0.6745 (x - median) / MAD, above 3.5 (B. Iglewicz, D. Hoaglin, "How to Detect and Handle
    Outliers", 1993) of the distance to the nearest centroid, or of the mean distance to the `neighbours` nearest points
    (F. Angiulli, C. Pizzuti, "Fast outlier detection in high dimensional spaces", PKDD 2002).

    Returns `{k, neighbours, threshold, medians: {centroid, neighbours}, outliers}`: the farthest first, each
    `{point, centroidDistance, centroidScore, neighbourDistance, neighbourScore}`; `point` is the place in `vectors`.

    Raises:
        InvalidArgumentError: as `find_clusters`.
    """
    space = Space(vectors, metric)
    k, _, partition = _fit(space, k)
    neighbours = min(neighbours, len(vectors) - 1)
    near, _ = space.nearest(space.points, space.points, neighbours + 1)
    to_neighbours: Matrix = near[:, 1:].mean(axis=1)  # without the point itself, or one that is just as near
    measures = [partition.distances, to_neighbours]
    scores = np.stack([_modified_z_scores(measure) for measure in measures])
    worst = scores.max(axis=0)
    places = [int(place) for place in np.argsort(-worst, kind="stable") if worst[place] > OUTLYING]
    return {
        "k": k,
        "neighbours": neighbours,
        "threshold": OUTLYING,
        "medians": {
            name: _rounded(float(np.median(measure)))
            for name, measure in zip(("centroid", "neighbours"), measures, strict=True)
        },
        "outliers": [
            {
                "point": place,
                "centroidDistance": _rounded(float(partition.distances[place])),
                "centroidScore": round(float(scores[0, place]), 2),
                "neighbourDistance": _rounded(float(to_neighbours[place])),
                "neighbourScore": round(float(scores[1, place]), 2),
            }
            for place in places
        ],
    }


def _modified_z_scores(values: Matrix) -> NDArray[np.float64]:
    """Zeros where all values are alike; where more than half are, the mean deviation takes the place of the MAD."""
    deviations = values.astype(np.float64) - np.median(values)
    mad = float(np.median(np.abs(deviations)))
    spread = mad / 0.6745 if mad else float(np.abs(deviations).mean()) * 1.253314
    return deviations / spread if spread else np.zeros_like(deviations)
