"""A stand-in for OpenAI's Responses API, on loopback: what it says is made from the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = Any
Item = dict[str, Json]
Answer = Callable[[dict[str, Json]], Item]


def message(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def tool_call(name: str, arguments: dict[str, Json], namespace: str | None = None) -> Item:
    call = {"type": "function_call", "name": name, "arguments": json.dumps(arguments)}
    return call if namespace is None else {**call, "namespace": namespace}


@dataclass(slots=True)
class ResponsesApi:
    answer: Answer
    requests: list[dict[str, Json]] = field(default_factory=list[dict[str, Json]])
    url: str = ""
    _runner: web.AppRunner | None = None

    async def open(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/responses", self._respond)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"

    async def close(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        number = len(self.requests)
        item = {"id": f"item_{number}", "call_id": f"call_{number}", **self.answer(body)}
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in (
            {"type": "response.created", "response": {"id": f"resp_{number}"}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {"id": f"resp_{number}", "usage": usage}},
        ):
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response
