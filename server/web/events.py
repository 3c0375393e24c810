"""GET /api/events: what changes, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from pydantic_core import to_json
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response

from ..changes import ChangeFeed

PING_SECONDS = 15


def event_stream(feed: ChangeFeed, hello: Mapping[str, Any]) -> Response:
    """`hello` first, then a `changed` for all that changed since the last one. Who comes back loads anew: no event
    holds what another one said, so a `Last-Event-ID` means nothing."""

    async def events() -> AsyncGenerator[ServerSentEvent]:
        async with feed.looking_on() as onlooker:
            yield _event("hello", hello)
            while True:
                change = await onlooker.next()
                yield _event(
                    "changed",
                    {"what": sorted(change.what), "queries": sorted(change.queries), "agents": sorted(change.agents)},
                )

    return EventSourceResponse(events(), ping=PING_SECONDS)


def _event(name: str, data: Mapping[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(to_json(data).decode(), event=name)
