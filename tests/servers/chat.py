"""A stand-in for a server that speaks OpenAI's chat protocol: it answers what a test has scripted."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

Json = dict[str, Any]
INPUT, OUTPUT = 100, 10  # tokens that each answer says it took


@dataclass
class Reply:
    """One answer. `chunks` stream in; before the last one the server waits for `go_on`."""

    chunks: list[str] = field(default_factory=list[str])
    calls: Mapping[str, str] = field(default_factory=dict[str, str])  # tool -> arguments as JSON text
    go_on: asyncio.Event | None = None
    status: int = 200
    error: str = "no luck"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    cut: bool = False  # the connection ends before the answer does
    raw: str | None = None  # what it sends instead of anything of the protocol
    usage: bool = True
    model: str | None = None  # that it says it is; None: the one that was asked for


def say(*chunks: str, **more: Any) -> Reply:
    return Reply(list(chunks), **more)


def call(tool: str, /, **arguments: Any) -> Reply:
    return Reply(calls={tool: json.dumps(arguments)})


class ChatServer:
    """Gives its `script`'s answers in their order, then says `done`; `requests` are the bodies that came in."""

    def __init__(self, *script: Reply) -> None:
        self.script = deque(script)
        self.requests: list[Json] = []
        self.keys: list[str] = []
        self.given_up = asyncio.Event()  # a client left before its answer was complete
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Be gone: connections are refused."""
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/v1"))

    @property
    def models(self) -> list[str]:
        """The models that were asked, in their order."""
        return [request["model"] for request in self.requests]

    def prompts(self, number: int = -1) -> list[str]:
        """What users have said in a request."""
        return [message["content"] for message in self.requests[number]["messages"] if message["role"] == "user"]

    def tool_results(self, number: int = -1) -> list[str]:
        return [message["content"] for message in self.requests[number]["messages"] if message["role"] == "tool"]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers["Authorization"].removeprefix("Bearer "))
        reply = self.script.popleft() if self.script else say("done")
        if reply.status != 200:
            error = {"error": {"message": reply.error, "type": "stand_in"}}
            return web.json_response(error, status=reply.status, headers=reply.headers)
        if reply.raw is not None:
            return web.Response(text=reply.raw, content_type="text/event-stream")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            await self._stream(response, body, reply)
            if reply.cut and request.transport is not None:
                request.transport.abort()
        except (ConnectionResetError, asyncio.CancelledError):
            self.given_up.set()
            raise
        return response

    async def _stream(self, response: web.StreamResponse, body: Json, reply: Reply) -> None:
        base = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": reply.model or body["model"]}

        async def write(delta: Json | None, finish: str | None = None, **more: Any) -> None:
            choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
            await response.write(f"data: {json.dumps({**base, 'choices': choices, **more})}\n\n".encode())

        await write({"role": "assistant", "content": ""})
        for number, chunk in enumerate(reply.chunks):
            if reply.go_on is not None and number == len(reply.chunks) - 1:
                await reply.go_on.wait()
            await write({"content": chunk})
        for index, (tool, arguments) in enumerate(reply.calls.items()):
            function = {"name": tool, "arguments": arguments}
            tool_call = {"index": index, "id": f"call-{len(self.requests)}-{index}", "type": "function"}
            await write({"tool_calls": [{**tool_call, "function": function}]})
        if reply.cut:
            return
        await write({}, "tool_calls" if reply.calls else "stop")
        usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
        if reply.usage:
            await write(None, usage=usage)
        await response.write(b"data: [DONE]\n\n")
