"""Slash commands: those that an agent's session has listed, run between its turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .base import Outcome, unknown_command


def queue_slash_command(command: str, listed: Collection[str], queue: deque[str]) -> Outcome:
    """Put a command, with or without its slash, into the queue of those that run when the present turn has ended.

    Raises:
        InvalidArgumentError: the session has not `listed` it.
    """
    name, _, arguments = command.strip().removeprefix("/").partition(" ")
    if name not in listed:
        raise unknown_command(name, sorted(listed))
    queue.append(f"{name} {arguments}".strip())
    return {
        "status": "queued",
        "effectiveAt": "next_turn",
        "lossless": True,
        "reason": "it runs when the present turn has ended; its output follows the result of the query",
    }
