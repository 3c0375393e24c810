"""The deck's own tools, as a model is offered them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic_ai import FunctionToolset, Tool
from pydantic_ai.exceptions import ToolFailed

from quarterdeck.storage.errors import DeckError
from quarterdeck.tools.contract import DeckTool

from ...rights import CALLABLE
from ..base import CallDeck


def deck_toolset(tools: Iterable[DeckTool], call: CallDeck) -> FunctionToolset[object]:
    """Those of `tools` that agents may call; `call` makes the call, with the agent's rights."""
    return FunctionToolset([_offered(tool, call) for tool in tools if tool.name in CALLABLE])


def _offered(tool: DeckTool, call: CallDeck) -> Tool[object]:
    async def run(**arguments: Any) -> Any:
        try:
            return await call(tool.name, arguments)
        except DeckError as exc:
            raise ToolFailed(exc.message) from None  # the model reads it and goes on

    return Tool[object].from_schema(run, tool.name, tool.description, tool.parameters)
