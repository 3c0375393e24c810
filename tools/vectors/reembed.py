"""A collection's texts embedded anew, beside the collection, which serves until the new one takes its place."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from quarterdeck.storage.errors import ConflictError, InvalidArgumentError, NotFoundError
from quarterdeck.storage.vectors.base import CollectionInfo, Point, VectorStore

from .embedders.base import Embedder

log = logging.getLogger(__name__)

PAGE = 200  # points

Report = Callable[[float, float, str], Awaitable[None]]  # points done, of how many, what is being done


def successor_of(name: str) -> str:
    """What the new collection is called until it is complete; no user's collection can be called so."""
    return f"{name}~reembed"


async def reembed(store: VectorStore, name: str, embedder: Embedder, report: Report) -> CollectionInfo:
    """Embed each point's `payload.text` and let the result take the collection's place, with all its options.

    Whatever ends this in between, the collection is as it was, and the next call goes on from there. What others write
    meanwhile is taken over: the change of place fails if anything was written since the last look.

    Raises:
        InvalidArgumentError: a point has no text, or nothing in it can be embedded.
        EmbedderError: the embedder cannot do it.
    """
    successor = successor_of(name)
    while True:
        token = await store.change_token(name)  # before anything is read
        info = await store.describe(name)
        wanted = replace(info, embedder=embedder.name, dimension=embedder.dimension)
        if info == wanted:
            with suppress(NotFoundError):  # two at once: the slower one may have begun it anew
                await store.drop(successor)
            return info
        try:
            await _prepare(store, successor, wanted)
            changed = await _catch_up(store, name, successor, embedder, report)
            if token is not None or not changed:  # without tokens, only a look that found nothing to do is the last one
                await store.replace(name, successor, unchanged_since=token)
        except (ConflictError, NotFoundError) as exc:
            log.info("collection %s: converting goes on: %s", name, exc.message)


async def _prepare(store: VectorStore, successor: str, wanted: CollectionInfo) -> None:
    """Make the successor, or take up one that was left behind."""
    try:
        left = await store.describe(successor)
    except NotFoundError:
        pass
    else:
        if left == replace(wanted, name=successor, created_at=left.created_at):
            return
        await store.drop(successor)
    await store.create(
        successor,
        wanted.dimension,
        wanted.metric,
        wanted.embedder,
        index=wanted.index,
        quantization=wanted.quantization,
        stored=wanted.stored,
    )


async def _catch_up(store: VectorStore, name: str, successor: str, embedder: Embedder, report: Report) -> bool:
    """Make the successor equal, and return whether that changed anything."""
    changed, done, total = False, 0, await store.count(name)
    async for points in _pages(store, name):
        made = {point.id: point for point in await store.get(successor, [point.id for point in points])}
        stale = [point for point in points if not _is_same(point, made.get(point.id))]
        if stale:
            vectors = await embedder.embed([_text(name, point) for point in stale])
            new = [replace(point, vector=vector) for point, vector in zip(stale, vectors, strict=True)]
            await store.upsert(successor, new, embedder=embedder.name)
            changed = True
        done += len(points)
        await report(done, max(done, total), f"embedding with {embedder.name}")
    async for points in _pages(store, successor):
        ids = [point.id for point in points]
        there = {point.id for point in await store.get(name, ids)}
        if gone := [point_id for point_id in ids if point_id not in there]:
            await store.delete(successor, gone)
            changed = True
    return changed


async def _pages(store: VectorStore, name: str) -> AsyncIterator[Sequence[Point]]:
    after = ""
    while points := await store.page(name, limit=PAGE, after=after):
        yield points
        after = points[-1].id


def _is_same(point: Point, made: Point | None) -> bool:
    """The text is a part of the payload, so an equal payload has an equal vector."""
    return made is not None and (point.payload, point.expires_at) == (made.payload, made.expires_at)


def _text(name: str, point: Point) -> str:
    text = point.payload.get("text")
    if not isinstance(text, str):
        raise InvalidArgumentError(
            f"collection '{name}': point {point.id!r} has no payload.text to embed; give it one, or delete it"
        )
    return text
