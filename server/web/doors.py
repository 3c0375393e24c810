"""A door: one method on one path, as it is served and as OpenAPI describes it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Schema = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]

STREAM, BYTES, JSON, TEXT = "text/event-stream", "application/octet-stream", "application/json", "text/plain"


def routes(doors: Iterable[Door]) -> list[Route]:
    """One for each path, so that a wrong method is told all right ones."""
    by_path: dict[str, dict[str, Handler]] = {}
    for door in doors:
        by_path.setdefault(door.path, {})[door.method] = door.handler
    return [Route(path, _by_method(handlers), methods=list(handlers)) for path, handlers in by_path.items()]


def _by_method(handlers: Mapping[str, Handler]) -> Handler:
    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return handle


@dataclass(frozen=True, slots=True)
class Door:
    method: str
    path: str  # as Starlette has it
    summary: str
    handler: Handler
    query: Schema = field(default_factory=dict[str, Any])  # of the query parameters, together
    body: Schema | None = None  # of the body
    body_type: str = JSON
    answer: Schema = field(default_factory=lambda: {"type": "object"})
    answer_type: str = JSON
    is_open: bool = False  # needs no token

    @property
    def template(self) -> str:
        """The path as OpenAPI has it, without what Starlette makes of a parameter."""
        return re.sub(r"\{(\w+):\w+\}", r"{\1}", self.path)

    def describe(self) -> Schema:
        """The OpenAPI operation."""
        parameters: list[Schema] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", self.template)
        ]
        required = self.query.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in self.query.get("properties", {}).items()
        ]
        refused = {"description": "refused", "content": {JSON: {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
        operation: Schema = {
            "operationId": re.sub(r"\W+", "_", f"{self.method.lower()}{self.template}").rstrip("_"),
            "summary": self.summary,
            "responses": {
                "200": {"description": "done", "content": {self.answer_type: {"schema": self.answer}}},
                "default": refused,
            },
        }
        if parameters:
            operation["parameters"] = parameters
        if self.body is not None:
            operation["requestBody"] = {"required": True, "content": {self.body_type: {"schema": self.body}}}
        if self.is_open:
            operation["security"] = []
        return operation
