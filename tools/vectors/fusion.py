"""Rankings whose scores cannot be compared, made one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from quarterdeck.storage.vectors.base import Hit

CONSTANT = 60  # what the paper found best; it keeps a single first place from deciding


def fuse(rankings: Iterable[Sequence[Hit]], limit: int) -> list[Hit]:
    """Merge rankings by reciprocal rank fusion (G. Cormack, C. Clarke, S. Büttcher, SIGIR 2009).

    A hit's score is the sum of 1 / (CONSTANT + its rank, from 1) over the rankings that have it; ties go by id.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    hits: dict[str, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            scores[hit.id] += 1 / (CONSTANT + rank)
            hits[hit.id] = hit
    best = sorted(hits, key=lambda point_id: (-scores[point_id], point_id))[:limit]
    return [hits[point_id]._replace(score=scores[point_id]) for point_id in best]
