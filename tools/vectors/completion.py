"""Names of collections as a person types them."""

from __future__ import annotations

from quarterdeck.tools.memory.resource import MAX_COMPLETIONS, Completions

from .service import VectorService

LOOK = 500  # collections read at once


async def collections_beginning(vectors: VectorService, prefix: str) -> Completions:
    """The collections whose names begin with `prefix`, by name.

    Raises:
        StorageError: the store failed.
    """
    found: list[str] = []
    after = ""
    while len(found) <= MAX_COMPLETIONS:
        page = await vectors.collections(limit=LOOK, after=after)
        found += [info.name for info in page if info.name.startswith(prefix)]
        if len(page) < LOOK:
            break
        after = page[-1].name
    return Completions(found[:MAX_COMPLETIONS], has_more=len(found) > MAX_COMPLETIONS)
