"""A stand-in for the Messages API of Anthropic, on loopback: it answers as the test wrote down, and keeps what came."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web

Json = Any


@dataclass(slots=True)
class Reply:
    """One answer. It arrives as a stream; with `until`, its end comes only when that is set."""

    text: str = "done"
    tools: Sequence[tuple[str, dict[str, Json]]] = ()  # name and input of each call
    until: asyncio.Event | None = None
    status: int = 200  # another: an error of that status
    retry_after: int = 0  # seconds, with an error
    input_tokens: int = 100
    output_tokens: int = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the agent loop, main or subagent."""

    model: str
    body: dict[str, Json]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """All of the conversation, as JSON."""
        return json.dumps(self.body["messages"], ensure_ascii=False)

    @property
    def last(self) -> str:
        """The last message, as JSON."""
        return json.dumps(self.body["messages"][-1], ensure_ascii=False)


@dataclass(slots=True)
class MessagesApi:
    """`replies` are given in turn to requests that offer tools, or made from them; what offers none (titles and the
    like) gets "ok"."""

    replies: deque[Reply | Callable[[Request], Reply]] = field(
        default_factory=deque[Reply | Callable[[Request], Reply]]
    )
    requests: list[Request] = field(default_factory=list[Request])
    hung_up: int = 0  # requests that the client dropped
    url: str = ""
    _ids: count[int] = field(default_factory=lambda: count(1))
    _runner: web.AppRunner | None = None

    def will_say(self, *replies: Reply | str | Callable[[Request], Reply]) -> None:
        self.replies.extend(Reply(reply) if isinstance(reply, str) else reply for reply in replies)

    async def open(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", _count)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body.get("tools"):
            asked = Request(body["model"], body, dict(request.headers))
            self.requests.append(asked)
            reply = self.replies.popleft() if self.replies else Reply()
            if not isinstance(reply, Reply):
                reply = reply(asked)
        else:
            reply = Reply("ok")
        if reply.status != 200:
            kinds = {404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
            error = {"type": kinds.get(reply.status, "api_error"), "message": f"stand-in error {reply.status}"}
            headers = {
                "retry-after": str(reply.retry_after),
                "x-should-retry": "true" if reply.retry_after else "false",
            }
            return web.json_response({"type": "error", "error": error}, status=reply.status, headers=headers)
        events = self._events(body["model"], reply)
        if not body.get("stream"):
            return web.json_response(_whole(events))
        return await self._stream(request, events, reply)

    async def _stream(
        self, request: web.Request, events: Sequence[dict[str, Json]], reply: Reply
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for event in events:
                if event["type"] == "message_delta" and reply.until is not None:
                    await self._wait(request, reply.until)
                await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        except ConnectionError:
            self.hung_up += 1
        return response

    async def _wait(self, request: web.Request, until: asyncio.Event) -> None:
        """Raises ConnectionResetError if the client leaves first."""
        with contextlib.suppress(TimeoutError):
            while not until.is_set():
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), 0.02)

    def _events(self, model: str, reply: Reply) -> list[dict[str, Json]]:
        number = next(self._ids)
        usage = {
            "input_tokens": reply.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 1,
        }
        message: dict[str, Json] = {
            "id": f"msg_{number:024}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        events: list[dict[str, Json]] = [{"type": "message_start", "message": message}]
        blocks: list[tuple[dict[str, Json], dict[str, Json]]] = []
        if reply.text:
            blocks.append(({"type": "text", "text": ""}, {"type": "text_delta", "text": reply.text}))
        for name, arguments in reply.tools:
            block: dict[str, Json] = {
                "type": "tool_use",
                "id": f"toolu_{next(self._ids):024}",
                "name": name,
                "input": {},
            }
            blocks.append((block, {"type": "input_json_delta", "partial_json": json.dumps(arguments)}))
        for index, (block, delta) in enumerate(blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": block})
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
            events.append({"type": "content_block_stop", "index": index})
        stop = {"stop_reason": "tool_use" if reply.tools else "end_turn", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": stop, "usage": {"output_tokens": reply.output_tokens}})
        events.append({"type": "message_stop"})
        return events


def _whole(events: Sequence[dict[str, Json]]) -> dict[str, Json]:
    """The answer to a request without streaming."""
    message: dict[str, Json] = events[0]["message"]
    for event in events:
        if event["type"] == "content_block_start":
            message["content"].append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                message["content"][-1]["text"] += delta["text"]
            else:
                message["content"][-1]["input"] = json.loads(delta["partial_json"])
        elif event["type"] == "message_delta":
            message.update(event["delta"])
            message["usage"].update(event["usage"])
    return message


async def _count(request: web.Request) -> web.Response:
    body = await request.json()
    return web.json_response({"input_tokens": len(json.dumps(body)) // 4})
