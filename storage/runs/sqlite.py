"""Runs in SQLite: the columns that are searched, and the row as JSON beside them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json

from ..sqlite import Database, Durability
from .base import Agent, AgentStatus, Audit, Changes, Event, Page, ProcessId, Query, QueryStatus, Request, RequestStatus

T = TypeVar("T")

AGENT = TypeAdapter(Agent)
QUERY = TypeAdapter(Query)
EVENT = TypeAdapter(Event)
AUDIT = TypeAdapter(Audit)
REQUEST = TypeAdapter(Request)

MIGRATIONS = [
    """
    CREATE TABLE agents (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX agents_by_status ON agents (status, seq);
    CREATE TABLE queries (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX queries_by_status ON queries (status, seq);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        agent_id TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_agent ON events (agent_id, seq);
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY,
        query_id TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_query ON audit (query_id, seq);
    """,
    """
    ALTER TABLE agents ADD COLUMN ended_at INTEGER;
    UPDATE agents SET ended_at = json_extract(data, '$.ended_at');
    CREATE INDEX agents_by_end ON agents (ended_at) WHERE ended_at IS NOT NULL;
    ALTER TABLE queries ADD COLUMN ended_at INTEGER;
    UPDATE queries SET ended_at = json_extract(data, '$.ended_at');
    CREATE INDEX queries_by_end ON queries (ended_at) WHERE ended_at IS NOT NULL;
    """,
    """
    CREATE TABLE requests (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        status TEXT NOT NULL,
        data TEXT NOT NULL
    ) STRICT;
    CREATE INDEX requests_asked ON requests (owner, seq) WHERE status = 'asked';
    """,
    # What changed, the last at the end: one row for each agent and query.
    """
    CREATE TABLE changes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        UNIQUE (kind, id)
    ) STRICT;
    """
    + "".join(
        f"""
        CREATE TRIGGER {event}_{table} AFTER {event} ON {table} BEGIN
            DELETE FROM changes WHERE kind = '{kind}' AND id = new.{column};
            INSERT INTO changes (kind, id) VALUES ('{kind}', new.{column});
        END;
        """
        for event, table, kind, column in (
            ("INSERT", "agents", "agent", "id"),
            ("UPDATE", "agents", "agent", "id"),
            ("INSERT", "events", "agent", "agent_id"),
            ("INSERT", "queries", "query", "id"),
            ("UPDATE", "queries", "query", "id"),
            ("INSERT", "audit", "query", "query_id"),
        )
    )
    + "".join(
        f"""
        CREATE TRIGGER DELETE_{table} AFTER DELETE ON {table} BEGIN
            DELETE FROM changes WHERE kind = '{kind}' AND id = old.id;
        END;
        """
        for table, kind in (("agents", "agent"), ("queries", "query"))
    ),
]

_PURGE = (
    *(
        f"""
        DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} ORDER BY seq LIMIT :limit)
            AND json_extract(data, '$.{time}') < :before
        """
        for table, time in (("events", "at"), ("audit", "at"), ("requests", "asked_at"))
    ),
    *(
        f"""
        DELETE FROM {table} WHERE seq IN (
            SELECT seq FROM {table} WHERE ended_at < :before ORDER BY ended_at LIMIT :limit
        )
        """
        for table in ("agents", "queries")
    ),
)


class SqliteRunStore:
    """A RunStore in one SQLite file."""

    def __init__(self, path: Path, durability: Durability = "process") -> None:
        """Raises StorageError as `Database` does."""
        self._db = Database(path, MIGRATIONS, durability)

    async def put_agent(self, agent: Agent, *, expected: AgentStatus | None = None) -> bool:
        if expected is not None:
            return await self._replace("agents", agent, expected)
        row = (agent.id, agent.status, agent.ended_at, _dump(agent))

        def put(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                """
                INSERT INTO agents (id, status, ended_at, data) VALUES (?, ?, ?, ?) ON CONFLICT (id)
                DO UPDATE SET status = excluded.status, ended_at = excluded.ended_at, data = excluded.data
                """,
                row,
            )
            return cursor.rowcount == 1

        return await self._db.write(put)

    async def get_agent(self, agent_id: str) -> Agent | None:
        rows = self._db.read("SELECT data FROM agents WHERE id = ?", (agent_id,))
        return AGENT.validate_json(rows[0][0]) if rows else None

    async def list_agents(
        self, *, statuses: Sequence[AgentStatus] = (), before: int | None = None, limit: int = 50
    ) -> Page[Agent]:
        return await self._list("agents", AGENT, statuses, before, limit)

    async def add_query(self, query: Query) -> bool:
        row = (query.id, query.status, _dump(query))

        def add(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                "INSERT INTO queries (id, status, data) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING", row
            )
            return cursor.rowcount == 1

        return await self._db.write(add)

    async def put_query(self, query: Query, *, expected: QueryStatus | None = None) -> bool:
        return await self._replace("queries", query, expected)

    async def get_query(self, query_id: str) -> Query | None:
        rows = self._db.read("SELECT data FROM queries WHERE id = ?", (query_id,))
        return QUERY.validate_json(rows[0][0]) if rows else None

    async def list_queries(
        self, *, statuses: Sequence[QueryStatus] = (), before: int | None = None, limit: int = 50
    ) -> Page[Query]:
        return await self._list("queries", QUERY, statuses, before, limit)

    async def count_queries(self) -> dict[QueryStatus, int]:
        rows = await self._db.scan("SELECT status, count(*) FROM queries GROUP BY status")
        return dict(rows)

    async def add_event(self, event: Event) -> None:
        await self._append("INSERT INTO events (agent_id, data) VALUES (?, ?)", event.agent_id, event)

    async def list_events(self, agent_id: str) -> list[Event]:
        rows = await self._db.scan("SELECT data FROM events WHERE agent_id = ? ORDER BY seq", (agent_id,))
        return [EVENT.validate_json(data) for (data,) in rows]

    async def add_audit(self, audit: Audit) -> None:
        await self._append("INSERT INTO audit (query_id, data) VALUES (?, ?)", audit.query_id, audit)

    async def list_audit(self, query_id: str) -> list[Audit]:
        rows = await self._db.scan("SELECT data FROM audit WHERE query_id = ? ORDER BY seq", (query_id,))
        return [AUDIT.validate_json(data) for (data,) in rows]

    async def add_request(self, request: Request) -> None:
        row = (request.id, _key(request.owner), request.status, _dump(request))

        def add(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO requests (id, owner, status, data) VALUES (?, ?, ?, ?)", row)

        await self._db.write(add)

    async def put_request(self, request: Request, *, expected: RequestStatus) -> bool:
        values = (request.status, _dump(request), request.id, expected)

        def put(connection: sqlite3.Connection) -> bool:
            sql = "UPDATE requests SET status = ?, data = ? WHERE id = ? AND status = ?"
            return connection.execute(sql, values).rowcount == 1

        return await self._db.write(put)

    async def get_request(self, request_id: str) -> Request | None:
        rows = self._db.read("SELECT data FROM requests WHERE id = ?", (request_id,))
        return REQUEST.validate_json(rows[0][0]) if rows else None

    async def requests_of(self, owner: ProcessId) -> list[Request]:
        sql = "SELECT data FROM requests WHERE owner = ? AND status = 'asked' ORDER BY seq"
        return [REQUEST.validate_json(data) for (data,) in self._db.read(sql, (_key(owner),))]

    async def purge(self, *, before: int, limit: int) -> int:
        values = {"before": before, "limit": limit}
        return await self._db.write(lambda connection: sum(connection.execute(sql, values).rowcount for sql in _PURGE))

    async def last_change(self) -> int:
        [(last,)] = self._db.read("SELECT coalesce(max(seq), 0) FROM changes")
        return int(last)

    async def changes(self, after: int, limit: int) -> Changes:
        rows = self._db.read("SELECT seq, kind, id FROM changes WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        agents, queries = ([id_ for _, of, id_ in rows if of == kind] for kind in ("agent", "query"))
        return Changes(agents, queries, rows[-1][0] if rows else after)

    async def close(self) -> None:
        await self._db.close()

    async def _replace(self, table: str, row: Agent | Query, expected: str | None) -> bool:
        only = "" if expected is None else " AND status = :expected"
        values = {
            "status": row.status,
            "ended_at": row.ended_at,
            "data": _dump(row),
            "id": row.id,
            "expected": expected,
        }

        def replace(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                f"UPDATE {table} SET status = :status, ended_at = :ended_at, data = :data WHERE id = :id{only}", values
            )
            return cursor.rowcount == 1

        return await self._db.write(replace)

    async def _append(self, sql: str, subject: str, record: Event | Audit) -> None:
        data = _dump(record)
        await self._db.write(lambda connection: connection.execute(sql, (subject, data)).rowcount)

    async def _list(
        self, table: str, rows_of: TypeAdapter[T], statuses: Sequence[str], before: int | None, limit: int
    ) -> Page[T]:
        wanted = f"AND status IN ({','.join('?' * len(statuses))})" if statuses else ""
        rows = await self._db.scan(
            f"SELECT seq, data FROM {table} WHERE seq < ? {wanted} ORDER BY seq DESC LIMIT ?",
            (before if before is not None else 1 << 62, *statuses, limit + 1),
        )
        shown = rows[:limit]
        return Page([rows_of.validate_json(data) for _, data in shown], shown[-1][0] if len(rows) > limit else None)


def _key(process: ProcessId) -> str:
    return f"{process.host} {process.boot} {process.pid} {process.started}"


def _dump(row: Agent | Query | Event | Audit | Request) -> str:
    return to_json(row).decode()
