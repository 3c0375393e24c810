"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.postgres import PostgresServer
from tests.servers.qdrant import QdrantShim
from tests.servers.seaweed import SeaweedServer
from tests.servers.valkey import ValkeyServer

MEMORY = Path("/dev/shm")  # noqa: S108  Linux' file system in memory
NEEDED = 4 << 30  # bytes free there


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write in memory where there is room for it: no test cuts the power, and most of the time of many
    went by waiting for a disk to sync. `TMPDIR=/tmp make test` uses the disk."""
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > NEEDED:
        os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="deck-", dir=MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(str(tempfile.tempdir), ignore_errors=True))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def qdrant_shim() -> Iterator[QdrantShim]:
    server = QdrantShim()
    yield server
    server.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[SeaweedServer]:
    server = SeaweedServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres", "redis"])
async def memory_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place for memory on each backend."""
    match request.param:
        case "postgres":
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            return await postgres.new_database()
        case "redis":
            valkey: ValkeyServer = request.getfixturevalue("valkey_server")
            valkey.clear()
            return valkey.url
        case _:
            return f"sqlite://{tmp_path / 'memory.db'}"
