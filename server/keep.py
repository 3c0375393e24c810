"""`quarterdeck memory export|import` and `import-claude-flow`: memory out of files and into them, beside servers that
run or without any.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.errors import InvalidArgumentError, StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.claude_flow import read_rows
from quarterdeck.tools.memory.claude_flow import TakenOver, take_over
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.transfer import export_lines, import_lines

from .changes import CHANGES, ChangeBoard
from .config import Settings
from .directory_lock import shared
from .stores import memory_service, open_memory_store, prepare_data_dir, sqlite_path

PROGRESS_EVERY = 10_000  # entries


async def export_memory(settings: Settings, target: Path | None, namespace: str | None) -> str:
    """Write live entries to `target` (mode 0600, complete or not at all) or to stdout; returns what to tell the user.

    Raises:
        DeckError: memory or the file cannot be used.
    """
    count = 0
    async with _memory(settings) as memory:
        with _output(target) as output:
            async for line in export_lines(memory, namespace):
                output.write(line.encode())
                count += 1
                _tell_progress(count, "exported")
    return f"{count} entries exported"


async def import_memory(settings: Settings, source: Path | None) -> str:
    """Read entries from `source` or from stdin; returns what to tell the user.

    Raises:
        DeckError: memory or the file cannot be used, or a line is no entry.
    """
    async with _memory(settings) as memory:
        with _input(source) as lines:
            imported = await import_lines(memory, lines, lambda count: _tell_progress(count, "read"))
    return f"{imported.written} entries imported, {imported.unchanged} unchanged (as new here, or expired)"


async def import_claude_flow(settings: Settings, source: Path, *, dry_run: bool) -> TakenOver:
    """Take over the memory of claude-flow 2.7 from its file; rows that cannot be kept are named on stderr.

    Raises:
        DeckError: memory or the file cannot be used.
    """

    def tell(damage: str) -> None:
        print(f"skipped {damage}", file=sys.stderr)  # noqa: T201

    async with _memory(settings) as memory:
        return await take_over(memory, read_rows(source), tell, dry_run=dry_run)


@asynccontextmanager
async def _memory(settings: Settings) -> AsyncGenerator[MemoryService]:
    data_dir = prepare_data_dir(settings.data_dir)
    with shared(data_dir, sqlite_path(settings.memory_url)):
        store = OnFirstUse(lambda: open_memory_store(settings.memory_url, data_dir, settings.durability))
        opened = await store()
        memory = memory_service(settings, store, SystemClock())
        board = ChangeBoard(data_dir / CHANGES)
        memory.on_change = board.noted("memory")
        try:
            yield memory
        finally:
            await opened.close()
            board.close()


def _tell_progress(count: int, what: str) -> None:
    if count % PROGRESS_EVERY == 0:
        print(f"{count} entries {what} …", file=sys.stderr)  # noqa: T201


@contextmanager
def _output(target: Path | None) -> Generator[BinaryIO]:
    if target is not None:
        target = target.resolve()  # a link goes on pointing to it
    if target is None or (target.exists() and not target.is_file()):
        with _stream(target) as stream:
            yield stream
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as exc:
        raise StorageError(f"cannot write {target}: {exc.strerror or exc}") from exc
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def _stream(target: Path | None) -> Generator[BinaryIO]:
    """Stdout, or what is no regular file: a device, a pipe."""
    try:
        if target is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with target.open("wb") as file:
                yield file
    except OSError as exc:
        if target is None:  # or the interpreter tries once more to write what is left, and complains
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageError(f"cannot write {target or 'stdout'}: {exc.strerror or exc}") from exc


@contextmanager
def _input(source: Path | None) -> Generator[BinaryIO]:
    try:
        if source is None:
            yield sys.stdin.buffer
        else:
            with source.open("rb") as file:
                yield file
    except OSError as exc:
        raise InvalidArgumentError(f"cannot read {source or 'stdin'}: {exc.strerror or exc}") from exc
