"""The worker protocol, version 1: JSON objects, one a line, UTF-8, over the worker's stdin and stdout.

Server to worker:

    {"type": "start", "protocol": 1, "agentId": text, "agentType": text, "name": text, "folder": text,
     "capabilities": [text]}
        the first line, once; `folder` is there and is for all agents of this type to write in; `capabilities` are the
        labels that the agent was spawned with
    {"type": "task", "id": text, "prompt": text}        work, done in order; no two open tasks share an id
    {"type": "cancel", "id": text}                      leave that task at its next safe point; unknown ids are ignored
    {"type": "hold", "id": text}                        stand at that task's next safe point until it is released
    {"type": "release", "id": text}                     go on with it, or do not stand at all
    {"type": "reply", "id": n, "result": any}           the answer to call n ...
    {"type": "reply", "id": n, "error": text}           ... or why there is none
    {"type": "stop"}                                    finish the tasks sent so far, then exit with code 0

Worker to server:

    {"type": "ready", "protocol": 1, "capabilities": [text], "controls": [text]}
        the answer to start: what this type can do; `controls` (may be left out) are those of "hold" and "set_model"
        that the worker knows: without "hold" it gets neither hold nor release, with "set_model" it may get
        {"type": "set_model", "model": text}
    {"type": "held", "id": text}                        the task stands at a safe point
    {"type": "released", "id": text}                    it stood and goes on; not sent if it never stood
    {"type": "model", "id": text, "model": text}        the model that the task works with, when the worker knows it
    {"type": "progress", "id": text, "done": number, "total": number, "message": text}
    {"type": "usage", "id": text, "tokens": number, "usd": number}  what the task has used so far; both may be left out
    {"type": "call", "id": n, "tool": text, "arguments": object}    a call into the deck, as an MCP client would make it
    {"type": "result", "id": text, "result": any}       each task ends in exactly one of these three
    {"type": "error", "id": text, "error": text}
    {"type": "cancelled", "id": text}

The end of stdin means that the server is gone: the worker exits at once with code 1, in the middle of work too. A line
that is none of the above ends it with code 2 and a line on stderr. Everything printed by accident goes to stderr.

The server ends a worker that says something else, or a line of more than 16 MiB (own types: `limits.output_kb`). It
serves 16 calls of a worker at a time, and reads nothing more from it while there are so many. Numbers are finite, and
`tokens` and `usd` not negative; `done`, `total` and `message` may be null or left out. A surrogate without its partner
becomes `?`, an error is cut to 4,000 characters, and a result of more than 100 levels fails its task.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # importing `typing` would cost 3 ms at every start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeGuard

VERSION = 1

_FIELDS: dict[str, dict[str, type]] = {
    "start": {"protocol": int, "agentId": str, "agentType": str, "name": str, "folder": str, "capabilities": list},
    "task": {"id": str, "prompt": str},
    "cancel": {"id": str},
    "hold": {"id": str},
    "release": {"id": str},
    "reply": {"id": int},
    "stop": {},
}


class ProtocolError(Exception):
    """The server sent something that is no message of this protocol."""


def encode(message: dict[str, Any]) -> bytes:
    """One line; a surrogate without its partner, which UTF-8 cannot carry, becomes `?`.

    Raises:
        TypeError, ValueError, RecursionError: the message holds something that JSON cannot say.
    """
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def decode(line: bytes) -> dict[str, Any]:
    """Read one message from the server.

    Raises:
        ProtocolError: not JSON, not an object, of an unknown type, or without a field that its type has.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"not a JSON line: {exc}: {line[:80]!r}") from None
    kind = message.get("type") if _is_object(message) else None
    if not _is_object(message) or not isinstance(kind, str) or kind not in _FIELDS:
        raise ProtocolError(f"not a message ({', '.join(_FIELDS)}): {line[:80]!r}")
    for name, wanted in _FIELDS[kind].items():
        if not isinstance(message.get(name), wanted):
            raise ProtocolError(f"{kind} without a valid '{name}': {line[:80]!r}")
    if kind == "reply" and "result" not in message and not isinstance(message.get("error"), str):
        raise ProtocolError(f"reply with neither 'result' nor 'error': {line[:80]!r}")
    return message


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Lines from a file descriptor until its end; a last line without a newline is not complete and not given.

    `os.read` holds no lock while it waits, unlike a buffered file, so the interpreter can shut down beside it.
    """
    parts: list[bytes] = []
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join((*parts, line))
            parts.clear()
        parts.append(rest)
