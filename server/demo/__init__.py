"""`quarterdeck demo`: the whole deck on real input, in a folder of its own that is removed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from quarterdeck.storage.errors import DeckError

from ..client import DeckClient
from ..config import load_settings
from ..embedders import LEXICAL
from .documents import Document, folder_documents, package_documents, shortest
from .embedder import usable_embedder
from .report import Report
from .steps import Demo

INTERRUPTED = 130  # what shells answer for ^C


def run_demo(folder: Path | None) -> int:
    """Run every step on the texts of `folder`, or of installed packages; 0 if each was verified."""
    report = Report()
    try:
        with TemporaryDirectory(prefix="quarterdeck-demo-") as name:
            scratch = Path(name).resolve()
            documents = folder_documents(folder) if folder else package_documents(scratch / "documents")
            return asyncio.run(_run(documents, scratch / "data", report))
    except DeckError as exc:
        report.say(f"quarterdeck demo: {exc.message}", "bold red")
        return 1
    except KeyboardInterrupt:
        report.say("interrupted; the server, its agents and its data are gone", "bold red")
        return INTERRUPTED


async def _run(documents: Sequence[Document], data_dir: Path, report: Report) -> int:
    embedder, about = await usable_embedder(load_settings(), data_dir)
    report.say(f"Searches {about}")
    indexed = documents if embedder == LEXICAL else shortest(documents)
    environment = {"QUARTERDECK_UPLOAD_ROOTS": str(documents[0].path.parent), "QUARTERDECK_EMBEDDER": embedder}
    deck = DeckClient(data_dir, environment=environment)
    async with AsyncExitStack() as stack:
        stack.push_async_exit(deck)  # the first step starts it
        for title, step in Demo(deck, documents, indexed, report).steps:
            with report.step(title) as row:
                row.done = await step()
            if row.failure:
                report.say(deck.stderr[-2000:], "dim")  # the last that the server has logged
                break
        return 0 if report.summary() else 1
