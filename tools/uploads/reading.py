"""Reading documents in another process: parsers take long, and a hostile file can keep them busy or eat memory."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

from anyio import CancelScope

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError

from ..agents.runners.children import harmless_environment

COMMAND = (sys.executable, "-I", "-m", "quarterdeck.tools.agents.library", "extract_chunks")
SECONDS = 60.0
STEP = 3 << 18  # bytes on their way at once; base64 of multiples of three can be joined

Read = Callable[[int, int], Awaitable[bytes]]
"""Returns so many bytes from an offset."""


class Chunk(NamedTuple):
    text: str
    page: int | None  # from 1; None where the format has no pages


class Document(NamedTuple):
    """`title` is what the file itself says."""

    title: str | None
    chunks: list[Chunk]


async def read_document(read: Read, size: int, name: str, content_type: str) -> Document:
    """The text of a document in chunks, as `extract` finds it.

    Raises:
        InvalidArgumentError: it cannot be read, or there is no text in it.
        LimitError: reading takes too long.
        DeckError: the reading process could not be started or died, or `read` failed.
    """
    try:
        process = await asyncio.create_subprocess_exec(*COMMAND, stdin=PIPE, stdout=PIPE, env=harmless_environment())
    except OSError as exc:
        raise DeckError(f"the reading process cannot be started: {exc.strerror}") from exc
    try:
        async with asyncio.timeout(SECONDS):
            answer = await _converse(process, read, size, {"name": name, "content_type": content_type})
    except TimeoutError:
        raise LimitError(f"reading takes more than {SECONDS:g} s: split it") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        with CancelScope(shield=True):
            await process.wait()
    if "error" in answer:
        raise InvalidArgumentError(answer["error"])
    return Document(answer["result"]["title"], [Chunk(**chunk) for chunk in answer["result"]["chunks"]])


async def _converse(process: Process, read: Read, size: int, about: dict[str, str]) -> dict[str, Any]:
    """Send the request piece by piece, so that it is never in memory as a whole; stdin stays open, its end would mean
    that the server is gone.
    """
    assert process.stdin is not None  # noqa: S101  both are pipes
    assert process.stdout is not None  # noqa: S101
    with suppress(ConnectionError):  # it has died; the exit code says how
        process.stdin.write(json.dumps(about).encode().removesuffix(b"}") + b', "contents": "')
        for offset in range(0, size, STEP):
            process.stdin.write(b64encode(await read(offset, STEP)))
            await process.stdin.drain()
        process.stdin.write(b'"}\n')
        await process.stdin.drain()
    answer = await process.stdout.read()
    if code := await process.wait():
        raise DeckError(f"the reading process ended with code {code}")
    return cast("dict[str, Any]", json.loads(answer))
