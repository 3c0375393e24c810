"""What the MCP server at `/mcp` does that the one on stdio does not: it knows who calls, and it ends its streams."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import SubscriptionsListenResult

from quarterdeck.storage.errors import DeniedError
from quarterdeck.tools.contract import refused

from .caller import Caller

Context = ServerRequestContext[Any, Any]


async def check_rights(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: a token that only reads calls nothing else."""
    if ctx.method == "tools/call":
        params = cast("dict[str, Any]", ctx.params or {})
        request: Any = ctx.request
        caller: Caller = request.user
        try:
            caller.check(str(params.get("name")), params.get("arguments") or {})
        except DeniedError as exc:
            return refused(exc)
    return await call_next(ctx)


def listen_until(ending: asyncio.Event) -> ServerMiddleware[Any]:
    """Middleware: `subscriptions/listen` has no end of its own."""

    async def listen(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method != "subscriptions/listen":
            return await call_next(ctx)
        with anyio.CancelScope() as scope:  # no task group: it would wrap what the handler refuses

            async def end() -> None:
                await ending.wait()
                scope.cancel()

            waiting = asyncio.create_task(end())
            try:
                return await call_next(ctx)
            finally:
                waiting.cancel()
        return SubscriptionsListenResult(_meta={SUBSCRIPTION_ID_META_KEY: ctx.request_id})

    return listen
