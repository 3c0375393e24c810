"""Who calls over HTTP, and whether they may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from quarterdeck.storage.errors import DeniedError
from quarterdeck.tools.reads import only_reads

from .tokens import OWNER, Rights


class Caller(AuthenticatedUser):
    """The user of a request, in the SDK's terms, which lets a session of `/mcp` serve only the caller that began it."""

    def __init__(self, name: str = OWNER, rights: Rights = "full") -> None:
        super().__init__(AccessToken(token="", client_id=name, scopes=[rights]))
        self.name = name
        self.read_only = rights == "read"

    def check(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Raises DeniedError if the caller may not make this call."""
        if self.read_only and not only_reads(tool, arguments):
            action = arguments.get("action")
            what = f"{tool} with action {action}" if isinstance(action, str) else tool
            raise DeniedError(f"the token {self.name!r} only reads: {what[:100]} changes something", status=403)
