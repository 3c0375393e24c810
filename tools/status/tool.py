"""server_status: what this server is, where it keeps things, and how it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from typing_extensions import TypedDict

from ..contract import Arguments, Call, DeckTool, deck_tool


class StatusArguments(Arguments):
    pass


class StatusAnswer(TypedDict):
    success: bool
    time: str
    version: str
    pid: int
    uptimeSeconds: float
    backends: dict[str, str]
    flags: dict[str, bool]
    limits: dict[str, Any]
    caches: dict[str, Any]
    performance: dict[str, Any]


def status_tools(report: Callable[[], Awaitable[StatusAnswer]]) -> list[DeckTool]:
    async def handle(_arguments: StatusArguments, _call: Call) -> StatusAnswer:
        return await report()

    return [
        deck_tool(
            "server_status",
            "Show the time, backends, flags, limits and performance of this server.",
            StatusArguments,
            StatusAnswer,
            handle,
            title="Server status",
            read_only=True,
            idempotent=True,
        )
    ]
