"""Fixtures of the conformance suites: answers that ask the client, which takes the place of requests to it since
2026-07-28."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

Call = Context[Any, Any]
Json = Any

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
MISSING_CAPABILITY = -32021


def form(message: str, schema: dict[str, Json]) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def asking(state: str | None = None, /, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def given(ctx: Call, key: str, field: str) -> Json:
    """What the user has filled in; None if nothing that is right."""
    answer = (ctx.input_responses or {}).get(key)
    return (answer.content or {}).get(field) if isinstance(answer, ElicitResult) else None


async def test_input_required_result_elicitation(ctx: Call) -> str | InputRequiredResult:
    """Ask for a name."""
    name = given(ctx, "user_name", "name")
    return f"Hello, {name}!" if name else asking(user_name=form("What is your name?", NAME))


async def test_input_required_result_sampling(ctx: Call) -> str | InputRequiredResult:
    """Ask the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, CreateMessageResult) and isinstance(answer.content, TextContent):
        return answer.content.text
    return asking(capital_question=sample("What is the capital of France?", 100))


async def test_input_required_result_list_roots(ctx: Call) -> str | InputRequiredResult:
    """Ask for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return ", ".join(str(root.uri) for root in answer.roots)
    return asking(client_roots=ListRootsRequest())


async def _confirmed(ctx: Call) -> str | InputRequiredResult:
    if ctx.request_state == "confirming" and given(ctx, "confirm", "ok") is not None:
        return "state-ok"
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    return asking("confirming", confirm=form("Please confirm", schema))


async def test_input_required_result_request_state(ctx: Call) -> str | InputRequiredResult:
    """Ask to confirm, and know the state."""
    return await _confirmed(ctx)


async def test_input_required_result_tampered_state(ctx: Call) -> str | InputRequiredResult:
    """Ask to confirm; the SDK refuses a state that is not its own."""
    return await _confirmed(ctx)


async def test_input_required_result_multiple_inputs(ctx: Call) -> str | InputRequiredResult:
    """Ask for three things at once."""
    if set(ctx.input_responses or {}) >= {"user_name", "greeting", "client_roots"} and ctx.request_state == "three":
        return f"all there for {given(ctx, 'user_name', 'name')}"
    return asking(
        "three",
        user_name=form("What is your name?", NAME),
        greeting=sample("Generate a greeting", 50),
        client_roots=ListRootsRequest(),
    )


async def test_input_required_result_multi_round(ctx: Call) -> str | InputRequiredResult:
    """Ask twice."""
    if ctx.request_state == "second" and (colour := given(ctx, "step2", "color")):
        return f"{colour} it is"
    if ctx.request_state == "first" and given(ctx, "step1", "name"):
        schema = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
        return asking("second", step2=form("Step 2: What is your favorite color?", schema))
    return asking("first", step1=form("Step 1: What is your name?", NAME))


async def test_input_required_result_capabilities(ctx: Call) -> str | InputRequiredResult:
    """Ask for what the client can do, and for nothing else."""
    declared = ctx.client_capabilities
    requests: dict[str, InputRequest] = {}
    if declared is not None and declared.elicitation is not None:
        requests["user_name"] = form("What is your name?", NAME)
    if declared is not None and declared.sampling is not None:
        requests["greeting"] = sample("Generate a greeting", 50)
    return asking(None, **requests) if requests and not ctx.input_responses else "nothing to ask"


async def test_streaming_elicitation(ctx: Call) -> str | InputRequiredResult:
    """Report progress, then ask."""
    await ctx.report_progress(1, 2)
    return await test_input_required_result_elicitation(ctx)


async def test_missing_capability(ctx: Call) -> str:
    """Refuse clients without sampling."""
    declared = ctx.client_capabilities
    if declared is None or declared.sampling is None:
        required: Json = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_CAPABILITY, "this needs the client's sampling", required)
    return "sampling is there"


TOOLS: list[Callable[..., Any]] = [
    test_input_required_result_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
    test_streaming_elicitation,
    test_missing_capability,
]
