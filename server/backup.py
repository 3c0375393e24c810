"""`quarterdeck backup|restore`: the data directory as a folder of plain files with a manifest.

A backup is made beside servers that write: each database is copied in one read transaction, so it is as it was at one
moment; the databases one after the other, and the files after them, which are never changed once they are there. A
restore checks every file before it touches anything, and moves what it replaces aside.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quarterdeck.storage.errors import InvalidArgumentError, StorageError
from quarterdeck.storage.objects.local import copy_objects
from quarterdeck.storage.objects.staging import sync_folder
from quarterdeck.storage.remote import without_password
from quarterdeck.storage.sqlite import copy_database

from .config import Settings
from .deck import MEMORY_FILE, backend_of, prepare_data_dir, sqlite_path
from .directory_lock import exclusive, shared

MANIFEST = "manifest.json"
FORMAT = 1
OBJECTS = "objects"
ASIDE = "replaced-"


def back_up(settings: Settings, folder: Path) -> str:
    """Copy everything that is kept into `folder`, which appears once it is complete; returns what to tell the user.

    Raises:
        InvalidArgumentError: the folder is there already, or inside of the data directory.
        StorageError: something cannot be read or written.
    """
    data_dir = prepare_data_dir(settings.data_dir)
    folder = folder.absolute()
    if folder.exists():
        raise InvalidArgumentError(f"{folder} exists: name a new folder, each backup gets its own")
    if folder.resolve().is_relative_to(data_dir.resolve()):
        raise InvalidArgumentError(f"{folder} is inside of the data directory {data_dir}: name one elsewhere")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    with shared(data_dir), _explained("back up"):
        try:
            _make_folder(draft)
            parts = _parts(settings, data_dir)
            for name, source in sorted(parts.items(), key=lambda part: part[1].suffix != ".db"):
                _copy_part(name, source, draft / name)
            sizes = _write_manifest(draft)
            draft.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    note = ""
    if backend_of(settings.memory_url) != "sqlite":
        address = without_password(settings.memory_url or "")
        note = f"\nmemory is not in it: {address} keeps it; back it up there, or use `quarterdeck memory export`"
    return f"{len(sizes)} files, {sum(sizes):,} bytes backed up to {folder}{note}"


def restore(settings: Settings, folder: Path) -> str:
    """Put the backup in the place of what is there, which is moved aside; returns what to tell the user.

    Raises:
        InvalidArgumentError: the folder is no complete backup, or one of a newer program.
        ConflictError: a server uses the data directory.
        StorageError: something cannot be read or written.
    """
    data_dir = prepare_data_dir(settings.data_dir)
    with exclusive(data_dir), _explained("restore"):
        names = _verified(folder)
        aside = data_dir / f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        draft = data_dir / f".restore-{os.getpid()}"
        try:
            for name in names:
                _copy_file(folder / name, draft / name)
            replaced = _move_aside(_parts(settings, data_dir), aside)
            for part in draft.iterdir():
                shutil.move(part, _place(settings, data_dir, part.name))
            sync_folder(data_dir)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    kept = f"; what was there is in {aside}" if replaced else ""
    return f"{len(names)} files restored to {data_dir}{kept}"


def _parts(settings: Settings, data_dir: Path) -> dict[str, Path]:
    """What is kept, by its name in a backup: files and folders of the data directory, and memory wherever it is."""
    parts = {
        path.name: path
        for path in data_dir.iterdir()
        if not path.name.startswith((".", ASIDE)) and not path.name.endswith(("-wal", "-shm", "-journal"))
    }
    memory = _place(settings, data_dir, MEMORY_FILE)
    if memory.exists():
        parts[MEMORY_FILE] = memory
    return parts


def _place(settings: Settings, data_dir: Path, name: str) -> Path:
    """Where a part of a backup belongs."""
    elsewhere = sqlite_path(settings.memory_url) if settings.memory_url else None
    return elsewhere if elsewhere and name == MEMORY_FILE else data_dir / name


def _copy_part(name: str, source: Path, target: Path) -> None:
    if source.suffix == ".db":
        copy_database(source, target)
        _sync(target)
    elif name == OBJECTS:
        copy_objects(source, target, _copy_file)
    elif source.is_dir():
        for path in source.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _copy_file(path, target / path.relative_to(source))
    else:
        _copy_file(source, target)


def _copy_file(source: Path, target: Path) -> None:
    _make_folder(target.parent)
    shutil.copyfile(source, target)
    target.chmod(0o600)
    _sync(target)


def _make_folder(path: Path) -> None:
    """Make it and those above it for the user alone (`parents=True` would open those to others)."""
    if not path.exists():
        _make_folder(path.parent)
        path.mkdir(mode=0o700)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_manifest(folder: Path) -> list[int]:
    """Describe every file of the backup; returns their sizes."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    about = {
        "format": FORMAT,
        "program": f"quarterdeck {version('quarterdeck')}",
        "createdAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
    manifest.chmod(0o600)
    _sync(manifest)
    return [path.stat().st_size for path in map(folder.joinpath, files)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(folder: Path) -> list[str]:
    """The names of the backup's files, each as the manifest says. Raises InvalidArgumentError."""
    try:
        about: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        number, files = int(about["format"]), dict(about["files"])
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise InvalidArgumentError(f"{folder} is no backup: {MANIFEST}: {exc}") from None
    if number > FORMAT:
        raise InvalidArgumentError(f"{folder} was made by {about.get('program')}: upgrade quarterdeck")
    for name, file in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidArgumentError(f"{folder} is no backup: {name} is not inside of it")
        if not path.is_file() or path.stat().st_size != file["bytes"] or _digest(path) != file["sha256"]:
            raise InvalidArgumentError(f"{folder} is damaged: {name} is not as it was backed up; nothing was restored")
    return list(files)


def _move_aside(parts: Mapping[str, Path], aside: Path) -> bool:
    """Move what is there out of the way; False if there was nothing."""
    for name, path in parts.items():
        aside.mkdir(mode=0o700, exist_ok=True)
        for suffix in ("", "-wal", "-shm"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.move(source, aside / (name + suffix))
    return bool(parts)


@contextmanager
def _explained(what: str) -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(f"cannot {what}: {exc}") from exc
