"""`quarterdeck doctor`: what is installed and reachable, and what to do about what is not.

Until the packages are known to be there, only the standard library is imported.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:  # the packages may be missing
    from quarterdeck.storage.objects.s3_location import S3Location

    from .config import Settings

PYTHON = (3, 11)
SQLITE = (3, 37, 0)  # the first with STRICT tables
COMPILED = ("numpy", "faiss")  # modules that may be installed and yet not load on this machine


class Finding(NamedTuple):
    """`fail`: the server could not serve; `warn`: a part of it may not do what it is meant to."""

    level: Literal["ok", "warn", "fail"]
    what: str
    remedy: str | None = None


def run_doctor() -> int:
    """Print every finding; 1 if the server could not serve."""
    failures = 0
    for level, what, remedy in examine():
        failures += level == "fail"
        print(f"{level:<4}  {what}" + (f"\n      -> {remedy}" if remedy else ""))  # noqa: T201
    print(f"\nthe server cannot serve: {failures} to repair" if failures else "\nthe server can serve")  # noqa: T201
    return 1 if failures else 0


def examine() -> Iterator[Finding]:
    """Look at everything; what cannot be looked at after a failure is left out."""
    yield _python()
    yield _sqlite()
    packages = [_packages(), *(_loaded(module) for module in COMPILED)]
    yield from packages
    if any(finding.level == "fail" for finding in packages):
        return
    yield _freezing()
    yield from _settings()


def _python() -> Finding:
    what = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info < PYTHON:
        return Finding("fail", what, f"install Python {_dotted(PYTHON)} or newer")
    return Finding("ok", what)


def _sqlite() -> Finding:
    what = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < SQLITE:
        return Finding("fail", what, f"use a Python that brings SQLite {_dotted(SQLITE)} or newer")
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute("CREATE VIRTUAL TABLE words USING fts5 (body)")
        except sqlite3.Error as exc:
            return Finding("fail", f"{what} without FTS5: {exc}", "use a Python whose SQLite has FTS5")
    return Finding("ok", f"{what} with FTS5")


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def _packages() -> Finding:
    """The requirements of this installation that belong to no extra."""
    needed = [line for line in requires("quarterdeck") or () if "extra ==" not in line]
    found: list[str] = []
    missing: list[str] = []
    for name in (re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("fail", f"packages missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("ok", f"packages: {', '.join(found)}")


def _loaded(module: str) -> Finding:
    try:
        return Finding("ok", f"{module} {import_module(module).__version__} loads")
    except ImportError as exc:
        return Finding("fail", f"{module} does not load: {exc}", "reinstall it for this Python and this processor")


def _freezing() -> Finding:
    """Pause a process as `query_control` does."""
    import psutil

    from quarterdeck.tools.agents import processes

    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]) as sleeper:
        try:
            frozen = asyncio.run(processes.freeze(psutil.Process(sleeper.pid)))
        finally:
            sleeper.kill()
    if frozen is None:
        remedy = "pause will answer `failed` here; agents can still be terminated"
        return Finding("warn", "a process could not be stopped and continued", remedy)
    return Finding("ok", "processes can be paused: one was stopped and stood still")


def _settings() -> Iterator[Finding]:
    from quarterdeck.storage.errors import DeckError

    from .agent_types import own_types
    from .config import load_settings, unknown_variables
    from .stores import prepare_data_dir

    for name in unknown_variables():
        yield Finding("warn", f"{name} is set but means nothing here", "`quarterdeck config` shows the names")
    try:
        settings = load_settings()
        own_types(settings)
    except DeckError as exc:
        yield Finding("fail", exc.message, "correct it or remove it: everything has a default")
        return
    yield _upload_roots(settings.upload_roots)
    try:
        data_dir = prepare_data_dir(settings.data_dir)
    except DeckError as exc:
        yield Finding("fail", exc.message, "set QUARTERDECK_DATA_DIR to a folder that you may write to")
        return
    yield Finding("ok", f"data directory {data_dir} can be written")
    yield from _backends(data_dir, settings)
    yield from _cache(settings.cache_url)
    yield _embedder(settings, data_dir)


def _upload_roots(roots: Sequence[Path]) -> Finding:
    if not roots:
        remedy = "set QUARTERDECK_UPLOAD_ROOTS; contents without a path can be uploaded all the same"
        return Finding("warn", "no folder may be uploaded from", remedy)
    if missing := [str(root) for root in roots if not root.is_dir()]:
        return Finding("warn", f"no such folder: {', '.join(missing)}", "correct QUARTERDECK_UPLOAD_ROOTS")
    return Finding("ok", f"uploads may come from {', '.join(map(str, roots))}")


def _backends(data_dir: Path, settings: Settings) -> Iterator[Finding]:
    from quarterdeck.storage.runs.sqlite import MIGRATIONS as RUNS

    yield _memory(data_dir, settings.memory_url)
    yield _database("runs", data_dir / "runs.db", len(RUNS))
    yield _vectors(data_dir, settings)
    yield _objects(data_dir / "objects", settings)


def _vectors(data_dir: Path, settings: Settings) -> Finding:
    from quarterdeck.storage.errors import DeckError
    from quarterdeck.storage.vectors.schema import MIGRATIONS

    if settings.vectors_url is None:
        return _database("vectors", data_dir / "vectors.db", len(MIGRATIONS))
    from quarterdeck.storage.vectors.qdrant_server import Server

    key = settings.vectors_key
    server = Server.at(settings.vectors_url, None if key is None else key.get_secret_value())
    try:
        version = asyncio.run(server.version())
    except DeckError as exc:
        remedy = "start that server, or correct QUARTERDECK_VECTORS_URL and QUARTERDECK_VECTORS_KEY"
        return Finding("fail", f"vectors: {exc.message}", remedy)
    return Finding("ok", f"vectors: Qdrant {version} answers at {server.address}")


def _cache(url: str | None) -> Iterator[Finding]:
    from quarterdeck.storage.errors import DeckError
    from quarterdeck.storage.remote import without_password

    if url is None:
        return
    try:
        from quarterdeck.storage.memory.redis import RedisMemoryStore

        version = asyncio.run(RedisMemoryStore.server_version(url))
    except ModuleNotFoundError as exc:
        yield Finding("fail", f"cache: {exc}", "pip install 'quarterdeck[redis]'")
    except DeckError as exc:
        yield Finding("warn", f"cache: {exc.message}", "until it answers, nothing is cached beyond this process")
    else:
        yield Finding("ok", f"cache: {version} answers at {without_password(url)}")


def _memory(data_dir: Path, url: str | None) -> Finding:
    from quarterdeck.storage.errors import DeckError
    from quarterdeck.storage.memory.sqlite import MIGRATIONS
    from quarterdeck.storage.remote import without_password

    from .stores import memory_server, sqlite_path

    if url is None:
        return _database("memory", data_dir / "memory.db", len(MIGRATIONS))
    if path := sqlite_path(url):
        return _database("memory", path, len(MIGRATIONS))
    try:
        version = asyncio.run(memory_server(url).server_version(url))
    except DeckError as exc:
        return Finding("fail", f"memory: {exc.message}", "start that server, or correct QUARTERDECK_MEMORY_URL")
    return Finding("ok", f"memory: {version} answers at {without_password(url)}")


def _database(name: str, path: Path, newest: int) -> Finding:
    """Read it without changing it; a server may be using it."""
    if not path.exists():
        return Finding("ok", f"{name}: {path.name} will be made at its first use")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            [state] = connection.execute("PRAGMA quick_check(1)").fetchone()
            [schema] = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as exc:
        state, schema = str(exc), 0
    if state != "ok":
        return Finding("fail", f"{name}: {path} is damaged: {state}", "restore it from a copy, or move it away")
    if schema > newest:
        what = f"{name}: {path} has schema {schema}, this program knows up to {newest}"
        return Finding("fail", what, "upgrade quarterdeck, or use another data directory")
    return Finding("ok", f"{name}: {path.name} is sound")


def _embedder(settings: Settings, data_dir: Path) -> Finding:
    """Open the one for new collections; this fetches its model if that is not there yet."""
    from quarterdeck.storage.cache import TieredCache
    from quarterdeck.storage.clock import SystemClock
    from quarterdeck.storage.errors import DeckError

    from .embedders import configured_embedders

    async def opened() -> str:
        embedders = configured_embedders(settings, data_dir / "models", TieredCache(SystemClock()))
        try:
            embedder = await embedders.named(None)
        finally:
            await embedders.close()
        return f"{embedder.name} makes vectors of {embedder.dimension} numbers"

    try:
        return Finding("ok", f"embedder: {asyncio.run(opened())}")
    except DeckError as exc:
        return Finding("warn", f"embedder: {exc.message}", "until then, texts cannot be embedded by it")


def _objects(folder: Path, settings: Settings) -> Finding:
    from quarterdeck.storage.errors import DeckError

    from .config import objects_bucket

    try:
        bucket = objects_bucket(settings)
        if bucket is not None:
            asyncio.run(_reach(bucket))
            return Finding("ok", f"objects: {bucket} can be used")
    except DeckError as exc:
        return Finding(
            "fail", f"objects: {exc.message}", "start that server, or correct QUARTERDECK_OBJECTS_URL or MINIO_*"
        )
    if not folder.exists():
        return Finding("ok", f"objects: {folder.name} will be made at its first use")
    if not (folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        return Finding("fail", f"objects: {folder} cannot be used", "make it a folder that you may write to")
    count = sum(not entry.name.startswith(".") for entry in folder.iterdir())
    return Finding("ok", f"objects: {count} uploads")


async def _reach(bucket: S3Location) -> None:
    """Raises StorageError: the bucket cannot be used."""
    from quarterdeck.storage.objects.s3_bucket import S3Bucket

    await (await S3Bucket.open(bucket)).close()
