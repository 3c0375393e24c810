"""What the conformance suites call: tools, resources and prompts of the names and with the texts that they ask for."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import Callable
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    AudioContent,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

from .conformance_asking import TOOLS as ANSWERS_THAT_ASK
from .conformance_asking import asking, form, given

Call = Context[Any, Any]
Json = Any


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


ONE_RED_PIXEL = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)) + chunk(
    b"IDAT", zlib.compress(b"\0\xff\0\0")
)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + ONE_RED_PIXEL + chunk(b"IEND", b"")).decode()
WAV = base64.b64encode(
    b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0"
).decode()


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
SINCE: list[Callable[..., Any]] = [
    test_logging_tool,
    test_trigger_tool_change,
    test_trigger_prompt_change,
    test_headers,
]
HANDSHAKE = {function.__name__ for function in [*BOTH, *ASKING]}
SINCE_2026 = {function.__name__ for function in [*BOTH, *SINCE, *ANSWERS_THAT_ASK]}


def tools() -> dict[str, Tool]:
    functions = [*BOTH, *ASKING, *SINCE, *ANSWERS_THAT_ASK, test_tool_with_logging, json_schema_2020_12_tool]
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
