"""The query specialist: searches that are more than one `vector_search`."""

from __future__ import annotations

from typing import Any

from ..worker.task import Task
from .documents import NAMESPACE

LIMIT = 10
ENOUGH = 5
RADIUS = 1  # chunks before and after a hit
COLLECTIONS = 500  # the largest page
FUSION_CONSTANT = 60

Hit = dict[str, Any]


def search(task: Task, collection: str, query: str, limit: int, where: dict[str, Any] | None = None) -> list[Hit]:
    """The hits of one query, the best first."""
    answer = task.call("vector_search", collection=collection, query=query, limit=limit, filter=where)
    hits: list[Hit] = answer["results"][0]
    return hits


def collections(task: Task) -> list[str]:
    """The names of the vector collections."""
    listed = task.call("vector_collections", action="list", limit=COLLECTIONS)
    return [collection["collection"] for collection in listed["collections"]]


def semantic_search(task: Task) -> dict[str, Any]:
    """Search one collection, and say which documents the hits come from: `{hits, documents}`, the best first."""
    prompt = task.prompt
    collection = prompt.get("collection", NAMESPACE)
    hits = search(task, collection, prompt["query"], prompt.get("limit", LIMIT), prompt.get("filter"))
    documents: dict[str, dict[str, Any]] = {}
    for hit in hits:
        name = hit["payload"].get("document")
        if name is not None:
            first = {"document": name, "title": hit["payload"].get("title"), "score": hit["score"], "hits": 0}
            documents.setdefault(name, first)["hits"] += 1
    return {"query": prompt["query"], "collection": collection, "hits": hits, "documents": list(documents.values())}


def fuse(rankings: dict[str, list[Hit]], limit: int) -> list[Hit]:
    """Merge rankings whose scores cannot be compared, by reciprocal rank (G. Cormack et al., SIGIR 2009).

    The hits get `source`, their ranking's name, and `fusedScore`; ties go by source and id.
    """
    fused: list[Hit] = [
        {**hit, "source": source, "fusedScore": round(1 / (FUSION_CONSTANT + rank), 6)}
        for source, hits in rankings.items()
        for rank, hit in enumerate(hits, start=1)
    ]
    return sorted(fused, key=lambda hit: (-hit["fusedScore"], hit["source"], hit["id"]))[:limit]


def multi_collection_query(task: Task) -> dict[str, Any]:
    """Search several collections, all if none is named, and merge the hits: `{collections: {name: hits}, hits}`."""
    prompt = task.prompt
    limit = prompt.get("limit", LIMIT)
    names = list(dict.fromkeys(prompt.get("collections") or collections(task)))
    rankings: dict[str, list[Hit]] = {}
    for number, name in enumerate(names):
        task.progress(number, len(names), name)
        rankings[name] = search(task, name, prompt["query"], limit, prompt.get("filter"))
    task.progress(len(names), len(names), "done")
    return {
        "query": prompt["query"],
        "collections": {name: len(hits) for name, hits in rankings.items()},
        "hits": fuse(rankings, limit),
    }


def wave_filtering(task: Task) -> dict[str, Any]:
    """Search with the whole filter, then drop its last field, wave by wave, until there are `enough` hits.

    Hits of an earlier, narrower wave stay in front: `{waves: [{filter, hits}], hits}` with `wave` in each hit.
    """
    prompt = task.prompt
    enough = prompt.get("enough", ENOUGH)
    fields = list(prompt["filter"].items())
    hits: dict[str, Hit] = {}
    waves: list[dict[str, Any]] = []
    for number, kept in enumerate(range(len(fields), -1, -1)):
        task.progress(number, len(fields) + 1, f"filter with {kept} fields")
        where = dict(fields[:kept])
        found = search(task, prompt.get("collection", NAMESPACE), prompt["query"], enough, where)
        waves.append({"filter": where, "hits": len(found)})
        for hit in found:
            hits.setdefault(hit["id"], {**hit, "wave": number})
        if len(hits) >= enough:
            break
    return {"query": prompt["query"], "waves": waves, "hits": list(hits.values())[:enough]}


def context_expansion(task: Task) -> dict[str, Any]:
    """Search an index of `index_document` and give each hit the chunks around it: `{hits: [{…hit, context}]}`.

    `context` is the text of the chunks from `radius` before to `radius` behind the hit, in their order.
    """
    prompt = task.prompt
    collection, radius = prompt.get("collection", NAMESPACE), prompt.get("radius", RADIUS)
    hits = search(task, collection, prompt["query"], prompt.get("limit", LIMIT))
    expanded: list[Hit] = []
    for number, hit in enumerate(hits):
        task.progress(number, len(hits), hit["id"])
        payload = hit["payload"]
        neighbours = [hit]
        if "document" in payload and "chunk" in payload:
            chunk = payload["chunk"]
            where = {"document": payload["document"], "chunk": {"gte": chunk - radius, "lte": chunk + radius}}
            neighbours = search(task, collection, prompt["query"], 2 * radius + 1, where)
            neighbours.sort(key=lambda neighbour: neighbour["payload"]["chunk"])
        texts = [str(neighbour["payload"].get("text", "")) for neighbour in neighbours]
        expanded.append({**hit, "context": "\n\n".join(texts), "chunks": [neighbour["id"] for neighbour in neighbours]})
    return {"query": prompt["query"], "collection": collection, "hits": expanded}
