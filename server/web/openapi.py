"""The OpenAPI description of the doors, made of what they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .doors import Door

_REFUSAL = {
    "type": "object",
    "required": ["success", "error", "code"],
    "properties": {
        "success": {"const": False},
        "error": {"type": "string", "description": "what failed, the valid values and the next call"},
        "code": {"type": "string"},
    },
}


def describe(doors: Iterable[Door], version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for door in doors:
        paths.setdefault(door.template, {})[door.method.lower()] = door.describe()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quarterdeck",
            "version": version,
            "description": "The tools of the MCP server at /mcp, over plain HTTP.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {"Refusal": _REFUSAL},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
