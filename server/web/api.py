"""The deck over REST: every tool at one door, and routes of agents, queries and memory, which are the same tools."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quarterdeck.storage.errors import InvalidArgumentError, NotFoundError
from quarterdeck.tools.contract import NoClient, Schema
from quarterdeck.tools.reads import only_reads
from quarterdeck.tools.uploads.spool import Spool

from ..deck import Deck
from .body import read_arguments
from .caller import Caller
from .multipart import read_form

Arguments = dict[str, Any]


class Api:
    """The handlers over a deck."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def routes(self) -> list[Route]:
        return [
            Route("/api/tools/{name}", self._tool, methods=["POST"]),
            Route("/api/agents", self._by_query("agents_list")),
            Route("/api/agents", self._by_body("agents_spawn_parallel"), methods=["POST"]),
            Route("/api/agents/{id}", self._report("agent")),
            Route("/api/queries", self._by_query("query_list")),
            Route("/api/queries", self._by_body("query_start"), methods=["POST"]),
            Route("/api/queries/{id}", self._report("query")),
            Route("/api/queries/{id}/control", self._control, methods=["POST"]),
            Route("/api/memory", self._by_query("memory_usage")),
            Route("/api/memory", self._by_body("memory_usage"), methods=["POST"]),
            Route("/api/upload", self._upload, methods=["POST"]),
        ]

    async def _call(self, request: Request, name: str, arguments: Arguments) -> Response:
        tool = self._deck.tools.get(name)
        if tool is None:
            raise NotFoundError(f"no tool {name!r} (tools: {', '.join(self._deck.tools)})")
        caller: Caller = request.user
        caller.check(name, arguments)
        clock = self._deck.clock
        began, failed = clock.monotonic(), True
        try:
            answer = await tool.answer(arguments, NoClient(caller.name))
            failed = False
        finally:
            self._deck.meter.record(name, clock.monotonic() - began, failed=failed)
        return JSONResponse(answer)

    async def _tool(self, request: Request) -> Response:
        return await self._call(request, request.path_params["name"], await read_arguments(request))

    def _by_body(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return await self._call(request, name, await read_arguments(request))

        return call

    def _by_query(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """A GET changes nothing, whatever its parameters ask for."""

        async def call(request: Request) -> Response:
            arguments = _from_query(request, self._deck.tools[name].parameters)
            if not only_reads(name, arguments):
                raise InvalidArgumentError(
                    f"GET {request.url.path} only reads: POST the same arguments as JSON",
                    status=405,
                )
            return await self._call(request, name, arguments)

        return call

    def _report(self, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return JSONResponse({"success": True, **await self._deck.reports[kind](request.path_params["id"])})

        return call

    async def _control(self, request: Request) -> Response:
        arguments = await read_arguments(request)
        arguments.pop("query_id", None)
        arguments["queryId"] = request.path_params["id"]
        return await self._call(request, "query_control", arguments)

    async def _upload(self, request: Request) -> Response:
        caller: Caller = request.user
        caller.check("upload", {})
        with closing(Spool(self._deck.data_dir)) as spool:
            form = await read_form(request, spool)
            answer = await self._deck.ingest.upload(form.files, form.index)
        return JSONResponse(answer, answer["status"])


def _from_query(request: Request, schema: Schema) -> Arguments:
    """Query parameters as the types that the tool's schema names; what it does not name is for the tool to refuse."""
    arguments: Arguments = {}
    for name, text in request.query_params.multi_items():
        kind = schema["properties"].get(name, {}).get("type")
        if name in arguments:
            raise InvalidArgumentError(f"{name}: is given twice")
        if kind in (None, "string"):
            arguments[name] = text
            continue
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            raise InvalidArgumentError(f"{name}: should be of type {kind}, got {text[:60]!r}") from None
    return arguments
