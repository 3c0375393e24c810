"""The pipe to Claude Code: a transport for the SDK whose process is one of the deck's own children.

The SDK's own would start it beside the supervisor and in the server's environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import psutil
from claude_agent_sdk import CLIConnectionError, Transport

from ..children import Child
from ..ends import DRAIN_TIMEOUT, LastWords

MAX_LINE = 64 << 20  # bytes of one message; a tool's answer can hold images
ANSWER_TIMEOUT = 30.0  # seconds; an answer takes milliseconds, or a look at the account where there is one


class CliTransport(Transport):
    """Lines of JSON. `on_message` gets each before the SDK does, so that a hook finds all that was said before it
    taken account of."""

    def __init__(self, child: Child, on_message: Callable[[dict[str, Any]], None]) -> None:
        self._child = child
        self._on_message = on_message
        self._ids = count(1)
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._broken: str | None = None
        self._words = LastWords()
        self._listening = asyncio.create_task(self._words.collect(child.stderr))

    async def connect(self) -> None:
        """The process runs already."""

    async def write(self, data: str) -> None:
        """Raises CLIConnectionError if nobody reads any more."""
        if self._child.stdin.is_closing():
            raise await self._gone()
        self._child.stdin.write(data.encode("utf-8", "replace"))
        try:
            await self._child.stdin.drain()
        except ConnectionError as exc:
            raise await self._gone() from exc

    async def _gone(self) -> CLIConnectionError:
        """With the reason, if it is known soon."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                return CLIConnectionError(await self.last_words())
        except TimeoutError:
            return CLIConnectionError("Claude Code has ended")

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """To the end of the process, which comes when it says what cannot be understood."""
        try:
            while line := await self._child.stdout.readline():
                if line.startswith(b"{"):  # what does not is debugging output of some builds
                    message = json.loads(line)
                    self._take_answer(message)
                    self._on_message(message)
                    yield message
        except (ValueError, LookupError, TypeError, AttributeError) as exc:  # no JSON, too long, not the protocol
            self._broken = f"Claude Code was ended, as it broke the protocol: {exc!r}"[:500]
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self._child.pid).kill()

    async def last_words(self) -> str:
        """How the process ended, once it has."""
        ended = await asyncio.shield(self._child.exited)
        for answer in self._asked.values():
            answer.cancel()
        await asyncio.wait([self._listening], timeout=DRAIN_TIMEOUT)
        self._listening.cancel()
        return self._broken or self._words.explain("Claude Code", ended.code)

    async def ask(self, subtype: str) -> dict[str, Any] | None:
        """Make a request of the control protocol for which the SDK has no method; None where it is not answered."""
        request_id = f"deck_{next(self._ids)}"
        answer = self._asked[request_id] = asyncio.get_running_loop().create_future()
        request = {"type": "control_request", "request_id": request_id, "request": {"subtype": subtype}}
        try:
            await self.write(json.dumps(request) + "\n")
            await asyncio.wait([answer], timeout=ANSWER_TIMEOUT)
        except CLIConnectionError:
            return None
        finally:
            del self._asked[request_id]
        if not answer.done() or answer.cancelled():
            return None
        return answer.result().get("response") if answer.result().get("subtype") == "success" else None

    def _take_answer(self, message: dict[str, Any]) -> None:
        if message.get("type") == "control_response":
            answer = self._asked.get(message["response"].get("request_id", ""))
            if answer is not None and not answer.done():
                answer.set_result(message["response"])

    def is_ready(self) -> bool:
        return not self._child.stdin.is_closing()

    async def end_input(self) -> None:
        self._child.stdin.close()

    async def close(self) -> None:
        """Close the pipes; whoever started the process ends it."""
        with contextlib.suppress(ConnectionError):
            self._child.close()
