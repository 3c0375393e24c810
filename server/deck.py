"""The composition root: the only place that knows which backends exist, and in which order things open and close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.clock import Clock, SystemClock
from quarterdeck.storage.errors import NotFoundError, StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import MemoryStore
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.objects.base import ObjectStore
from quarterdeck.storage.objects.local import LocalObjectStore
from quarterdeck.storage.objects.s3_location import S3Location
from quarterdeck.storage.remote import without_password
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.storage.sqlite import Durability, open_database
from quarterdeck.storage.vectors.cache_report import cache_report
from quarterdeck.storage.vectors.schema import MIGRATIONS as VECTORS
from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.budget import Ledger
from quarterdeck.tools.agents.builtin.catalogue import CREWS
from quarterdeck.tools.agents.orchestrator import Orchestrator
from quarterdeck.tools.agents.recovery import Recovery
from quarterdeck.tools.agents.runners.acp.config import AcpType
from quarterdeck.tools.agents.runners.acp.runner import AcpRunner
from quarterdeck.tools.agents.runners.children import Subprocesses
from quarterdeck.tools.agents.runners.claude.config import ClaudeType
from quarterdeck.tools.agents.runners.claude.runner import ClaudeRunner
from quarterdeck.tools.agents.runners.commands import CommandType
from quarterdeck.tools.agents.runners.llm.config import LlmType
from quarterdeck.tools.agents.runners.llm.runner import LlmRunner
from quarterdeck.tools.agents.runners.process import ProcessRunner
from quarterdeck.tools.agents.runners.supervisor import Supervisor, is_supported
from quarterdeck.tools.agents.tool import AgentTools, agent_tools
from quarterdeck.tools.agents.tracker import Tracker
from quarterdeck.tools.contract import DeckTool, NoClient
from quarterdeck.tools.memory.limits import Limits
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.tool import memory_tools
from quarterdeck.tools.queries.controls import Controls
from quarterdeck.tools.queries.desk import ControlDesk
from quarterdeck.tools.queries.live import LiveQueries
from quarterdeck.tools.queries.manager import QueryManager
from quarterdeck.tools.queries.optimizer import Optimizer
from quarterdeck.tools.queries.optimizer_tool import optimizer_tools
from quarterdeck.tools.queries.rules import with_shipped
from quarterdeck.tools.queries.spending import Spending
from quarterdeck.tools.queries.tool import QueryTools, query_tools
from quarterdeck.tools.status.meter import CallMeter
from quarterdeck.tools.status.tool import StatusTools, status_tools
from quarterdeck.tools.uploads.ingest import Ingest
from quarterdeck.tools.uploads.naming import PREFIX as UPLOADS
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.tool import upload_tools
from quarterdeck.tools.vectors.service import VectorService
from quarterdeck.tools.vectors.tool import vector_tools
from quarterdeck.tools.vectors.worker_tool import vector_worker_tools

from .agent_types import own_types, spawnable
from .config import Settings, SettingsError, environment_name, objects_bucket
from .directory_lock import shared
from .embedders import configured_embedders

if TYPE_CHECKING:  # they import numpy, FAISS and drivers, which most sessions do not need at their start
    from pydantic import SecretStr

    from quarterdeck.storage.memory.postgres import PostgresMemoryStore
    from quarterdeck.storage.memory.redis import RedisMemoryStore
    from quarterdeck.storage.redis_cache import RedisCache
    from quarterdeck.storage.vectors.base import VectorStore

log = logging.getLogger(__name__)

MEMORY_FILE, RUNS_FILE, VECTORS_FILE, OBJECTS_FOLDER = "memory.db", "runs.db", "vectors.db", "objects"
HEARTBEAT = 1.0  # seconds
MEMORY_URLS = ("sqlite:///path/of.db", "postgresql://…", "redis://…", "rediss://…", "unix:///path/of/redis.sock")
RECOVER_EVERY = 10  # beats: another server may die at any time
PURGE_EVERY = 60
PURGE_LIMIT = 1_000  # rows of a kind


@dataclass(frozen=True, slots=True)
class Deck:
    """Everything that one server process runs on."""

    settings: Settings
    data_dir: Path
    clock: Clock
    tools: Mapping[str, DeckTool]
    meter: CallMeter
    memory: MemoryService
    uploads: UploadService
    ingest: Ingest
    reports: Mapping[str, Callable[[str], Awaitable[Mapping[str, Any]]]]  # all that is known of an `agent`, a `query`


@asynccontextmanager
async def open_deck(settings: Settings, clock: Clock | None = None) -> AsyncGenerator[Deck]:
    """Open the stores, build the services, and close them in the opposite order.

    Raises:
        SettingsError, StorageError: a setting, the data directory or a store cannot be used.
    """
    clock = clock or SystemClock()
    own = own_types(settings)
    commands = {name: kind for name, kind in own.items() if isinstance(kind, CommandType)}
    claude = {name: kind for name, kind in own.items() if isinstance(kind, ClaudeType)}
    models = {name: kind for name, kind in own.items() if isinstance(kind, LlmType)}
    acp = {name: kind for name, kind in own.items() if isinstance(kind, AcpType)}
    data_dir = prepare_data_dir(settings.data_dir)
    async with AsyncExitStack() as stack:
        stack.enter_context(shared(data_dir, sqlite_path(settings.memory_url)))
        memory_backend = backend_of(settings.memory_url)
        memory_store = OnFirstUse(lambda: open_memory_store(settings.memory_url, data_dir, settings.durability))
        stack.push_async_callback(_close_if_opened, memory_store)
        opening = asyncio.create_task(_open_early("memory", memory_store))
        stack.callback(opening.cancel)
        if memory_backend == SqliteMemoryStore.backend:  # a server that is slow to answer must not delay the client
            await opening
        memory = memory_service(settings, memory_store, clock)
        stack.push_async_callback(memory.close)
        runs = SqliteRunStore(data_dir / RUNS_FILE, settings.durability)
        stack.push_async_callback(runs.close)

        vectors_path = data_dir / VECTORS_FILE
        if settings.vectors_url is None and vectors_path.exists():
            with _told_at_the_start("vectors"):
                open_database(vectors_path, VECTORS).close()

        shared_cache = open_shared_cache(settings.cache_url, clock)
        if shared_cache is not None:
            stack.push_async_callback(shared_cache.close)
        is_remote = settings.vectors_url is not None
        search_cache = TieredCache(clock, shared_cache if is_remote else None)  # FAISS is faster than Redis
        text_cache = TieredCache(clock, shared_cache)

        async def open_vectors() -> VectorStore:
            if settings.vectors_url is None:
                store = await open_vector_file(vectors_path, settings, clock)
            else:
                store = await open_vector_server(settings.vectors_url, settings.vectors_key, clock)
            from quarterdeck.storage.vectors.cache import CachingVectorStore

            return CachingVectorStore(store, search_cache)

        vector_store = OnFirstUse(open_vectors)
        stack.push_async_callback(_close_if_opened, vector_store)
        embedders = configured_embedders(settings, data_dir / "models", text_cache)
        stack.push_async_callback(embedders.close)
        vectors = VectorService(vector_store, embedders, clock)
        others: dict[str, OnFirstUse[VectorStore]] = {}
        if settings.sync_url is not None:
            others["sync"] = OnFirstUse(partial(open_synced, settings.sync_url, settings, clock))
            stack.push_async_callback(_close_if_opened, others["sync"])
        worker_vectors = VectorService(vector_store, embedders, clock, others)
        bucket = objects_bucket(settings)
        objects = OnFirstUse(lambda: open_object_store(bucket, data_dir))
        stack.push_async_callback(_close_if_opened, objects)
        uploads = UploadService(objects, settings.upload_roots, clock)
        ingest = Ingest(uploads, vectors)

        tools: dict[str, DeckTool] = {}
        worker_tools = {
            tool.name: tool for tool in (*vector_tools(worker_vectors), *vector_worker_tools(worker_vectors))
        }

        async def call_tool(name: str, arguments: dict[str, Any]) -> Any:
            tool = worker_tools.get(name) or tools.get(name)
            if tool is None:
                raise NotFoundError(f"no tool {name!r} (tools: {', '.join({**tools, **worker_tools})})")
            return await tool.answer(arguments, NoClient())

        owner = processes.identify(os.getpid())
        children = Supervisor(owner) if is_supported() else Subprocesses()
        stack.push_async_callback(children.close)
        tracker = Tracker(memory, clock)
        stack.push_async_callback(tracker.close)
        ledger = Ledger(deck_budget(settings))
        orchestrator = Orchestrator(
            runs=runs,
            tracker=tracker,
            clock=clock,
            runners={
                "process": ProcessRunner(children, commands),
                "claude": ClaudeRunner(children, claude, settings.agents.widest_mode, tools.values),
                "llm": LlmRunner(models, tools.values),
                "acp": AcpRunner(children, acp),
            },
            types=spawnable(settings, own),
            call_deck=call_tool,
            ledger=ledger,
            owner=owner,
            folders=data_dir / "agents",
            parallel=settings.feature_parallel_spawning,
            max_alive=settings.agents_max_alive,
            idle_timeout=settings.agents_idle_timeout,
        )
        spending = Spending(ledger)
        live = LiveQueries(runs=runs, orchestrator=orchestrator, tracker=tracker, spending=spending, clock=clock)
        stack.push_async_callback(live.close)
        controls = Controls(live=live, runs=runs, orchestrator=orchestrator, spending=spending, clock=clock)
        stack.push_async_callback(controls.close)
        queries = QueryManager(live=live, runs=runs, orchestrator=orchestrator, spending=spending, clock=clock)
        stack.push_async_callback(queries.close)
        desk = ControlDesk(
            live=live,
            controls=controls,
            manager=queries,
            orchestrator=orchestrator,
            runs=runs,
            owner=owner,
            clock=clock,
        )
        stack.push_async_callback(desk.close)
        stack.push_async_callback(orchestrator.close)
        serving = asyncio.create_task(desk.serve())
        stack.callback(serving.cancel)
        optimizer = Optimizer(
            live,
            desk,
            clock,
            with_shipped(settings.optimizer.rules),
            cores=os.cpu_count() or 1,
            enabled=settings.feature_adaptive_opt,
        )
        stack.push_async_callback(optimizer.stop)
        meter = CallMeter()

        async def caches() -> dict[str, Any]:
            return {"vectors": await cache_report(search_cache, vector_store.opened), "texts": text_cache.report()}

        status = StatusTools(
            version=version("quarterdeck"),
            about={
                "backends": {
                    "memory": memory_backend,
                    "runs": "sqlite",
                    "objects": "s3" if bucket else "local",
                    "vectors": "qdrant" if is_remote else "faiss",
                },
                "flags": {
                    environment_name(name): getattr(settings, name)
                    for name in Settings.model_fields
                    if name.startswith("feature_")
                },
                "limits": {"agentsMaxAlive": settings.agents_max_alive},
            },
            caches=caches,
            orchestrator=orchestrator,
            queries=queries,
            meter=meter,
            clock=clock,
        )

        agents_face = AgentTools(
            orchestrator, queries.start, runs, clock, CREWS, parallel=settings.feature_parallel_spawning
        )
        queries_face = QueryTools(queries, desk, clock)
        families = [
            memory_tools(memory, memory_backend),
            agent_tools(agents_face, own_types=list(own)),
            query_tools(queries_face, control=settings.feature_query_control),
            upload_tools(uploads, ingest),
            vector_tools(vectors),
            optimizer_tools(optimizer),
            status_tools(status),
        ]
        tools.update({tool.name: tool for family in families for tool in family})

        recovery = Recovery(runs, tracker, clock)
        if interrupted := await recovery.recover():
            log.info("%d agents of servers that ended are marked interrupted", interrupted)
        if optimizer.enabled:
            optimizer.start()

        async def forget_history() -> None:
            if settings.runs_history:
                await runs.purge(before=clock.now() - settings.runs_history * 1000, limit=PURGE_LIMIT)

        jobs = [
            (1, orchestrator.tick),
            (1, live.tick),
            (1, tracker.tick),
            (1, children.warm_up),  # not at the start, where a client waits for the first answer
            (RECOVER_EVERY, recovery.recover),
            (PURGE_EVERY, forget_history),
        ]
        heartbeat = asyncio.create_task(_beat(jobs))
        stack.callback(heartbeat.cancel)
        reports = {"agent": agents_face.report, "query": queries_face.report}
        yield Deck(settings, data_dir, clock, tools, meter, memory, uploads, ingest, reports)


async def _beat(jobs: Sequence[tuple[int, Callable[[], Awaitable[object]]]]) -> None:
    """Do each job every so many beats."""
    for beat in count(1):
        await asyncio.sleep(HEARTBEAT)
        for every, job in jobs:
            if beat % every == 0:
                try:
                    await job()
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


def deck_budget(settings: Settings) -> dict[str, float]:
    """What all queries of a server may use."""
    limits = {
        "tokens": settings.budget_tokens,
        "usd": settings.budget_usd,
        "wallSeconds": settings.budget_wall_seconds,
        "outputBytes": settings.budget_output_bytes,
    }
    return {kind: limit for kind, limit in limits.items() if limit}


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


async def _open_early(what: str, part: OnFirstUse[MemoryStore]) -> None:
    with _told_at_the_start(what):
        await part()


async def _close_if_opened(part: OnFirstUse[MemoryStore] | OnFirstUse[VectorStore] | OnFirstUse[ObjectStore]) -> None:
    if part.opened is not None:
        await part.opened.close()


@contextlib.contextmanager
def _told_at_the_start(what: str) -> Generator[None]:
    """A store that cannot be used fails its own calls, which try again each time; the rest of the deck serves."""
    try:
        yield
    except StorageError as exc:
        log.error("%s cannot be used now: %s", what, exc.message)  # noqa: TRY400  the text says it all


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
