"""Everything that must outlive the server, read through its tools."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from quarterdeck.tools.agents.tracker import RECORDS

from ..client import DeckClient

DOCUMENTS = "documents"
"""The namespace of the crew's results and the collection of the texts."""


class Memory(NamedTuple):
    version: int
    value: Any


Memories = dict[tuple[str, str], Memory]
"""By namespace and key."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a server holds at one moment."""

    memories: Memories
    uploads: dict[str, str]  # key -> sha256 of the contents that were read
    points: int
    hits: list[list[tuple[str, float]]]  # of each question: ids and scores
    results: list[dict[str, Any]]  # of the queries


async def look(deck: DeckClient, questions: Sequence[str], query_ids: Sequence[str]) -> Kept:
    """Read it all."""
    results = await deck.call("query_wait", queryIds=list(query_ids), timeout=0)
    return Kept(
        memories=await memories(deck),
        uploads=await upload_digests(deck),
        points=await count_points(deck),
        hits=[[(hit["id"], hit["score"]) for hit in hits] for hits in await search(deck, questions)],
        results=results["results"],
    )


async def memories(deck: DeckClient) -> Memories:
    """Every value of every namespace, each retrieved by its key."""
    names = [
        (namespace["namespace"], entry["key"])
        async for namespace in pages(deck, "memory_usage", "namespaces", action="namespaces")
        async for entry in pages(
            deck, "memory_usage", "entries", action="list", namespace=namespace["namespace"], includeValues=False
        )
    ]
    answers = await deck.call_all(
        *(("memory_usage", {"action": "retrieve", "namespace": ns, "key": key}) for ns, key in names)
    )
    return {name: Memory(answer["version"], answer["value"]) for name, answer in zip(names, answers, strict=True)}


def records_of(memories: Memories, agent_id: str) -> dict[str, Any]:
    """What the tracker has written down about an agent, by key."""
    return {
        key: value
        for (namespace, key), (_, value) in memories.items()
        if namespace in RECORDS and value["agentId"] == agent_id
    }


async def upload_digests(deck: DeckClient) -> dict[str, str]:
    """The digest of every upload, of the bytes that come back (each fits one read)."""
    keys = [upload["key"] async for upload in pages(deck, "uploads", "uploads", action="list")]
    answers = await deck.call_all(
        *(("uploads", {"action": "read", "key": key, "encoding": "base64", "length": 1 << 20}) for key in keys)
    )
    contents = [base64.b64decode(answer["content"]) for answer in answers]
    return {key: hashlib.sha256(read).hexdigest() for key, read in zip(keys, contents, strict=True)}


async def count_points(deck: DeckClient) -> int:
    answer = await deck.call("vector_collections", action="describe", collection=DOCUMENTS)
    return int(answer["collections"][0]["count"])


async def search(deck: DeckClient, questions: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The three best hits for each question, asked side by side."""
    answers = await deck.call_all(
        *(("vector_search", {"collection": DOCUMENTS, "query": question, "limit": 3}) for question in questions)
    )
    return [answer["results"][0] for answer in answers]


async def pages(deck: DeckClient, tool: str, items: str, **arguments: Any) -> AsyncGenerator[dict[str, Any]]:
    """All items of a listing, page by page."""
    cursor: str | None = None
    while True:
        answer = await deck.call(tool, **arguments, cursor=cursor)
        for item in answer[items]:
            yield item
        cursor = answer.get("nextCursor")
        if cursor is None:
            return
