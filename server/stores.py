"""The only place that opens backends: which setting names which of them, and how it is opened."""

from __future__ import annotations

import asyncio
import contextlib
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import MemoryStore
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.objects.base import ObjectStore
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.objects.s3_location import S3Location
from quarterdeck.storage.remote import without_password
from quarterdeck.storage.runs.base import RunStore
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.storage.sqlite import Durability, open_database
from quarterdeck.storage.vectors.schema import MIGRATIONS as VECTORS
from quarterdeck.tools.memory.limits import Limits
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.uploads.naming import PREFIX as UPLOADS

from .config import Settings, SettingsError, objects_bucket

if TYPE_CHECKING:  # they import numpy, FAISS and drivers, which most sessions do not need at their start
    from pydantic import SecretStr

    from quarterdeck.storage.memory.postgres import PostgresMemoryStore
    from quarterdeck.storage.memory.redis import RedisMemoryStore
    from quarterdeck.storage.redis_cache import RedisCache
    from quarterdeck.storage.vectors.base import VectorStore

MEMORY_FILE, RUNS_FILE, VECTORS_FILE, OBJECTS_FOLDER = "memory.db", "runs.db", "vectors.db", "objects"
MEMORY_URLS = ("sqlite:///path/of.db", "postgresql://…", "redis://…", "rediss://…", "unix:///path/of/redis.sock")


def prepare_data_dir(path: Path) -> Path:
    """Make the data directory (0700) and see that it can be written.

    Raises:
        StorageError: it cannot; the text names the setting.
    """
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # somebody else's folder that we may write to
            path.chmod(0o700)
        probe = path / f".probe-{os.getpid()}"
        probe.touch(0o600)
        probe.unlink()
    except OSError as exc:
        raise StorageError(f"QUARTERDECK_DATA_DIR: cannot use {path}: {exc.strerror or exc}") from exc
    return path


async def open_memory_store(url: str | None, data_dir: Path, durability: Durability = "process") -> MemoryStore:
    """Open the memory that `url` names; None: the one in the data directory.

    Raises:
        SettingsError: there is no such backend, or its package is not installed.
        StorageError: the backend cannot be reached or used.
    """
    if url is None:
        return SqliteMemoryStore(data_dir / MEMORY_FILE, durability)
    if path := sqlite_path(url):
        return SqliteMemoryStore(path, durability)
    return await memory_server(url).open(url)


def backends_of(settings: Settings) -> dict[str, str]:
    """What keeps each kind of thing. Raises SettingsError as `memory_server`."""
    return {
        "memory": backend_of(settings.memory_url),
        "runs": "sqlite",
        "objects": "s3" if objects_bucket(settings) else "local",
        "vectors": "qdrant" if settings.vectors_url else "faiss",
    }


def backend_of(url: str | None) -> str:
    """The kind of memory that `url` names. Raises SettingsError as `memory_server`."""
    return SqliteMemoryStore.backend if url is None or sqlite_path(url) else memory_server(url).backend


def sqlite_path(url: str | None) -> Path | None:
    """The file that `sqlite:///…` names; None for other URLs and for none."""
    return Path(unquote(url.removeprefix("sqlite://"))) if url and url.startswith("sqlite:///") else None


def memory_server(url: str) -> type[PostgresMemoryStore | RedisMemoryStore]:
    """The backend for the server that `url` names.

    Raises:
        SettingsError: as `open_memory_store`.
    """
    scheme = url.partition("://")[0]
    try:
        match scheme:
            case "postgresql" | "postgres":
                from quarterdeck.storage.memory.postgres import PostgresMemoryStore

                return PostgresMemoryStore
            case "redis" | "rediss" | "unix":
                from quarterdeck.storage.memory.redis import RedisMemoryStore

                return RedisMemoryStore
            case _:
                shown = without_password(url)
                raise SettingsError(f"QUARTERDECK_MEMORY_URL: no backend for {shown} (valid: {', '.join(MEMORY_URLS)})")
    except ModuleNotFoundError as exc:
        extra = "postgres" if scheme.startswith("postgres") else "redis"
        raise SettingsError(f"QUARTERDECK_MEMORY_URL: {exc}: pip install 'quarterdeck[{extra}]'") from exc


def memory_service(settings: Settings, store: OnFirstUse[MemoryStore], clock: Clock) -> MemoryService:
    """Memory with the user's lifetimes and limits."""
    return MemoryService(
        store,
        clock,
        default_ttl=settings.memory_default_ttl,
        restore_window=settings.memory_restore_window,
        limits=Limits(
            settings.memory_max_value_bytes,
            settings.memory_max_namespace_entries,
            settings.memory_max_namespace_bytes,
        ),
    )


def open_run_store(data_dir: Path, durability: Durability) -> RunStore:
    """Open the agents and queries in the data directory. Raises StorageError if they cannot be used."""
    return SqliteRunStore(data_dir / RUNS_FILE, durability)


def check_vector_file(settings: Settings, data_dir: Path) -> None:
    """Raises StorageError: the vectors are in a file that is there and cannot be used."""
    path = data_dir / VECTORS_FILE
    if settings.vectors_url is None and path.exists():
        open_database(path, VECTORS).close()


async def open_vector_store(settings: Settings, data_dir: Path, clock: Clock) -> VectorStore:
    """Open the user's vectors. Raises StorageError if they cannot be reached or used."""
    if settings.vectors_url is None:
        return await open_vector_file(data_dir / VECTORS_FILE, settings, clock)
    return await open_vector_server(settings.vectors_url, settings.vectors_key, clock)


async def open_vector_file(path: Path, settings: Settings, clock: Clock) -> VectorStore:
    """Open or create the vectors in a file. Raises StorageError if it cannot be used."""
    # In a thread: numpy and FAISS take some 150 ms, in which other calls go on.
    await asyncio.to_thread(import_module, "quarterdeck.storage.vectors.faiss")
    from quarterdeck.storage.vectors.faiss import FaissVectorStore, Shortcuts

    shortcuts = Shortcuts(
        index=settings.feature_agentdb_search,
        batch_insert=settings.feature_agentdb_batch_insert,
        batch_search=settings.feature_agentdb_large_query,
    )
    return await FaissVectorStore.open(path, clock, shortcuts)


async def open_vector_server(url: str, key: SecretStr | None, clock: Clock) -> VectorStore:
    """Connect to a Qdrant server. Raises StorageError if it cannot be reached or used."""
    await asyncio.to_thread(import_module, "quarterdeck.storage.vectors.qdrant")  # it takes a second
    from quarterdeck.storage.vectors.qdrant import QdrantVectorStore

    return await QdrantVectorStore.open(url, None if key is None else key.get_secret_value(), clock)


async def open_synced(url: str, settings: Settings, clock: Clock) -> VectorStore:
    """Open the vectors that `QUARTERDECK_SYNC_URL` names. Raises StorageError if they cannot be reached or used."""
    if path := sqlite_path(url):
        return await open_vector_file(path, settings, clock)
    return await open_vector_server(url, settings.sync_key, clock)


def open_shared_cache(url: str | None, clock: Clock) -> RedisCache | None:
    """The cache that `QUARTERDECK_CACHE_URL` names; it connects at its first use.

    Raises:
        SettingsError: its package is not installed.
        StorageError: the URL is malformed.
    """
    if url is None:
        return None
    try:
        from quarterdeck.storage.redis_cache import RedisCache
    except ModuleNotFoundError as exc:
        raise SettingsError(f"QUARTERDECK_CACHE_URL: {exc}: pip install 'quarterdeck[redis]'") from exc
    return RedisCache(url, clock)


async def open_object_store(bucket: S3Location | None, data_dir: Path) -> ObjectStore:
    """Open the objects in that bucket; None: those in the data directory.

    Raises:
        StorageError: the bucket or the folder cannot be reached or used.
    """
    if bucket is None:
        return LocalObjectStore(data_dir / OBJECTS_FOLDER)
    # In a thread: aioboto3 takes some 400 ms, in which other calls go on.
    await asyncio.to_thread(import_module, "quarterdeck.storage.objects.s3")
    from quarterdeck.storage.objects.s3 import S3ObjectStore

    return await S3ObjectStore.open(bucket, prefix=UPLOADS)
