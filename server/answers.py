"""JSON answers over HTTP, the same as those of the tools."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from quarterdeck.storage.errors import DeckError

FAILED = 500


def refusal(error: DeckError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a call that was refused; the error's details name its `status`."""
    answer = {"success": False, "error": error.message, "code": error.code, **error.details}
    return JSONResponse(answer, error.details.get("status", FAILED), headers)
