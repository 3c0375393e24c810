"""What the conformance suites call: tools, resources and prompts of the names and with the texts that they ask for."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    AudioContent,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

Call = Context[Any, Any]
Json = Any

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005050202"
        "5fc8f1d20000000049454e44ae426082"
    )
).decode()
WAV = base64.b64encode(
    b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0"
).decode()
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
MISSING_CAPABILITY = -32021


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


# Contents


async def test_simple_text() -> str:
    """Answer a text."""
    return "This is a simple text response for testing."


async def test_image_content() -> ImageContent:
    """Answer an image."""
    return ImageContent(data=PNG, mime_type="image/png")


async def test_audio_content() -> AudioContent:
    """Answer a sound."""
    return AudioContent(data=WAV, mime_type="audio/wav")


async def test_embedded_resource() -> EmbeddedResource:
    """Answer a resource."""
    return embedded("test://embedded-resource", "This is an embedded resource content.")


async def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answer a text, an image and a resource."""
    text = json.dumps({"test": "data", "value": 123})
    return [
        TextContent(text="Multiple content types test:"),
        ImageContent(data=PNG, mime_type="image/png"),
        embedded("test://mixed-content-resource", text, "application/json"),
    ]


async def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


# Notifications


async def test_tool_with_logging(ctx: Call) -> str:
    """Log three times."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(text)  # pyright: ignore[reportDeprecated]
        await asyncio.sleep(0.05)  # as the suite asks for
    return "logged"


async def test_logging_tool(ctx: Call) -> str:
    """Log once."""
    await ctx.info("only for who asks")  # pyright: ignore[reportDeprecated]
    return "logged"


async def test_tool_with_progress(ctx: Call) -> str:
    """Report progress."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
        await asyncio.sleep(0.05)  # as the suite asks for
    return "done"


async def test_reconnection(ctx: Call) -> str:
    """Close the stream of this call."""
    await ctx.close_sse_stream()
    await asyncio.sleep(0.1)
    return "Reconnection test completed successfully"


# Requests of the server's own, in the handshake era


async def test_sampling(prompt: str, ctx: Call) -> str:
    """Ask the client's model."""
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    answer = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
        [message], max_tokens=100, related_request_id=ctx.request_id
    )
    assert isinstance(answer.content, TextContent)
    return f"LLM response: {answer.content.text}"


async def elicit(ctx: Call, message: str, properties: dict[str, Json], required: list[str]) -> str:
    schema = {"type": "object", "properties": properties, "required": required}
    answer = await ctx.session.elicit_form(message, schema, ctx.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


async def test_elicitation(message: str, ctx: Call) -> str:
    """Ask the user."""
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return f"User response: {await elicit(ctx, message, properties, ['username', 'email'])}"


async def test_elicitation_sep1034_defaults(ctx: Call) -> str:
    """Ask the user, with defaults."""
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return f"Elicitation completed: {await elicit(ctx, 'Who are you?', properties, [])}"


async def test_elicitation_sep1330_enums(ctx: Call) -> str:
    """Ask the user to choose."""
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"{nth} Option"} for n, nth in enumerate(("First", "Second", "Third"), 1)]
    names = ["Option One", "Option Two", "Option Three"]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return f"Elicitation completed: {await elicit(ctx, 'Which?', properties, [])}"


# Answers that ask, since 2026-07-28


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


async def test_trigger_tool_change(ctx: Call) -> str:
    """Say that there are other tools."""
    await ctx.notify_tools_changed()
    return "said"


async def test_trigger_prompt_change(ctx: Call) -> str:
    """Say that there are other prompts."""
    await ctx.notify_prompts_changed()
    return "said"


async def test_headers(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that a header repeats."""
    return region


async def json_schema_2020_12_tool() -> str:
    """Have a schema of the vocabulary of 2020-12."""
    return "ok"


SCHEMA_2020_12: dict[str, Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

BOTH: list[Callable[..., Any]] = [
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_progress,
]
ASKING: list[Callable[..., Any]] = [
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_reconnection,
]
ANSWERS_THAT_ASK: list[Callable[..., Any]] = [
    test_logging_tool,
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
    test_trigger_tool_change,
    test_trigger_prompt_change,
    test_headers,
]
HANDSHAKE = {function.__name__ for function in [*BOTH, *ASKING]}
SINCE_2026 = {function.__name__ for function in [*BOTH, *ANSWERS_THAT_ASK]}


def tools() -> dict[str, Tool]:
    functions = [*BOTH, *ASKING, *ANSWERS_THAT_ASK, test_tool_with_logging, json_schema_2020_12_tool]
    made = {function.__name__: Tool.from_function(function, structured_output=False) for function in functions}
    rich = made["json_schema_2020_12_tool"]
    return {**made, rich.name: rich.model_copy(update={"parameters": SCHEMA_2020_12})}


def add_resources_and_prompts(server: MCPServer[Any]) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    async def static_text() -> str:
        """A text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    async def static_binary() -> bytes:
        """An image."""
        return base64.b64decode(PNG)

    @server.resource("test://watched-resource", mime_type="text/plain")
    async def watched() -> str:
        """A text that may change."""
        return "Watched resource content"

    @server.resource("test://template/{id}/data", mime_type="application/json")
    async def template(id: str) -> str:  # noqa: A002  the suite's name
        """A text made from its URI."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.prompt()
    async def test_simple_prompt() -> str:
        """Without arguments."""
        return "This is a simple prompt for testing."

    @server.prompt()
    async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        """With arguments."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    async def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803  the suite's name
        """With a resource."""
        return [
            UserMessage(embedded(resourceUri, "Embedded resource content for testing.")),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt()
    async def test_prompt_with_image() -> list[Message]:
        """With an image."""
        image = ImageContent(data=PNG, mime_type="image/png")
        return [UserMessage(image), UserMessage("Please analyze the image above.")]

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Call) -> str | InputRequiredResult:
        """Asks first."""
        context = given(ctx, "user_context", "context")
        schema = {"type": "object", "properties": {"context": {"type": "string"}}, "required": ["context"]}
        return context or asking(user_context=form("What context should the prompt use?", schema))
