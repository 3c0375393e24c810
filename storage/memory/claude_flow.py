"""The memory file of claude-flow 2.7, `.swarm/memory.db`, read only: its rows as they are, damaged ones too."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidArgumentError, StorageError

# Whatever wrote the file: SQLite keeps any type in any column.
_ROWS = "SELECT namespace, key, value, created_at, updated_at, expires_at FROM memory_entries ORDER BY rowid"


class Row(NamedTuple):
    """Nothing is checked. Times are seconds; texts that are no UTF-8 hold lone surrogates."""

    namespace: Any
    key: Any
    value: Any
    created_at: Any
    updated_at: Any
    expires_at: Any  # None: kept for ever


def read_rows(path: Path) -> Iterator[Row]:
    """All rows as they were at one moment, also while claude-flow writes. The file is not changed; of a folder, it is
    the one that claude-flow keeps in a project.

    Raises:
        InvalidArgumentError: it is no such file.
        StorageError: it is damaged; the rows before the damage have been yielded.
    """
    if path.is_dir():
        path = path / ".swarm" / "memory.db"
    if not path.is_file():
        raise InvalidArgumentError(f"no file {path}: give the memory.db of claude-flow, or the project's folder")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = _text
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if "memory_entries" not in tables:
                raise InvalidArgumentError(
                    f"{path} has no table memory_entries, as memory of claude-flow 2.7 has "
                    f"(tables: {', '.join(sorted(tables)) or 'none'})"
                )
            yield from map(Row._make, connection.execute(_ROWS))
    except sqlite3.OperationalError as exc:
        raise InvalidArgumentError(f"cannot read {path} as memory of claude-flow 2.7: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise InvalidArgumentError(
                f"{path} is no SQLite database: give the memory.db of claude-flow, or the project's folder"
            ) from None
        raise StorageError(f"cannot read {path} any further: {exc}") from exc


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")
