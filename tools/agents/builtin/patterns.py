"""The pattern discoverer: what recurs among the points of a vector collection, and what does not fit in."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..worker.library import call_library
from ..worker.task import PromptError, Task
from . import documents
from .templates import find_template
from .words import key_terms, shorten, terms, weigh

NAMESPACE = "patterns"
MOST_POINTS = 20_000  # that are looked at; of a larger collection a random sample
PAGE = 500
SEED = 20
NEIGHBOURS = 10
OUTLIERS = 50  # reported unless told
EXEMPLARS = 3
EXCERPT = 200  # characters
MEMBERS_REPORTED = 500  # ids, over all clusters
KEY_TERMS = 10
FIELDS_REPORTED = 20
TEMPLATE_TEXTS = 50  # of a cluster, those nearest to its centroid
FEWEST_TEXTS = 3  # of which a template is made
MOSTLY = 0.5  # the share of a cluster's points from which a value of a field is worth telling

Result = dict[str, Any]


class Point(NamedTuple):
    id: str
    vector: str  # base64 of float32, for the library process alone
    payload: dict[str, Any]

    @property
    def text(self) -> str:
        text = self.payload.get("text")
        return text if isinstance(text, str) else ""


class Member(NamedTuple):
    """A point of a cluster."""

    point: Point
    distance: float  # to the centroid

    def shown(self) -> Result:
        return {"id": self.point.id, "distance": round(self.distance, 4), "text": shorten(self.point.text, EXCERPT)}


class Sample(NamedTuple):
    """Points of a collection: all of them, or a random choice of MOST_POINTS."""

    collection: str
    metric: str
    points: list[Point]
    total: int  # points in the collection

    def about(self) -> Result:
        """What every result says of them."""
        distance = "1 - cosine" if self.metric == "cosine" else "euclidean"
        return {
            "collection": self.collection,
            "points": self.total,
            "analysed": len(self.points),
            "distance": distance,
        }


def read_points(task: Task) -> Sample:
    """The points of the collection that the prompt names, page by page.

    Every point of a collection over MOST_POINTS is as likely as any other to be kept (reservoir sampling, algorithm R
    of J. Vitter, ACM TOMS 11, 1985; seeded).

    Raises:
        CallError: there is no such collection.
    """
    collection = task.prompt.get("collection", documents.NAMESPACE)
    chance = random.Random(SEED)  # noqa: S311  not for secrets
    kept: list[Point] = []
    seen, after = 0, ""
    while True:
        page = task.call("vector_points", collection=collection, limit=PAGE, after=after)
        for found in page["points"]:
            point = Point(found["id"], found["vector"], found["payload"])
            if seen < MOST_POINTS:
                kept.append(point)
            elif (place := chance.randrange(seen + 1)) < MOST_POINTS:
                kept[place] = point
            seen, after = seen + 1, point.id
        task.progress(seen, max(seen, page["count"]), f"reading {collection}")
        if page["isLast"]:
            return Sample(collection, page["metric"], kept, seen)


class Clusters(NamedTuple):
    found: Result  # what the library process answered
    members: list[list[Member]]  # by cluster, the nearest to the centroid first

    def chosen(self) -> Result:
        """How many clusters there are, why, and how well they are told apart."""
        by = "greatest mean silhouette of those tried" if self.found["tried"] else "the prompt"
        silhouette = {"silhouette": self.found["silhouette"], "silhouetteSample": self.found["sample"]}
        return {"k": self.found["k"], "kChosenBy": by, "tried": self.found["tried"], **silhouette}


def find_clusters(task: Task, sample: Sample) -> Clusters:
    """k-means in the library process; k is what the prompt says, else it is chosen there."""
    vectors = [point.vector for point in sample.points]
    found = call_library(task, "find_clusters", vectors=vectors, metric=sample.metric, k=task.prompt.get("k"))
    labels: list[int] = found["labels"]
    members: list[list[Member]] = [[] for _ in found["clusters"]]
    for point, label, distance in zip(sample.points, labels, found["distances"], strict=True):
        members[label].append(Member(point, distance))
    for cluster in members:
        cluster.sort(key=lambda member: (member.distance, member.point.id))
    return Clusters(found, members)


def keep(task: Task, kind: str, result: Result) -> Result:
    """Store a result in memory under `kind:collection`; the next one of that collection replaces it."""
    key = f"{kind}:{result['collection']}"
    task.call("memory_usage", action="store", namespace=NAMESPACE, key=key, value=result)
    return {**result, "stored": {"namespace": NAMESPACE, "keys": [key]}}


def clustering_analysis(task: Task) -> Result:
    """Partition a collection by k-means: `{…, k, tried, silhouette, clusters: [{size, share, …, exemplars, members}]}`.

    Clusters by falling size; `members` are the ids nearest to the centroid, up to MEMBERS_REPORTED for all clusters.
    """
    sample = read_points(task)
    clusters = find_clusters(task, sample)
    room = max(1, MEMBERS_REPORTED // len(clusters.members))
    described = [
        {
            **figures,
            "share": round(figures["size"] / len(sample.points), 4),
            "exemplars": [member.shown() for member in members[:EXEMPLARS]],
            "members": [member.point.id for member in members[:room]],
        }
        for figures, members in zip(clusters.found["clusters"], clusters.members, strict=True)
    ]
    return keep(task, "clusters", {**sample.about(), **clusters.chosen(), "clusters": described})


def pattern_extraction(task: Task) -> Result:
    """What the points of each cluster have in common: `{…, patterns: [{size, share, terms, fields, exemplars}]}`.

    `terms` are the words that many of its texts have and those of other clusters have not (tf-idf, each cluster a
    document and each text counting once); `fields` the payload values that most of its points share, beside the share
    of all points.
    """
    sample = read_points(task)
    clusters = find_clusters(task, sample)
    counts: list[Counter[str]] = []
    for number, members in enumerate(clusters.members):
        task.progress(number, len(clusters.members), "counting words")
        counts.append(Counter(term for member in members for term in terms(member.point.text)))
    everywhere = _count_values(sample.points)
    patterns: list[Result] = []
    for members, count, weights in zip(clusters.members, counts, weigh(counts), strict=True):
        texts = sum(bool(member.point.text) for member in members)
        here = _count_values([member.point for member in members])
        patterns.append(
            {
                "size": len(members),
                "share": round(len(members) / len(sample.points), 4),
                "texts": texts,
                "terms": key_terms({term: w for term, w in weights.items() if count[term] > 1}, count, KEY_TERMS),
                "fields": [
                    {
                        "field": field,
                        "value": value,
                        "share": round(times / len(members), 3),
                        "shareOfAll": round(everywhere[field, kind, value] / len(sample.points), 3),
                    }
                    for (field, kind, value), times in sorted(here.items(), key=lambda item: (-item[1], item[0][0]))
                    if times > max(1, MOSTLY * len(members))
                ][:FIELDS_REPORTED],
                "exemplars": [member.shown() for member in members[:EXEMPLARS]],
            }
        )
    return keep(task, "patterns", {**sample.about(), **clusters.chosen(), "patterns": patterns})


def _count_values(points: Sequence[Point]) -> Counter[tuple[str, str, Any]]:
    """How many points have each (field, kind of value, value): the kind, for `true` is not 1. Long texts and lists are
    no values that points share."""
    return Counter(
        (field, type(value).__name__, value)
        for point in points
        for field, value in point.payload.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= EXCERPT)
    )


def template_generation(task: Task) -> Result:
    """The skeleton that the texts of each cluster share: `{…, templates: [{size, texts, template, matches, slots}]}`.

    Made of up to TEMPLATE_TEXTS different texts, those nearest to the centroid; `template` is null where they have
    nothing in common (templates.py).
    """
    sample = read_points(task)
    if not any(point.text for point in sample.points):
        raise PromptError(f"template_generation needs points with payload.text; those of {sample.collection} have none")
    clusters = find_clusters(task, sample)
    made: list[Result] = []
    for number, members in enumerate(clusters.members):
        task.progress(number, len(clusters.members), "aligning texts")
        texts = list(dict.fromkeys(text for member in members if (text := member.point.text.strip())))[:TEMPLATE_TEXTS]
        template = find_template(texts, task.check) if len(texts) >= FEWEST_TEXTS else None
        made.append({"size": len(members), **(template or {"template": None, "texts": len(texts)})})
    task.progress(len(made), len(made), "done")
    return keep(task, "templates", {**sample.about(), **clusters.chosen(), "templates": made})


def anti_pattern_detection(task: Task) -> Result:
    """The points that are far from every centroid, or from their neighbours, compared with the others.

    Returns `{…, k, neighbours, threshold, medians, found, outliers: [{id, text, centroidDistance, centroidScore,
    neighbourDistance, neighbourScore}]}`, the farthest first: a score above the threshold is what makes one.
    """
    sample = read_points(task)
    prompt = task.prompt
    found = call_library(
        task,
        "find_outliers",
        vectors=[point.vector for point in sample.points],
        metric=sample.metric,
        k=prompt.get("k"),
        neighbours=prompt.get("neighbours", NEIGHBOURS),
    )
    outliers = found.pop("outliers")
    shown: list[Result] = []
    for outlier in outliers[: prompt.get("limit", OUTLIERS)]:
        place: int = outlier.pop("point")
        point = sample.points[place]
        shown.append({"id": point.id, "text": shorten(point.text, EXCERPT), **outlier})
    return keep(task, "outliers", {**sample.about(), **found, "found": len(outliers), "outliers": shown})
