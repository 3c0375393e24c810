"""Agents and queries as MCP resources: all that is known of one, for a person or a program that looks closer."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import Annotations, ResourceTemplate
from pydantic_core import to_json

from quarterdeck.storage.errors import DeckError, NotFoundError

MIME_TYPE = "application/json"
Report = Callable[[str], Awaitable[Mapping[str, Any]]]
"""All that is known of the agent or query with that id; raises DeckError."""

_URI = re.compile(r"(agent|query)://([A-Za-z0-9._:-]{1,128})")
_DESCRIPTIONS = {
    "agent": "One agent, live or ended, and all that happened to it.",
    "query": "One query: its prompt, state, result, and every control of it with what was observed (audit).",
}


class RunResources:
    """What a `DeckServer` answers about `agent://{agentId}` and `query://{queryId}`."""

    def __init__(self, reports: Mapping[str, Report]) -> None:
        """`reports` has one for `agent` and one for `query`."""
        self._reports = reports
        self.templates = [
            ResourceTemplate(
                name=kind,
                title=kind.capitalize(),
                uri_template=f"{kind}://{{{kind}Id}}",
                description=_DESCRIPTIONS[kind],
                mime_type=MIME_TYPE,
                annotations=Annotations(audience=["user", "assistant"]),
            )
            for kind in reports
        ]

    async def read(self, uri: str) -> ReadResourceContents:
        """What is known of it now, as JSON.

        Raises:
            ResourceNotFoundError: there is no such agent or query, or the URI names none.
            ResourceError: the store failed.
        """
        found = _URI.fullmatch(uri)
        if found is None:
            raise ResourceNotFoundError(f"uri: must be agent://{{agentId}} or query://{{queryId}}, got {uri[:80]!a}")
        try:
            report = await self._reports[found[1]](found[2])
        except NotFoundError as exc:
            raise ResourceNotFoundError(exc.message) from None
        except DeckError as exc:
            raise ResourceError(exc.message) from exc
        return ReadResourceContents(to_json(report).decode(), MIME_TYPE)
