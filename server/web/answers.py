"""JSON answers over HTTP, the same as those of the tools, with the status that fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json
from starlette.responses import JSONResponse

from quarterdeck.storage.errors import DeckError

FAILED = 500


class Answer(JSONResponse):
    def render(self, content: Any) -> bytes:
        return to_json(content)


_BY_CODE = {
    "invalid_argument": 400,
    "denied": 403,
    "not_found": 404,
    "conflict": 409,
    "limit": 413,
    "unsupported": 501,
    "storage": 503,
}
_BY_OUTCOME = {"denied": 403, "failed": 409, "unsupported": 501}
"""Of a control: its `status` is no number."""


def status_of(error: DeckError) -> int:
    status = error.details.get("status")
    if isinstance(status, int):
        return status
    return _BY_OUTCOME.get(str(status)) or _BY_CODE.get(error.code, FAILED)


def refusal(error: DeckError, headers: Mapping[str, str] | None = None) -> Answer:
    """The answer to a call that was refused."""
    answer = {"success": False, "error": error.message, "code": error.code, **error.details}
    return Answer(answer, status_of(error), headers)
