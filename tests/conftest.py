"""Fixtures that more than one room's tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.postgres import PostgresServer
from tests.servers.qdrant import QdrantShim
from tests.servers.seaweed import SeaweedServer
from tests.servers.valkey import ValkeyServer


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
