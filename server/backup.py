"""`quarterdeck backup|restore`: the data directory as a folder of plain files with a manifest.

A backup is made beside servers that write: each database is copied in one read transaction, so it is as it was at one
moment; the databases one after the other, and the files after them, which are never changed once they are there. A
restore checks and copies every file before it touches anything, moves what it replaces aside, and back if it fails.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from quarterdeck.storage.errors import InvalidArgumentError, StorageError
from quarterdeck.storage.objects.local import copy_objects
from quarterdeck.storage.objects.staging import sync_folder
from quarterdeck.storage.remote import without_password
from quarterdeck.storage.sqlite import copy_database

from .config import Settings
from .directory_lock import RESTORING, exclusive, shared
from .stores import MEMORY_FILE, backend_of, prepare_data_dir, sqlite_path

MANIFEST = "manifest.json"
FORMAT = 1
DATABASE = ".db"
LOGS = ("-wal", "-shm")  # of SQLite; what they hold is in the copy of their database
OBJECTS = "objects"
ASIDE = "replaced-"


class _File(BaseModel):
    bytes: int = Field(ge=0)
    sha256: str


class _Manifest(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    format: int
    program: str
    created_at: str
    files: dict[str, _File] = Field(min_length=1)


def back_up(settings: Settings, folder: Path) -> str:
    """Copy everything that is kept into `folder`, which appears once it is complete; returns what to tell the user.

    Raises:
        InvalidArgumentError: the folder is there already, or inside of the data directory, or there is nothing to keep.
        StorageError: something cannot be read or written.
    """
    if not settings.data_dir.is_dir():
        raise InvalidArgumentError(f"there is no data directory {settings.data_dir}: see QUARTERDECK_DATA_DIR")
    data_dir, memory = prepare_data_dir(settings.data_dir), sqlite_path(settings.memory_url)
    folder = folder.absolute()
    if folder.exists():
        raise InvalidArgumentError(f"{folder} exists: name a new folder, each backup gets its own")
    if folder.resolve().is_relative_to(data_dir.resolve()):
        raise InvalidArgumentError(f"{folder} is inside of the data directory {data_dir}: name one elsewhere")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    with shared(data_dir, memory), _explained("back up"):
        parts = _parts(data_dir, memory)
        if not parts:
            raise InvalidArgumentError(f"there is nothing in the data directory {data_dir} yet")
        try:
            _make_folder(draft)
            for name in sorted(parts, key=lambda name: not name.endswith(DATABASE)):
                _copy_part(name, parts[name], draft / name)
            sizes = _write_manifest(draft)
            draft.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    note = ""
    if backend_of(settings.memory_url) != "sqlite":
        address = without_password(settings.memory_url or "")
        note = f"\nmemory is not in it: {address} keeps it; back it up there, or use `quarterdeck memory export`"
    if settings.vectors_url is not None:
        note += f"\nvectors are not in it: {settings.vectors_url} keeps them; take its snapshots"
    return f"{len(sizes)} files, {sum(sizes):,} bytes backed up to {folder}{note}"


def restore(settings: Settings, folder: Path) -> str:
    """Put the backup in the place of what is there, which is moved aside; returns what to tell the user.

    Raises:
        InvalidArgumentError: the folder is no complete backup, or one of a newer program.
        ConflictError: a server uses the data directory or the memory file.
        StorageError: something cannot be read or written; then all is as it was.
    """
    data_dir, memory = prepare_data_dir(settings.data_dir), sqlite_path(settings.memory_url)
    with exclusive(data_dir, memory), _explained("restore"):
        names = _verified(folder)
        drafts = {name: _draft(_place(data_dir, memory, name)) for name in {Path(name).parts[0] for name in names}}
        try:
            for name in names:
                first, *rest = Path(name).parts
                _copy_file(folder / name, drafts[first].joinpath(*rest))
            aside = _replace(data_dir, memory, drafts)
        finally:
            for draft in drafts.values():
                shutil.rmtree(draft, ignore_errors=True)
                draft.unlink(missing_ok=True)
    kept = f"; what was there is in {aside}" if aside else ""
    return f"{len(names)} files restored to {data_dir}{kept}"


def _parts(data_dir: Path, memory: Path | None) -> dict[str, Path]:
    """What is kept, by its name in a backup: files and folders of the data directory, and memory wherever it is."""
    parts = {
        path.name: path
        for path in data_dir.iterdir()
        if not path.name.startswith((".", ASIDE)) and not path.name.endswith(LOGS) and path != memory
    }
    if memory is not None and memory.exists():
        parts[MEMORY_FILE] = memory
    return parts


def _place(data_dir: Path, memory: Path | None, name: str) -> Path:
    """Where a part of a backup belongs."""
    return memory if memory is not None and name == MEMORY_FILE else data_dir / name


def _copy_part(name: str, source: Path, target: Path) -> None:
    if name.endswith(DATABASE):
        copy_database(source, target)
        _sync(target)
    elif name == OBJECTS:
        copy_objects(source, target, _copy_file)
    elif source.is_dir():
        for path in source.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _copy_if_there(path, target / path.relative_to(source))
    else:
        _copy_if_there(source, target)


def _copy_if_there(source: Path, target: Path) -> None:
    """What vanishes meanwhile is not there to be kept."""
    try:
        _copy_file(source, target)
    except FileNotFoundError:
        if source.exists():
            raise


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
    with path.open("rb+") as file:  # Windows syncs what may be written
        os.fsync(file.fileno())


def _write_manifest(folder: Path) -> list[int]:
    """Describe every file of the backup; returns their sizes."""
    files = {
        path.relative_to(folder).as_posix(): _File(bytes=path.stat().st_size, sha256=_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    about = _Manifest(
        format=FORMAT, program=f"quarterdeck {version('quarterdeck')}", created_at=created_at, files=files
    )
    manifest = folder / MANIFEST
    manifest.write_text(about.model_dump_json(indent=1, by_alias=True), encoding="utf-8")
    manifest.chmod(0o600)
    _sync(manifest)
    return [file.bytes for file in files.values()]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(folder: Path) -> list[str]:
    """The names of the backup's files, each as the manifest says. Raises InvalidArgumentError."""
    try:
        about = _Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as exc:
        raise InvalidArgumentError(f"{folder} is no backup: {MANIFEST}: {exc.strerror or exc}") from None
    except ValidationError as exc:
        raise InvalidArgumentError(f"{folder} is no backup: {MANIFEST}: {exc.errors()[0]['msg']}") from None
    if about.format > FORMAT:
        raise InvalidArgumentError(f"{folder} was made by {about.program}: upgrade quarterdeck")
    for name, file in about.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
            raise InvalidArgumentError(f"{folder} is no backup: {name} is not inside of it")
        if not path.is_file() or path.stat().st_size != file.bytes or _digest(path) != file.sha256:
            raise InvalidArgumentError(f"{folder} is damaged: {name} is not as it was backed up; nothing was restored")
    return list(about.files)


def _draft(place: Path) -> Path:
    """Where a part is laid out, beside its place: the last move is a rename then."""
    if not place.parent.is_dir():
        raise StorageError(f"cannot restore {place.name}: there is no folder {place.parent}; nothing was restored")
    return place.with_name(f".restore-{os.getpid()}-{place.name}")


def _replace(data_dir: Path, memory: Path | None, drafts: Mapping[str, Path]) -> Path | None:
    """Move what is there aside and the drafts in its place; returns where it is now, None if there was nothing.

    Raises:
        OSError: a move failed; those before it are undone.
    """
    parts = _parts(data_dir, memory)
    aside = Path(tempfile.mkdtemp(prefix=f"{ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-", dir=data_dir))
    marker = data_dir / RESTORING
    marker.write_text(str(aside), encoding="utf-8")
    _sync(marker)
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in _moves(parts, aside, data_dir, memory, drafts):
            shutil.move(source, target)
            moved.append((source, target))
        sync_folder(data_dir)
    except OSError:
        for source, target in reversed(moved):
            shutil.move(target, source)
        shutil.rmtree(aside)
        marker.unlink()
        raise
    marker.unlink()
    if not parts:
        aside.rmdir()
        return None
    return aside


def _moves(
    parts: Mapping[str, Path], aside: Path, data_dir: Path, memory: Path | None, drafts: Mapping[str, Path]
) -> Iterator[tuple[Path, Path]]:
    for name, path in parts.items():
        for suffix in ("", *LOGS):
            source = path.with_name(path.name + suffix)
            if source.exists():
                yield source, aside / (name + suffix)
    for name, draft in drafts.items():
        yield draft, _place(data_dir, memory, name)


@contextmanager
def _explained(what: str) -> Generator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(f"cannot {what}: {exc}") from exc
