"""Clusters and outliers where the truth is known, and the silhouette by its definition."""

from __future__ import annotations

import base64
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.agents.library import clustering
from quarterdeck.tools.agents.library.clustering import find_clusters, find_outliers
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from tests.docstrings import docstrings

Matrix = NDArray[np.float32]
SIZES = (60, 50, 40, 30, 20)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Idle threads of FAISS spin, and this process was not started with OMP_WAIT_POLICY=PASSIVE as the real one is."""
    faiss.omp_set_num_threads(1)


def encoded(points: Matrix) -> list[str]:
    return [base64.b64encode(point.astype("<f4").tobytes()).decode() for point in points]


def planted(seed: int, strangers: int = 0) -> tuple[Matrix, NDArray[np.int64]]:
    """Tight groups of SIZES around far centres, shuffled, then strangers; with each point's group."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(24, 24)))[0] * 10
    truth = np.repeat(np.arange(len(SIZES)), SIZES)
    rng.shuffle(truth)
    points = centres[truth] + rng.normal(size=(len(truth), 24)) * 0.3
    odd = centres[len(SIZES) : len(SIZES) + strangers] * 2
    return np.concatenate([points, odd]).astype(np.float32), truth


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found_and_counted(metric: str, seed: int) -> None:
    points, truth = planted(seed)
    for k in (None, len(SIZES)):
        found = find_clusters(encoded(points), metric, k)
        assert found["k"] == len(SIZES)
        assert [cluster["size"] for cluster in found["clusters"]] == list(SIZES)
        assert len(set(zip(found["labels"], truth.tolist(), strict=True))) == len(SIZES)  # the same partition
        assert found["silhouette"] > 0.8
        assert (found["tried"] == []) == (k is not None)
    assert find_clusters(encoded(points), metric, None) == find_clusters(encoded(points), metric, None)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_distances_are_those_of_the_metric(metric: str) -> None:
    points, _ = planted(1)
    found = find_clusters(encoded(points), metric, len(SIZES))
    labels = np.array(found["labels"])
    unit = points / np.linalg.norm(points, axis=1, keepdims=True) if metric == "cosine" else points
    centroids = np.stack([unit[labels == label].mean(axis=0) for label in range(len(SIZES))])
    if metric == "cosine":
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        gaps = 1 - centroids @ centroids.T
        wanted = 1 - (unit * centroids[labels]).sum(axis=1)
    else:
        gaps = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
        wanted = np.linalg.norm(unit - centroids[labels], axis=1)
    assert np.allclose(found["distances"], wanted, atol=1e-3)
    np.fill_diagonal(gaps, np.inf)
    for label, cluster in enumerate(found["clusters"]):
        assert cluster["meanDistance"] == pytest.approx(wanted[labels == label].mean(), abs=1e-3)
        assert cluster["maxDistance"] == pytest.approx(wanted[labels == label].max(), abs=1e-3)
        assert cluster["toNearestCentroid"] == pytest.approx(gaps[label].min(), abs=1e-3)


def by_definition(points: Matrix, labels: list[int]) -> float:
    """Rousseeuw's silhouette, point by point."""
    scores: list[float] = []
    for place, point in enumerate(points):
        distances = np.linalg.norm(points.astype(np.float64) - point, axis=1)
        means: dict[int, float] = {}
        for label in set(labels):
            others = [distances[n] for n, other in enumerate(labels) if other == label and n != place]
            if others:
                means[label] = float(np.mean(others))
        own = means.pop(labels[place], None)
        best = min(means.values())
        scores.append(0 if own is None or max(own, best) == 0 else (best - own) / max(own, best))
    return float(np.mean(scores))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 3)), min_size=4, max_size=14))
def test_the_silhouette_is_as_defined(drawn: list[tuple[int, int, int]]) -> None:
    points = np.array([row[:2] for row in drawn], np.float32)
    labels = [row[2] for row in drawn]
    space = clustering.Space(encoded(points), "l2")
    found = clustering.silhouette(space.between(points), np.array(labels))
    if len(set(labels)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(by_definition(points, labels), abs=1e-3)


def test_short_distances_far_from_the_origin_are_seen() -> None:
    points, _ = planted(4)
    found = find_clusters(encoded(points), "l2", None)
    moved = find_clusters(encoded(points + np.float32(1000)), "l2", None)
    assert moved["labels"] == found["labels"]
    assert np.allclose(moved["distances"], found["distances"], atol=1e-3)


def test_a_sample_decides_for_many_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "SAMPLE", 100)
    points, _ = planted(3)
    found = find_clusters(encoded(points), "cosine", None)
    assert (found["k"], found["sample"]) == (len(SIZES), 100)
    assert sorted(cluster["size"] for cluster in found["clusters"]) == sorted(SIZES)


def test_points_that_are_alike_are_one_cluster() -> None:
    same = np.ones((12, 3), np.float32)
    for k in (None, 4):
        found = find_clusters(encoded(same), "cosine", k)
        assert (found["k"], found["silhouette"]) == (1, None)
        assert found["clusters"] == [{"size": 12, "meanDistance": 0, "maxDistance": 0, "toNearestCentroid": None}]
    assert find_outliers(encoded(same), "l2", None, 10)["outliers"] == []


def test_a_wrong_k_is_refused() -> None:
    points = encoded(planted(0)[0])
    with pytest.raises(InvalidArgumentError, match="3 points are too few for clusters: 4 are needed"):
        find_clusters(points[:3], "cosine", None)
    with pytest.raises(InvalidArgumentError, match="k: 10 points make 1 to 10 clusters, got 11"):
        find_clusters(points[:10], "cosine", 11)
    with pytest.raises(InvalidArgumentError, match="1 to 100 clusters, got 101"):
        find_outliers(points, "cosine", 101, 10)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("k", [None, len(SIZES)])
def test_strangers_are_found_before_all_others(metric: str, k: int | None) -> None:
    points, _ = planted(2, strangers=3)
    found = find_outliers(encoded(points), metric, k, 10)
    strangers = set(range(sum(SIZES), len(points)))
    assert {outlier["point"] for outlier in found["outliers"][:3]} == strangers
    for outlier in found["outliers"]:
        assert max(outlier["centroidScore"], outlier["neighbourScore"]) > found["threshold"]
    assert len(found["outliers"]) < 10
    worst = [max(outlier["centroidScore"], outlier["neighbourScore"]) for outlier in found["outliers"]]
    assert worst == sorted(worst, reverse=True)


def test_the_score_is_the_modified_z_score() -> None:
    line = np.array([[0], [1], [2], [3], [4], [5], [6], [7], [8], [100]], np.float32)
    found = find_outliers(encoded(line), "l2", 1, 1)
    [outlier] = found["outliers"]
    distances = np.abs(line[:, 0] - line.mean())
    median = float(np.median(distances))
    mad = float(np.median(np.abs(distances - median)))
    assert found["medians"] == {"centroid": pytest.approx(median, abs=1e-3), "neighbours": 1}
    assert outlier["point"] == 9
    assert outlier["centroidDistance"] == pytest.approx(float(distances[9]), abs=1e-3)
    assert outlier["centroidScore"] == pytest.approx(0.6745 * (float(distances[9]) - median) / mad, abs=0.01)
    assert outlier["neighbourDistance"] == 92
    # More than half are alike, so the MAD is 0 and the mean deviation, (92 - 1) / 10, takes its place.
    assert outlier["neighbourScore"] == pytest.approx((92 - 1) / (1.253314 * 9.1), abs=0.01)


async def test_real_texts_cluster_by_what_they_speak_of() -> None:
    texts = docstrings()
    vectors = await LexicalEmbedder().embed(list(texts.values()))
    found: dict[str, Any] = find_clusters(encoded(np.stack([np.asarray(v, np.float32) for v in vectors])), "cosine", 8)
    modules = [name.split(".")[0] for name in texts]
    rows = [[m for m, label in zip(modules, found["labels"], strict=True) if label == n] for n in range(found["k"])]
    purity = sum(max(map(row.count, set(row))) for row in rows) / len(modules)
    assert purity > max(map(modules.count, set(modules))) / len(modules) * 1.5
