"""The deck over REST: every tool at one door, and routes of agents, queries and memory, which are the same tools."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.contract import NoClient, Schema
from quarterdeck.tools.reads import ACTIONS, only_reads
from quarterdeck.tools.uploads.service import MAX_FILES
from quarterdeck.tools.uploads.spool import Spool

from ..deck import Deck
from .answers import Answer
from .body import read_arguments
from .caller import Caller
from .doors import BYTES, Door
from .download import download
from .multipart import read_form

Arguments = dict[str, Any]

UPLOAD_FORM: Schema = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": MAX_FILES},
        "index": {"type": "string", "description": "vector collection for the text of the files"},
    },
}


class Api:
    """The doors over a deck."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def doors(self) -> list[Door]:
        doors = [self._by_body("POST", f"/api/tools/{name}", name) for name in self._deck.tools]
        doors += [
            self._by_query("/api/agents", "agents_list"),
            self._by_body("POST", "/api/agents", "agents_spawn_parallel"),
            self._report("agent", "/api/agents/{id}", "One agent and all that happened to it."),
            self._by_query("/api/queries", "query_list"),
            self._by_body("POST", "/api/queries", "query_start"),
            self._report("query", "/api/queries/{id}", "One query with its prompt, result and audit."),
            self._by_query("/api/memory", "memory_usage"),
            self._by_body("POST", "/api/memory", "memory_usage"),
            Door(
                "POST",
                "/api/upload",
                "Store files; the answer's status is its own.",
                self._upload,
                body=UPLOAD_FORM,
                body_type="multipart/form-data",
                answer=self._deck.tools["upload"].output_schema or {},
            ),
            Door(
                "GET",
                "/api/upload/{key:path}",
                "The contents of an upload, by the path that its upload answered; of a Range, that part (206).",
                self._download,
                answer={"type": "string", "format": "binary"},
                answer_type=BYTES,
            ),
        ]
        if "query_control" in self._deck.tools:
            doors.append(self._control())
        return doors

    async def _call(self, request: Request, name: str, arguments: Arguments) -> Response:
        caller: Caller = request.user
        caller.check(name, arguments)
        with self._measured(name, arguments):
            answer = await self._deck.tools[name].answer(arguments, NoClient(caller.name))
        return Answer(answer)

    @contextmanager
    def _measured(self, name: str, arguments: Arguments) -> Generator[None]:
        """What the SDK and `DeckServer` do around a call over MCP."""
        with self._deck.meter.measure(name), self._deck.telemetry.execute_tool(name, arguments):
            yield

    def _by_body(self, method: str, path: str, name: str) -> Door:
        tool = self._deck.tools[name]

        async def call(request: Request) -> Response:
            return await self._call(request, name, await read_arguments(request))

        return Door(method, path, tool.description, call, body=tool.parameters, answer=tool.output_schema or {})

    def _by_query(self, path: str, name: str) -> Door:
        """A GET changes nothing, whatever its parameters ask for."""
        tool = self._deck.tools[name]
        schema = _reading_part(name, tool.parameters)

        async def call(request: Request) -> Response:
            arguments = _from_query(request, tool.parameters)
            if "action" in arguments and not only_reads(name, arguments):
                raise InvalidArgumentError(f"GET {path} only reads: POST the same arguments as JSON", status=405)
            return await self._call(request, name, arguments)

        return Door("GET", path, tool.description, call, query=schema, answer=tool.output_schema or {})

    def _report(self, kind: str, path: str, summary: str) -> Door:
        async def call(request: Request) -> Response:
            return Answer({"success": True, **await self._deck.reports[kind](request.path_params["id"])})

        return Door("GET", path, summary, call)

    def _control(self) -> Door:
        tool = self._deck.tools["query_control"]
        properties = {name: schema for name, schema in tool.parameters["properties"].items() if name != "queryId"}

        async def call(request: Request) -> Response:
            arguments = await read_arguments(request)
            if {"queryId", "query_id"} & arguments.keys():
                raise InvalidArgumentError("queryId: is in the path")
            return await self._call(request, "query_control", {**arguments, "queryId": request.path_params["id"]})

        return Door(
            "POST",
            "/api/queries/{id}/control",
            tool.description,
            call,
            body={**tool.parameters, "properties": properties, "required": ["action"]},
            answer=tool.output_schema or {},
        )

    async def _upload(self, request: Request) -> Response:
        caller: Caller = request.user
        caller.check("upload", {})
        with closing(Spool(self._deck.data_dir)) as spool:
            form = await read_form(request, spool)
            with self._measured("upload", {"files": [{"name": file.name} for file in form.files], "index": form.index}):
                answer = await self._deck.ingest.upload(form.files, form.index)
        return Answer(answer, answer["status"])

    async def _download(self, request: Request) -> Response:
        return await download(self._deck.uploads, request)


def _reading_part(name: str, schema: Schema) -> Schema:
    """The arguments of a tool without the actions that change something."""
    if name not in ACTIONS:
        return schema
    action = {**schema["properties"]["action"], "enum": sorted(ACTIONS[name])}
    return {**schema, "properties": {**schema["properties"], "action": action}}


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
