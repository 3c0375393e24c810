"""Stores as files of JSON lines in the folder of an agent type, one record a line."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..worker.task import PromptError, Task
from .stores import Record, Store, open_store

NAME_CHARACTERS = 120  # of a file's name; file systems take 255 bytes


@contextmanager
def lock(folder: Path) -> Generator[None]:
    """Work in the folder alone: all agents of a type share it, those of other servers too. A killed one holds nothing.

    Raises:
        PromptError: another agent is at work in it.
    """
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            _take(descriptor)
        except (BlockingIOError, PermissionError):
            raise PromptError("another agent is at work in this type's folder; try again when it is done") from None
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Raises BlockingIOError, on Windows PermissionError: another process has the lock."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def chosen_stores(task: Task) -> list[Store]:
    """The stores that the prompt names in `namespaces` and `collections`."""
    names = {"memory": task.prompt.get("namespaces", ()), "vectors": task.prompt.get("collections", ())}
    return [open_store(task, kind, name) for kind, found in names.items() for name in dict.fromkeys(found)]


def file_name(store: Store) -> str:
    """Where a store goes: `memory/notes.jsonl`. Any name gives a safe one, and different names different ones."""
    name = quote(store.name, safe="")
    if len(name) > NAME_CHARACTERS:
        name = f"{name[:NAME_CHARACTERS]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{store.kind}/{name}.jsonl"


def write_lines(task: Task, path: Path, store: Store, line_of: Callable[[Record], str]) -> dict[str, Any]:
    """Write a line for each record, durably, in place of what was there: `{records, bytes, sha256}`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    digest, records, size = hashlib.sha256(), 0, 0
    with partial.open("wb") as file:
        for record in store.records():
            line = line_of(record).encode() + b"\n"
            file.write(line)
            digest.update(line)
            records, size = records + 1, size + len(line)
            task.progress(records, records + 1, f"writing {store.name}")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
    return {"records": records, "bytes": size, "sha256": digest.hexdigest()}


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where folders can be synced."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
