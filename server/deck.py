"""The composition root: which services there are, and in which order they open and close.

`stores.py` beside it is the only place that opens backends; `agents.py` composes what agents run on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.clock import Clock, SystemClock
from quarterdeck.storage.errors import NotFoundError, StorageError
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.base import MemoryStore
from quarterdeck.storage.objects.base import ObjectStore
from quarterdeck.storage.vectors.cache_report import cache_report
from quarterdeck.tools.agents.builtin.catalogue import CREWS, TYPES
from quarterdeck.tools.agents.telemetry import RunTelemetry
from quarterdeck.tools.agents.tool import AgentTools, agent_tools
from quarterdeck.tools.contract import DeckTool, NoClient
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.tool import memory_tools
from quarterdeck.tools.queries.optimizer_tool import optimizer_tools
from quarterdeck.tools.queries.tool import QueryTools, query_tools
from quarterdeck.tools.status.meter import CallMeter
from quarterdeck.tools.status.tool import StatusTools, status_tools
from quarterdeck.tools.uploads.ingest import Ingest
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.uploads.tool import upload_tools
from quarterdeck.tools.vectors.service import VectorService
from quarterdeck.tools.vectors.tool import vector_tools
from quarterdeck.tools.vectors.worker_tool import vector_worker_tools

from .agent_types import own_types
from .agents import open_agents
from .changes import CHANGES, ChangeBoard, ChangeFeed
from .config import Settings, flags, objects_bucket
from .directory_lock import shared
from .embedders import configured_embedders
from .stores import (
    backends_of,
    check_vector_file,
    memory_service,
    open_memory_store,
    open_object_store,
    open_run_store,
    open_shared_cache,
    open_synced,
    open_vector_store,
    prepare_data_dir,
    sqlite_path,
)

if TYPE_CHECKING:  # they import numpy, FAISS and drivers, which most sessions do not need at their start
    from quarterdeck.storage.vectors.base import VectorStore

log = logging.getLogger(__name__)

HEARTBEAT = 1.0  # seconds
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
    vectors: VectorService
    types: Sequence[str]  # of agents that can be spawned
    reports: Mapping[str, Callable[[str], Awaitable[Mapping[str, Any]]]]  # all that is known of an `agent`, a `query`
    changes: ChangeFeed
    telemetry: RunTelemetry


@asynccontextmanager
async def open_deck(settings: Settings, clock: Clock | None = None) -> AsyncGenerator[Deck]:
    """Open the stores, build the services, and close them in the opposite order.

    Raises:
        SettingsError, StorageError: a setting, the data directory or a store cannot be used.
    """
    clock = clock or SystemClock()
    own = own_types(settings)
    data_dir = prepare_data_dir(settings.data_dir)
    async with AsyncExitStack() as stack:
        stack.enter_context(shared(data_dir, sqlite_path(settings.memory_url)))
        backends = backends_of(settings)
        memory_store = OnFirstUse(lambda: open_memory_store(settings.memory_url, data_dir, settings.durability))
        stack.push_async_callback(_close_if_opened, memory_store)
        opening = asyncio.create_task(_open_early("memory", memory_store))
        stack.callback(opening.cancel)
        if backends["memory"] == "sqlite":  # a server that is slow to answer must not delay the client
            await opening
        board = ChangeBoard(data_dir / CHANGES)
        stack.callback(board.close)
        memory = memory_service(settings, memory_store, clock)
        memory.on_change = board.noted("memory")
        stack.push_async_callback(memory.close)
        runs = open_run_store(data_dir, settings.durability)
        stack.push_async_callback(runs.close)

        with _told_at_the_start("vectors"):
            check_vector_file(settings, data_dir)
        shared_cache = open_shared_cache(settings.cache_url, clock)
        if shared_cache is not None:
            stack.push_async_callback(shared_cache.close)
        is_remote = settings.vectors_url is not None
        search_cache = TieredCache(clock, shared_cache if is_remote else None)  # FAISS is faster than Redis
        text_cache = TieredCache(clock, shared_cache)

        async def open_vectors() -> VectorStore:
            store = await open_vector_store(settings, data_dir, clock)
            from quarterdeck.storage.vectors.cache import CachingVectorStore

            return CachingVectorStore(store, search_cache)

        vector_store = OnFirstUse(open_vectors)
        stack.push_async_callback(_close_if_opened, vector_store)
        embedders = configured_embedders(settings, data_dir / "models", text_cache)
        stack.push_async_callback(embedders.close)
        vectors = VectorService(vector_store, embedders, clock)
        vectors.on_change = board.noted("vectors")
        others: dict[str, OnFirstUse[VectorStore]] = {}
        if settings.sync_url is not None:
            others["sync"] = OnFirstUse(partial(open_synced, settings.sync_url, settings, clock))
            stack.push_async_callback(_close_if_opened, others["sync"])
        worker_vectors = VectorService(vector_store, embedders, clock, others)
        worker_vectors.on_change = board.noted("vectors")
        objects = OnFirstUse(partial(open_object_store, objects_bucket(settings), data_dir))
        stack.push_async_callback(_close_if_opened, objects)
        uploads = UploadService(objects, settings.upload_roots, clock)
        uploads.on_change = board.noted("uploads")
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

        agents = await stack.enter_async_context(
            open_agents(
                settings,
                own,
                folders=data_dir / "agents",
                memory=memory,
                runs=runs,
                call_deck=call_tool,
                tools=tools.values,
                clock=clock,
            )
        )
        meter = CallMeter(clock)

        async def caches() -> dict[str, Any]:
            return {"vectors": await cache_report(search_cache, vector_store.opened), "texts": text_cache.report()}

        status = StatusTools(
            version=version("quarterdeck"),
            about={
                "backends": backends,
                "flags": flags(settings),
                "limits": {"agentsMaxAlive": settings.agents_max_alive},
            },
            caches=caches,
            orchestrator=agents.orchestrator,
            queries=agents.queries,
            meter=meter,
            clock=clock,
        )

        agents_face = AgentTools(
            agents.orchestrator,
            agents.queries.start,
            runs,
            clock,
            CREWS,
            parallel=settings.feature_parallel_spawning,
        )
        queries_face = QueryTools(agents.queries, agents.desk, clock)
        families = [
            memory_tools(memory, backends["memory"]),
            agent_tools(agents_face, own_types=list(own)),
            query_tools(queries_face, control=settings.feature_query_control),
            upload_tools(uploads, ingest),
            vector_tools(vectors),
            optimizer_tools(agents.optimizer),
            status_tools(status),
        ]
        tools.update({tool.name: tool for family in families for tool in family})

        if interrupted := await agents.recovery.recover():
            log.info("%d agents of servers that ended are marked interrupted", interrupted)
        if agents.optimizer.enabled:
            agents.optimizer.start()

        async def forget_history() -> None:
            if settings.runs_history:
                await runs.purge(before=clock.now() - settings.runs_history * 1000, limit=PURGE_LIMIT)

        jobs = [
            *((1, job) for job in agents.jobs),
            (RECOVER_EVERY, agents.recovery.recover),
            (PURGE_EVERY, forget_history),
        ]
        heartbeat = asyncio.create_task(_beat(jobs))
        stack.callback(heartbeat.cancel)
        reports = {"agent": agents_face.report, "query": queries_face.report}
        changes = ChangeFeed(runs, board)
        types = [*TYPES, *own]
        yield Deck(
            settings=settings,
            data_dir=data_dir,
            clock=clock,
            tools=tools,
            meter=meter,
            memory=memory,
            uploads=uploads,
            ingest=ingest,
            vectors=vectors,
            types=types,
            reports=reports,
            changes=changes,
            telemetry=agents.telemetry,
        )


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
