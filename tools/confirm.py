"""The yes of a human, asked by elicitation: as a request of its own in the handshake era, and since 2026-07-28 as an
answer that asks, after which the client makes the same call again with what the human said."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from pydantic import BaseModel, Field

KEY = "confirm"


class Confirmation(BaseModel):
    """The form that the human fills in."""

    confirm: bool = Field(description="yes, do it")


class ConfirmationNeededError(Exception):
    """The call ends here; the client makes it again with the answer. Only to be raised before anything was done."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__(KEY)
        self.result = result


class ClientCall:
    """A call by a client, as a handler sees it."""

    def __init__(self, context: Context[Any, Any]) -> None:
        self._context = context

    @property
    def actor(self) -> str:
        """See Call.actor."""
        request: Any = self._context.request_context.request
        return "client" if request is None else str(request.user.display_name)  # over HTTP, whose token it is

    async def report_progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """See Call.report_progress."""
        await self._context.report_progress(progress, total, message)

    async def confirm(self, question: str) -> bool:
        """See Call.confirm.

        Raises:
            ConfirmationNeededError: nobody was asked yet, in the era that asks by the answer.
        """
        context = self._context
        declared = context.client_capabilities
        elicitation = declared.elicitation if declared is not None else None
        if elicitation is None or (elicitation.form is None and elicitation.url is not None):
            return False
        if (context.protocol_version or "") <= LATEST_HANDSHAKE_VERSION:
            try:
                answer = await context.elicit(question, Confirmation)
            except (MCPError, ValueError):  # it declared what it cannot do, or sent something else than the form
                return False
            return answer.action == "accept" and answer.data.confirm
        asked = sha256(question.encode()).hexdigest()
        given = (context.input_responses or {}).get(KEY)
        if isinstance(given, ElicitResult) and context.request_state == asked:
            return given.action == "accept" and (given.content or {}).get("confirm") is True
        schema = Confirmation.model_json_schema()
        request = ElicitRequest(params=ElicitRequestFormParams(message=question, requested_schema=schema))
        raise ConfirmationNeededError(InputRequiredResult(input_requests={KEY: request}, request_state=asked))
