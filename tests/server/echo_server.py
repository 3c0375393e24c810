"""A small server on the deck's own transport, for the transport's tests: `python -m tests.server.echo_server`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Never

import anyio
from typing_extensions import TypedDict

from quarterdeck.server.app import DeckServer
from quarterdeck.server.changes import ChangeBoard, ChangeFeed
from quarterdeck.server.config import Settings
from quarterdeck.server.deck import Deck
from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.tools.agents.telemetry import RunTelemetry
from quarterdeck.tools.arguments import Arguments
from quarterdeck.tools.contract import Call, DeckTool, deck_tool
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.status.meter import CallMeter
from quarterdeck.tools.uploads.ingest import Ingest
from quarterdeck.tools.uploads.service import UploadService
from quarterdeck.tools.vectors.service import VectorService
from tests.embedders import offering
from tests.ready import ready


class EchoArguments(Arguments):
    text: str = ""
    repeat: int = 1


class EchoAnswer(TypedDict):
    text: str


async def _echo(arguments: EchoArguments, call: Call) -> EchoAnswer:
    await call.report_progress(1, 1, "echoing")
    return {"text": arguments.text * arguments.repeat}


async def _shout(arguments: EchoArguments, _call: Call) -> EchoAnswer:
    print(arguments.text, flush=True)
    return {"text": "printed"}


async def _hang(_arguments: EchoArguments, _call: Call) -> EchoAnswer:
    print("hanging", file=sys.stderr, flush=True)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled", file=sys.stderr, flush=True)
        raise
    return {"text": ""}


async def _never() -> Never:
    raise AssertionError("this server has no such store")


def _tools() -> dict[str, DeckTool]:
    handlers = {"echo": _echo, "shout": _shout, "hang": _hang}
    return {
        name: deck_tool(name, f"{name} it.", EchoArguments, EchoAnswer, handler, title=name)
        for name, handler in handlers.items()
    }


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        store = SqliteMemoryStore(Path(folder) / "memory.db")
        memory = MemoryService(ready(store), SystemClock(), default_ttl=0, restore_window=0)
        uploads = UploadService(OnFirstUse(_never), [], SystemClock())
        vectors = VectorService(OnFirstUse(_never), offering(), SystemClock())
        deck = Deck(
            settings=Settings(),
            data_dir=Path(folder),
            clock=SystemClock(),
            tools=_tools(),
            meter=CallMeter(SystemClock()),
            memory=memory,
            uploads=uploads,
            ingest=Ingest(uploads, vectors),
            vectors=vectors,
            types=[],
            reports={},
            changes=ChangeFeed(SqliteRunStore(Path(folder) / "runs.db"), ChangeBoard(Path(folder))),
            telemetry=RunTelemetry(),
        )
        anyio.run(DeckServer(deck).run_stdio_async)
