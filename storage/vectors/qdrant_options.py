"""The deck's index and quantisation as Qdrant has them.

Qdrant builds its graph in the background once a segment has some ten thousand vectors, and searches exactly until then.
Quantised scores are always computed again from the stored vectors.
"""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from .base import CollectionInfo, IndexKind, Metric, Precision, Quantization

M, EF_CONSTRUCT = 16, 200
EF: dict[Precision, int] = {"fast": 64, "balanced": 128}
OVERSAMPLING: dict[Precision, float] = {"fast": 2.0, "balanced": 4.0}

DISTANCES: dict[Metric, models.Distance] = {
    "cosine": models.Distance.COSINE,
    "dot": models.Distance.DOT,
    "l2": models.Distance.EUCLID,
}


def creation(info: CollectionInfo) -> dict[str, Any]:
    """Arguments of `create_collection` for what was wished."""
    return {
        "vectors_config": models.VectorParams(
            size=info.dimension,
            distance=DISTANCES[info.metric],
            datatype=models.Datatype.FLOAT16 if info.stored == "float16" else None,
            on_disk=info.quantization == "pq" or None,  # only the codes are in memory then
        ),
        "hnsw_config": models.HnswConfigDiff(m=0 if info.index == "exact" else M, ef_construct=EF_CONSTRUCT),
        "quantization_config": _codes(info),
    }


def _codes(info: CollectionInfo) -> Any:
    """The one kind of codes that a Qdrant collection can have: those of the index, if it has some, come first."""
    match info.index, info.quantization:
        case "hash", _:
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        case "pq", _:
            return _product(models.CompressionRatio.X8)
        case _, "sq8":
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            return models.ScalarQuantization(scalar=scalar)
        case _, "sq4":
            return _product(models.CompressionRatio.X8)
        case _, "pq":
            return _product(models.CompressionRatio.X32)
        case _:
            return None


def _product(ratio: models.CompressionRatio) -> models.ProductQuantization:
    return models.ProductQuantization(product=models.ProductQuantizationConfig(compression=ratio, always_ram=True))


def search_params(precision: Precision) -> models.SearchParams:
    if precision == "exact":
        return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
    rescored = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING[precision])
    return models.SearchParams(hnsw_ef=EF[precision], quantization=rescored)


def as_it_is(found: models.CollectionInfo) -> tuple[IndexKind, Quantization]:
    """What serves searches now: codes too are made with the graph, not before."""
    if not found.indexed_vectors_count:
        return "exact", "none"
    match found.config.quantization_config:
        case models.BinaryQuantization():
            return "hash", "none"
        case models.ScalarQuantization():
            return "hnsw", "sq8"
        case models.ProductQuantization(product=product):
            return "hnsw", "sq4" if product.compression == models.CompressionRatio.X8 else "pq"
        case _:
            return "hnsw", "none"


def note_on(info: CollectionInfo, index: IndexKind) -> str | None:
    """Why the index is not as wished."""
    if info.index not in ("auto", "exact") and index == "exact":
        return "Qdrant builds its graph and codes once a segment is large enough; until then it compares every vector"
    if info.quantization == "fp16":
        return "Qdrant has no fp16 beside the vectors: it compares them as stored"
    return None


def defects(found: models.CollectionInfo) -> list[str]:
    """What Qdrant says is wrong with it; empty: nothing."""
    wrong: list[str] = []
    if found.status == models.CollectionStatus.RED:
        wrong.append("Qdrant calls the collection damaged (red)")
    if isinstance(found.optimizer_status, models.OptimizersStatusOneOf1):
        wrong.append(f"Qdrant's optimizer failed: {found.optimizer_status.error}")
    return wrong
