"""The pipe to an agent: lines of JSON from and to a process that is one of the deck's own children."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import psutil

from .. import messages
from ..children import Child

MAX_LINE = 16 << 20  # bytes of one message


class Pipe:
    """A `Transport` of the library, whose own would start the process itself and take lines of any length."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.broken: str | None = None  # why the agent was ended
        self.drained = asyncio.Event()  # nothing more comes

    async def send(self, message: dict[str, Any]) -> None:
        """Without waiting for the agent to read it: a frozen one takes nothing. The end of the process is noticed by
        whoever watches it."""
        if not self._child.stdin.is_closing():
            self._child.stdin.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end, which comes for an agent that says what cannot be understood."""
        try:
            while line := await self._child.stdout.readline():
                if line.startswith(b"{"):  # what does not is for a human's eyes
                    return _checked(messages.read(line))
        except (ValueError, RecursionError) as exc:  # no JSON, no message, too long, too deep
            self.broken = f"the agent broke the protocol: {str(exc)[:500]}"
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(self._child.pid).kill()
        self.drained.set()
        return None

    async def close(self) -> None:
        """Whoever started the process closes its pipes."""


def _checked(message: dict[str, Any]) -> dict[str, Any]:
    """What the library takes for granted. Raises ValueError."""
    if not isinstance(message.get("id"), (int, str, type(None))):
        raise ValueError("an 'id' that is neither a number nor a text")  # noqa: TRY004  what was read is wrong, not the code
    if not isinstance(message.get("error"), (dict, type(None))):
        raise ValueError("an 'error' that is no object")  # noqa: TRY004
    return message
