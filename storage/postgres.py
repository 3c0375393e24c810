"""PostgreSQL as the deck uses it: a small pool, ordered migrations, and failures in words.

No statement depends on what another has left in its session, so a connection goes back to the pool as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import asyncpg

from .errors import StorageError
from .remote import CONNECT_TIMEOUT, TIMEOUT, UNCERTAIN, check_schema, malformed, one_line, without_password

if TYPE_CHECKING:  # generic in the stubs only
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

CONNECTIONS = 4  # at most, of one process
MIGRATION_LOCK = 0x6465636B  # of PostgreSQL's advisory locks: "deck"

_SCHEMAS = "CREATE TABLE IF NOT EXISTS quarterdeck_schemas (part text PRIMARY KEY, version integer NOT NULL)"
_SET_VERSION = """
    INSERT INTO quarterdeck_schemas VALUES ($1, $2) ON CONFLICT (part) DO UPDATE SET version = excluded.version
"""


class Postgres:
    """One database, shared with other processes. Use it from one event loop."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], address: str) -> None:
        self._pool = pool
        self._address = address

    @classmethod
    async def open(cls, url: str, part: str, migrations: Sequence[str]) -> Self:
        """Connect, and bring the tables of `part` to `len(migrations)`; other processes wait meanwhile.

        Raises:
            StorageError: the server cannot be reached or used, or a newer program has written these tables.
        """
        address = without_password(url)
        pool = await asyncpg.create_pool(
            url,
            min_size=0,  # or it goes on connecting to a server that is gone, and logs each failure
            max_size=CONNECTIONS,
            timeout=CONNECT_TIMEOUT,
            command_timeout=TIMEOUT,
            reset=_leave,
            server_settings={"application_name": "quarterdeck"},
        )
        database = cls(pool, address)
        try:
            async with database.connection() as connection:
                await _migrate(connection, address, part, migrations)
        except BaseException:
            pool.terminate()
            raise
        return database

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection for some statements; a lost one is replaced at its next use.

        Raises:
            StorageError: the server could not be reached, or failed at a statement.
        """
        with _connecting(self._address):
            connection = await self._pool.acquire(timeout=TIMEOUT)
        try:
            with _explained(self._address):
                yield connection
        finally:
            with _explained(self._address):
                await self._pool.release(connection)

    async def close(self) -> None:
        """End all connections once their statements are through, or without that if the server does not answer."""
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._pool.close()


async def server_version(url: str) -> str:
    """Name and version of the server, without changing anything on it.

    Raises:
        StorageError: it cannot be reached.
    """
    with _connecting(without_password(url)):
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, command_timeout=TIMEOUT)
        await connection.close()
        return "PostgreSQL {0.major}.{0.minor}".format(connection.get_server_version())


async def _leave(_: Any) -> None:
    """In place of asyncpg's own reset, which costs a round trip at each release."""


async def _migrate(connection: Connection, address: str, part: str, migrations: Sequence[str]) -> None:
    async def version() -> int:
        if await connection.fetchval("SELECT to_regclass('quarterdeck_schemas')") is None:
            return 0
        return await connection.fetchval("SELECT version FROM quarterdeck_schemas WHERE part = $1", part) or 0

    if (encoding := await connection.fetchval("SHOW server_encoding")) != "UTF8":
        raise StorageError(f"{address}: the database is encoded in {encoding}: use one in UTF8")
    if await version() < len(migrations):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await connection.execute(_SCHEMAS)
            found = await version()
            for script in migrations[found:]:
                await connection.execute(script)
            await connection.execute(_SET_VERSION, part, max(found, len(migrations)))
    check_schema(address, part, await version(), len(migrations))


@contextmanager
def _connecting(address: str) -> Generator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as exc:  # TimeoutError is an OSError
        raise StorageError(f"cannot connect to {address}: {one_line(exc)}") from exc
    except ValueError:
        raise StorageError(malformed(address)) from None


@contextmanager
def _explained(address: str) -> Generator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresConnectionError) as exc:
        raise StorageError(f"lost {address}: {one_line(exc)}; {UNCERTAIN}") from exc
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
        raise StorageError(f"{address}: {one_line(exc)}") from exc
