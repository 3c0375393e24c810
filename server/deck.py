"""The composition root: the only place that knows which backends exist, and in which order things open and close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from quarterdeck.storage.clock import Clock, SystemClock
from quarterdeck.storage.errors import NotFoundError, StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import MemoryStore
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.remote import without_password
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.storage.sqlite import open_database
from quarterdeck.storage.vectors.schema import MIGRATIONS as VECTORS
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.builtin.catalogue import CREWS, TYPES
from quarterdeck.tools.agents.orchestrator import Orchestrator
from quarterdeck.tools.agents.recovery import Recovery
from quarterdeck.tools.agents.runners.children import Children, Subprocesses
from quarterdeck.tools.agents.runners.process import ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor, is_supported
from quarterdeck.tools.agents.tool import AgentTools, agent_tools
from quarterdeck.tools.agents.tracker import Tracker
from quarterdeck.tools.contract import DeckTool
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.tool import memory_tools
from quarterdeck.tools.queries.manager import QueryManager
from quarterdeck.tools.queries.optimizer import Optimizer
from quarterdeck.tools.queries.optimizer_tool import optimizer_tools
from quarterdeck.tools.queries.tool import QueryTools, query_tools
from quarterdeck.tools.status.meter import CallMeter
from quarterdeck.tools.status.tool import StatusTools, status_tools
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.tool import upload_tools
from quarterdeck.tools.vectors.service import VectorService
from quarterdeck.tools.vectors.tool import vector_tools

from .agent_types import command_types, described
from .config import Settings, SettingsError, environment_name

if TYPE_CHECKING:  # they import numpy, FAISS and drivers, which most sessions do not need at their start
    from quarterdeck.storage.memory.postgres import PostgresMemoryStore
    from quarterdeck.storage.memory.redis import RedisMemoryStore
    from quarterdeck.storage.vectors.base import VectorStore
    from quarterdeck.tools.vectors.embedders.base import Embedder

log = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds
MEMORY_URLS = ("sqlite:///path/of.db", "postgresql://…", "redis://…", "rediss://…", "unix:///path/of/redis.sock")
RECOVER_EVERY = 10  # beats: another server may die at any time


@dataclass(frozen=True, slots=True)
class Deck:
    """Everything that one server process runs on."""

    settings: Settings
    clock: Clock
    tools: Mapping[str, DeckTool]
    meter: CallMeter


class _Silent:
    """The client of a call that an agent makes: it takes no progress."""

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        del progress, total, message


@asynccontextmanager
async def open_deck(settings: Settings, clock: Clock | None = None) -> AsyncGenerator[Deck]:
    """Open the stores, build the services, and close them in the opposite order.

    Raises:
        SettingsError, StorageError: a setting, the data directory or a store cannot be used.
    """
    clock = clock or SystemClock()
    commands = command_types(settings)
    data_dir = prepare_data_dir(settings.data_dir)
    async with AsyncExitStack() as stack:
        memory_store = await open_memory_store(settings.memory_url, data_dir)
        stack.push_async_callback(memory_store.close)
        memory = MemoryService(
            memory_store, clock, default_ttl=settings.memory_default_ttl, restore_window=settings.memory_restore_window
        )
        runs = SqliteRunStore(data_dir / "runs.db")
        stack.push_async_callback(runs.close)

        vectors_path = data_dir / "vectors.db"
        if vectors_path.exists():  # what cannot be used is told at the start, not at the first call
            open_database(vectors_path, VECTORS).close()

        async def open_vectors() -> VectorStore:
            # In a thread: numpy and FAISS take some 150 ms, in which other calls go on.
            await asyncio.to_thread(import_module, "quarterdeck.storage.vectors.faiss")
            from quarterdeck.storage.vectors.faiss import FaissVectorStore

            return await FaissVectorStore.open(vectors_path, clock)

        async def open_embedder() -> Embedder:
            from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder

            return LexicalEmbedder()

        vector_store = OnFirstUse(open_vectors)

        async def close_vectors() -> None:
            if vector_store.opened is not None:
                await vector_store.opened.close()

        stack.push_async_callback(close_vectors)
        vectors = VectorService(vector_store, OnFirstUse(open_embedder), clock)
        uploads = UploadService(LocalObjectStore(data_dir / "objects"), settings.upload_roots, clock)

        tools: dict[str, DeckTool] = {}

        async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
            if name not in tools:
                raise NotFoundError(f"no tool {name!r} (tools: {', '.join(tools)})")
            return await tools[name].answer(arguments, _Silent())

        owner = processes.identify(os.getpid())
        children = Supervisor(owner) if is_supported() else Subprocesses()
        stack.push_async_callback(children.close)
        tracker = Tracker(memory, clock)
        orchestrator = Orchestrator(
            runs=runs,
            tracker=tracker,
            clock=clock,
            runner=ProcessRunner(children, commands),
            types={**TYPES, **{name: described(name) for name in commands}},
            restarted={name for name, kind in commands.items() if kind.restart == "on-failure"},
            call_deck=call_tool,
            owner=owner,
            folders=data_dir / "agents",
            parallel=settings.feature_parallel_spawning,
            max_alive=settings.agents_max_alive,
            idle_timeout=settings.agents_idle_timeout,
        )
        queries = QueryManager(runs=runs, orchestrator=orchestrator, tracker=tracker, clock=clock)
        stack.push_async_callback(queries.close)
        stack.push_async_callback(orchestrator.close)
        optimizer = Optimizer(queries, clock, enabled=settings.feature_adaptive_opt)
        stack.push_async_callback(optimizer.stop)
        meter = CallMeter()
        status = StatusTools(
            version=version("quarterdeck"),
            about={
                "backends": {"memory": memory.backend, "runs": "sqlite", "objects": "local", "vectors": "faiss"},
                "flags": {
                    environment_name(name): getattr(settings, name)
                    for name in Settings.model_fields
                    if name.startswith("feature_")
                },
                "limits": {"agentsMaxAlive": settings.agents_max_alive},
            },
            orchestrator=orchestrator,
            queries=queries,
            meter=meter,
            clock=clock,
        )

        families = [
            memory_tools(memory),
            agent_tools(
                AgentTools(
                    orchestrator, queries.start, runs, clock, CREWS, parallel=settings.feature_parallel_spawning
                ),
                own_types=list(commands),
            ),
            query_tools(QueryTools(queries, clock), control=settings.feature_query_control),
            upload_tools(uploads),
            vector_tools(vectors),
            optimizer_tools(optimizer),
            status_tools(status),
        ]
        tools.update({tool.name: tool for family in families for tool in family})

        recovery = Recovery(runs, tracker, clock)
        if interrupted := await recovery.recover():
            log.info("%d agents of servers that ended are marked interrupted", interrupted)
        if optimizer.enabled:
            await optimizer.start()
        heartbeat = asyncio.create_task(_beat(orchestrator, queries, recovery, children))
        stack.callback(heartbeat.cancel)
        yield Deck(settings, clock, tools, meter)


async def _beat(orchestrator: Orchestrator, queries: QueryManager, recovery: Recovery, children: Children) -> None:
    for beat in count(1):
        await asyncio.sleep(HEARTBEAT)
        try:
            await orchestrator.tick()
            await queries.tick()
            if beat % RECOVER_EVERY == 0:
                await recovery.recover()
            await children.warm_up()  # not at the start, where a client waits for the first answer
        except Exception:  # the top of a background task: one bad beat must not be the last
            log.exception("heartbeat")


def prepare_data_dir(path: Path) -> Path:
    """Make the data directory (0700) and see that it can be written.

    Raises:
        StorageError: it cannot; the text names the setting.
    """
    path = path.expanduser().absolute()
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


async def open_memory_store(url: str | None, data_dir: Path) -> MemoryStore:
    """Open the memory that `url` names; None: the one in the data directory.

    Raises:
        SettingsError: there is no such backend, or its package is not installed.
        StorageError: the backend cannot be reached or used.
    """
    if url is None:
        return SqliteMemoryStore(data_dir / "memory.db")
    path = sqlite_path(url)
    return await memory_server(url).open(url) if path is None else SqliteMemoryStore(path)


def sqlite_path(url: str) -> Path | None:
    """The file that `sqlite:///…` names; None for other URLs."""
    return Path(unquote(url.removeprefix("sqlite://"))) if url.startswith("sqlite:///") else None


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
