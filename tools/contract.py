"""How a tool meets the wire: one validation (arguments.py), plain errors, compact schemas.

The SDK's own `@tool()` decodes JSON inside strings, drops unknown arguments and prefixes every error, so a tool here
is a `Tool` with a `run` of its own: public API, one validation, one answer.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from quarterdeck.storage.errors import DEFECT, DeckError, InvalidArgumentError

from .arguments import Arguments, explain
from .confirm import ClientCall, ConfirmationNeededError

log = logging.getLogger(__name__)

Json = Any  # whatever JSON can say
Schema = dict[str, Any]


class Call(Protocol):
    """What a handler knows of its client, and may do to it while it works."""

    @property
    def actor(self) -> str:
        """Who calls, for the audit."""
        ...

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Send a progress notification; nothing happens if the client did not ask for any."""
        ...

    async def confirm(self, question: str) -> bool:
        """Whether a human says yes; False too where the client cannot ask one. To be awaited before anything is done:
        the call may be made a second time to bring the answer."""
        ...


class NoClient:
    """Who calls when no client does: an agent, say. It takes no progress, and no human stands behind it."""

    def __init__(self, actor: str = "agent") -> None:
        self.actor = actor

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        del progress, total, message

    async def confirm(self, question: str) -> bool:
        del question
        return False


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)
Handler = Callable[[ArgumentsT, Call], Awaitable[Any]]


class DeckTool(Tool):
    """A registered tool: `handler(arguments, call)` returns the structured answer, a JSON-able mapping."""

    arguments_model: type[Arguments]
    handler: Callable[[Any, Call], Awaitable[Any]]

    async def answer(self, arguments: dict[str, Any], call: Call) -> Any:
        """Validate and serve one call, from a client or from a worker.

        Raises:
            DeckError: the refusal; its text names what was wrong.
        """
        try:
            parsed = self.arguments_model.model_validate(arguments)
        except ValidationError as exc:
            raise InvalidArgumentError(explain(self.name, exc, self.arguments_model)) from None
        return await self.handler(parsed, call)

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:  # noqa: ARG002
        """Answer with structured content and the same as JSON text; a refusal is an error result, never a raise.

        Raises:
            MCPError: the protocol does not allow what the client did.
        """
        try:
            answer = await self.answer(arguments, ClientCall(context))
        except ConfirmationNeededError as exc:
            return exc.result
        except DeckError as exc:
            return refused(exc)
        except MCPError:
            raise
        except Exception:  # the top of a call: the SDK would tell the client its text
            log.exception("tool %s", self.name)
            return refused(DeckError(DEFECT))
        return _result(answer)


def refused(error: DeckError) -> CallToolResult:
    """A refusal, as an error result."""
    answer = {"success": False, "error": error.message, "code": error.code, **error.details}
    return _result(answer, is_error=True)


def _result(answer: Any, *, is_error: bool = False) -> CallToolResult:
    text = TextContent(type="text", text=to_json(answer).decode())
    return CallToolResult(content=[text], structured_content=answer, is_error=is_error)


def deck_tool(
    name: str,
    description: str,
    arguments: type[ArgumentsT],
    result: type[Any],
    handler: Handler[ArgumentsT],
    *,
    title: str,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
) -> DeckTool:
    """Build a tool. `result` is a TypedDict in wire spelling: it becomes the output schema."""
    return DeckTool(
        fn=handler,
        name=name,
        title=title,
        description=description,
        parameters=compact(arguments.model_json_schema()),
        is_async=True,
        context_kwarg=None,
        fn_metadata=FuncMetadata(arg_model=ArgModelBase, output_schema=_output_schema(result)),
        annotations=ToolAnnotations(
            read_only_hint=read_only,
            destructive_hint=destructive,
            idempotent_hint=idempotent,
            open_world_hint=open_world,
        ),
        arguments_model=arguments,
        handler=handler,
    )


def _output_schema(result: type[Any]) -> Schema:
    """Names and types of an answer's fields: which are always there, and all values of an enum, cost more tokens than
    they tell."""
    schema = cast("Schema", compact(TypeAdapter(result).json_schema(mode="serialization"), keep_null=True))
    return {"type": "object", **cast("Schema", _names_and_types(schema))}


def _names_and_types(node: Any) -> Any:
    if isinstance(node, list):
        return [_names_and_types(item) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("Schema", node)
    return {
        key: {name: _names_and_types(sub) for name, sub in value.items()}
        if key == "properties"
        else _names_and_types(value)
        for key, value in schema.items()
        if key not in ("required", "enum", "additionalProperties")
    }


def compact(node: Any, definitions: Schema | None = None, *, keep_null: bool = False) -> Any:
    """Inline `$ref`, drop titles and null defaults, shorten `X or null`: clients pay for every byte.

    Arguments show it as X alone. Answers really hold nulls, and clients check them: those keep it (`keep_null`).
    """
    if isinstance(node, list):
        return [compact(item, definitions, keep_null=keep_null) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    schema = cast("Schema", node)
    if definitions is None:
        definitions = cast("Schema", schema.get("$defs", {}))
    if "$ref" in schema:
        target = definitions[str(schema["$ref"]).rsplit("/", 1)[1]]
        merged = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
        return compact(merged, definitions, keep_null=keep_null)
    out: Schema = {}
    for key, value in schema.items():
        if key in ("$defs", "title") or (key, value) in (("default", None), ("additionalProperties", True)):
            continue
        if key == "properties":
            out[key] = {name: compact(sub, definitions, keep_null=keep_null) for name, sub in value.items()}
        else:
            out[key] = compact(value, definitions, keep_null=keep_null)
    arms = [arm for arm in out.get("anyOf", ()) if arm != {"type": "null"}]
    if "anyOf" in out and len(arms) == 1:
        only = arms[0]
        if not keep_null:
            del out["anyOf"]
            out = {**only, **out}
        elif "type" in only and "enum" not in only:
            del out["anyOf"]
            out = {**only, **out, "type": [only["type"], "null"]}
    return out
