"""Taking over the memory of claude-flow 2.7: values as the texts that they are there, with namespaces and times.

Taking a file over again changes nothing; what the deck has as new or newer stays.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, StorageError
from quarterdeck.storage.memory.base import Entry
from quarterdeck.storage.memory.claude_flow import Row

from .checks import check_loaded, check_names, json_text
from .service import MemoryService

_PACKED = "__compressed__"
BATCH = 100  # rows written at once: they share a commit where the backend can


@dataclass(slots=True)
class TakenOver:
    """What became of the rows."""

    written: int = 0  # in a dry run: would be
    unchanged: int = 0  # ours is as new
    expired: int = 0
    damaged: int = 0


async def take_over(
    memory: MemoryService, rows: Iterable[Row], on_damaged: Callable[[str], None], *, dry_run: bool
) -> TakenOver:
    """Load the rows that live; `on_damaged` is told of each that cannot be kept, which is passed over.

    Raises:
        StorageError: memory or the source cannot be used; the rows before that are taken over.
    """
    taken = TakenOver()
    source = iter(rows)
    failure: StorageError | None = None
    while failure is None:
        batch, failure = _next(source)
        if not batch and failure is None:
            break
        entries: list[Entry] = []
        for row in batch:
            try:
                entry = _entry(row)
                if entry.expires_at is not None and entry.expires_at <= memory.clock.now():
                    taken.expired += 1
                    continue
                check_loaded(entry, memory.clock.now())
                entries.append(entry)
            except DeckError as exc:
                taken.damaged += 1
                on_damaged(f"{_named(row.namespace, row.key)}: {exc.message}")
        outcomes = await (_compare(memory, entries) if dry_run else _load(memory, entries))
        for entry, outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, DeckError):  # a limit of the namespace, say
                taken.damaged += 1
                on_damaged(f"{_named(entry.namespace, entry.key)}: {outcome.message}")
            else:
                taken.written += outcome
                taken.unchanged += not outcome
    if failure is not None:
        state = "would be" if dry_run else "are"
        raise StorageError(f"{failure.message}; {taken.written} entries before that {state} taken over")
    return taken


def _next(source: Iterator[Row]) -> tuple[list[Row], StorageError | None]:
    """The next rows, and what then kept the source from being read."""
    batch: list[Row] = []
    try:
        for row in islice(source, BATCH):
            batch.append(row)  # noqa: PERF402  what came before a failure counts
    except StorageError as exc:
        return batch, exc
    return batch, None


async def _load(memory: MemoryService, entries: Sequence[Entry]) -> list[bool | DeckError]:
    outcomes: list[bool | DeckError] = []
    for outcome in await asyncio.gather(*(memory.load(entry) for entry in entries), return_exceptions=True):
        if isinstance(outcome, StorageError) or not isinstance(outcome, bool | DeckError):
            raise outcome
        outcomes.append(outcome)
    return outcomes


async def _compare(memory: MemoryService, entries: Sequence[Entry]) -> list[bool | DeckError]:
    """Which of them `_load` would write."""
    store, now = await memory.begin()
    kept: dict[tuple[str, str], Entry] = {}
    for namespace in {entry.namespace for entry in entries}:
        keys = [entry.key for entry in entries if entry.namespace == namespace]
        for head in (await store.heads(namespace, keys, now=now)).values():
            kept[namespace, head.key] = head
    ours = (kept.get((entry.namespace, entry.key)) for entry in entries)
    return [head is None or head.updated_at < entry.updated_at for entry, head in zip(entries, ours, strict=True)]


def _entry(row: Row) -> Entry:
    """Raises InvalidArgumentError, LimitError: the name, the value or a time cannot be kept."""
    for name in ("namespace", "key", "value"):
        if not isinstance(getattr(row, name), str):
            raise InvalidArgumentError(f"{name}: must be text, is {type(getattr(row, name)).__name__}")
    check_names(row.namespace, row.key)
    text, size = json_text(_unpacked(row.value))
    updated_at = _milliseconds("updated_at", row.updated_at)
    created_at = _milliseconds("created_at", row.created_at)
    expires_at = None if row.expires_at is None else _milliseconds("expires_at", row.expires_at)
    return Entry(row.namespace, row.key, text, size, 1, created_at, updated_at, expires_at)


def _unpacked(value: str) -> str:
    """What is no text and longer than 1 KiB as JSON, claude-flow keeps as base64 of that."""
    if value.startswith(_PACKED):
        with contextlib.suppress(ValueError):
            return base64.b64decode(value.removeprefix(_PACKED), validate=True).decode()
    return value


def _milliseconds(name: str, seconds: Any) -> int:
    if not isinstance(seconds, int | float) or not abs(seconds) < 1e15:
        raise InvalidArgumentError(f"{name}: must be seconds since 1970, is {str(seconds)[:40]!a}")
    return round(seconds * 1000)


def _named(namespace: object, key: object) -> str:
    return f"{str(key)[:80]!a} in namespace {str(namespace)[:80]!a}"
