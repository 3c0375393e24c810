"""Memory as MCP resources: reading, completion, and change notifications for clients that listen."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.server.subscriptions import ResourceUpdated, SubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Annotations,
    Completion,
    CompletionArgument,
    CompletionContext,
    ResourceTemplate,
    SubscriptionsListenRequestParams,
)

from quarterdeck.storage.clock import iso
from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError, NotFoundError
from quarterdeck.tools.memory.resource import Completions, MemoryResource
from quarterdeck.tools.memory.service import MemoryService
from quarterdeck.tools.memory.uri import TEMPLATE
from quarterdeck.tools.memory.watch import MemoryWatch

MIME_TYPE = "application/json"


class MemoryResources:
    """What a `DeckServer` answers about `memory://{namespace}/{key}`."""

    template = ResourceTemplate(
        name="memory",
        title="Memory",
        uri_template=TEMPLATE,
        description="The JSON value of one memory. Namespace and key are percent-encoded names, as in the `id` that "
        "memory_usage answers.",
        mime_type=MIME_TYPE,
        annotations=Annotations(audience=["user", "assistant"]),
    )

    def __init__(self, memory: MemoryService, bus: SubscriptionBus) -> None:
        self._memory = MemoryResource(memory)
        self.watch = MemoryWatch(memory, lambda uri: bus.publish(ResourceUpdated(uri)))

    async def read(self, uri: str) -> ReadResourceContents:
        """The value as it is stored, and in `_meta` its version, updatedAt and, if it expires, expiresAt.

        Raises:
            ResourceNotFoundError: there is no such entry, or the URI names none.
            ResourceError: the store failed.
        """
        try:
            entry = await self._memory.read(uri)
        except (InvalidArgumentError, NotFoundError) as exc:
            raise ResourceNotFoundError(exc.message) from None
        except DeckError as exc:
            raise ResourceError(exc.message) from exc
        meta: dict[str, Any] = {"version": entry.version, "updatedAt": iso(entry.updated_at)}
        if entry.expires_at is not None:  # the SDK sends a null in one era and drops it in the other
            meta["expiresAt"] = iso(entry.expires_at)
        return ReadResourceContents(entry.text, MIME_TYPE, meta)

    async def complete(self, argument: CompletionArgument, context: CompletionContext | None) -> Completion:
        """Namespaces, and the keys of the namespace that is already chosen, that begin with what was typed."""
        with refusals():
            match argument.name:
                case "namespace":
                    found = await self._memory.namespaces(argument.value)
                case "key":
                    chosen = (context and context.arguments) or {}
                    found = await self._memory.keys(chosen.get("namespace", ""), argument.value)
                case other:
                    raise MCPError(INVALID_PARAMS, f"argument: {other!r} is not in the template (namespace, key)")
        return completion(found)

    async def listening(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware: watch what a `subscriptions/listen` names as long as its stream is open."""
        if ctx.method != "subscriptions/listen":
            return await call_next(ctx)
        params = SubscriptionsListenRequestParams.model_validate(ctx.params or {}, by_name=False)
        with refusals():
            async with self.watch.watching(params.notifications.resource_subscriptions or ()):
                return await call_next(ctx)


def completion(found: Completions) -> Completion:
    """As the protocol has it; the total is told where it is known."""
    total = None if found.has_more else len(found.values)
    return Completion(values=list(found.values), total=total, has_more=found.has_more)


@contextmanager
def refusals() -> Generator[None]:
    """Tell the client what was refused; other exceptions stay in the log."""
    try:
        yield
    except DeckError as exc:
        code = INVALID_PARAMS if isinstance(exc, LimitError) else INTERNAL_ERROR
        raise MCPError(code, exc.message) from None
