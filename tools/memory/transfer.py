"""Memory as JSON lines: every live entry with its version and times, on its way to another deck or into a file.

One line: {"namespace", "key", "value", "version", "createdAt", "updatedAt", "expiresAt"}, times in ISO 8601, expiresAt
null for ever. Importing a file again changes nothing; what the deck has as new or newer stays.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from quarterdeck.storage.clock import iso, milliseconds_of
from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.storage.memory.base import Entry
from quarterdeck.tools.arguments import Arguments, explain

from .checks import check_loaded, check_names, json_text
from .service import MemoryService

PAGE = 500  # entries read at once
BATCH = 100  # lines written at once: they share a commit where the backend can


class Line(Arguments):
    """One exported entry."""

    namespace: str
    key: str
    value: Any
    version: int = Field(ge=1)
    created_at: AwareDatetime = Field(strict=False)
    updated_at: AwareDatetime = Field(strict=False)
    expires_at: AwareDatetime | None = Field(default=None, strict=False)

    def entry(self) -> Entry:
        """Raises InvalidArgumentError, LimitError: the name or the value cannot be kept."""
        check_names(self.namespace, self.key)
        text, size = json_text(self.value)
        created_at, updated_at = milliseconds_of(self.created_at), milliseconds_of(self.updated_at)
        expires_at = None if self.expires_at is None else milliseconds_of(self.expires_at)
        return Entry(self.namespace, self.key, text, size, self.version, created_at, updated_at, expires_at)


@dataclass(slots=True)
class Imported:
    """What became of the lines of an import."""

    written: int = 0
    unchanged: int = 0  # ours was as new, or the line's had expired


async def export_lines(memory: MemoryService, namespace: str | None = None) -> AsyncIterator[str]:
    """The live entries of one namespace or of all, by namespace and key. Each is as it was when it was read.

    Raises:
        StorageError: memory cannot be read.
    """
    names = _namespaces(memory) if namespace is None else _only(namespace)
    async for name in names:
        cursor = None
        while True:
            page = await memory.list(name, limit=PAGE, cursor=cursor)
            for entry in page.entries:
                yield _line(entry)
            cursor = page.next_cursor
            if cursor is None:
                break


async def _namespaces(memory: MemoryService) -> AsyncIterator[str]:
    cursor = None
    while True:
        page = await memory.namespaces(limit=PAGE, cursor=cursor)
        for stats in page.namespaces:
            yield stats.namespace
        cursor = page.next_cursor
        if cursor is None:
            return


async def _only(namespace: str) -> AsyncIterator[str]:
    yield namespace


def _line(entry: Entry) -> str:
    """The value goes out as the very text that is kept."""
    names = json.dumps({"namespace": entry.namespace, "key": entry.key}, ensure_ascii=False)
    state = json.dumps(
        {
            "version": entry.version,
            "createdAt": iso(entry.created_at),
            "updatedAt": iso(entry.updated_at),
            "expiresAt": None if entry.expires_at is None else iso(entry.expires_at),
        }
    )
    return f'{names[:-1]}, "value": {entry.text}, {state[1:]}\n'


async def import_lines(memory: MemoryService, lines: Iterable[bytes], on_line: Callable[[int], None]) -> Imported:
    """Take over exported entries; `on_line` is told the number of each line. Empty lines are passed over.

    Raises:
        DeckError: a line is none, or its entry cannot be kept. Its number is named; the lines before it are kept.
    """
    imported = Imported()
    numbered = enumerate(lines, start=1)
    while batch := list(islice(numbered, BATCH)):
        entries: list[tuple[int, Entry]] = []
        failure: DeckError | None = None
        for number, line in batch:
            on_line(number)
            try:
                if line.strip():
                    entry = _parse(line)
                    check_loaded(entry, memory.clock.now())  # before any of the lines behind it is written
                    entries.append((number, entry))
            except DeckError as exc:
                failure = _at_line(number, exc)
                break
        outcomes = await asyncio.gather(*(memory.load(entry) for _, entry in entries), return_exceptions=True)
        for (number, _), outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, DeckError):
                raise _at_line(number, outcome)
            if isinstance(outcome, BaseException):
                raise outcome
            imported.written += outcome
            imported.unchanged += not outcome
        if failure is not None:
            raise failure
    return imported


def _parse(line: bytes) -> Entry:
    try:
        return Line.model_validate(json.loads(line)).entry()
    except ValidationError as exc:
        raise InvalidArgumentError(explain("entry", exc, Line)) from None
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"not a JSON object in UTF-8: {exc}") from None


def _at_line(number: int, exc: DeckError) -> DeckError:
    return type(exc)(f"line {number}: {exc.message}; the lines before it are imported: correct it and import again")
