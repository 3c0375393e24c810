"""The deck's own tools, as a model is offered them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic_ai import RunContext, ToolDefinition
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from quarterdeck.storage.errors import DeckError
from quarterdeck.tools.contract import DeckTool

from ...rights import CALLABLE
from ..base import CallDeck, Json


class DeckToolset(AbstractToolset[object]):
    """Those of `tools` that agents may call; `call` makes the call, with the agent's rights."""

    @property
    def id(self) -> str:
        return "deck"

    def __init__(self, tools: Iterable[DeckTool], call: CallDeck, retries: int) -> None:
        """A call that is no JSON object is told to the model, `retries` times in a row."""
        self._call = call
        any_object = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))  # the tool checks the rest
        self._tools = {
            tool.name: ToolsetTool[object](
                toolset=self,
                tool_def=ToolDefinition(
                    name=tool.name, description=tool.description, parameters_json_schema=tool.parameters
                ),
                max_retries=retries,
                args_validator=any_object,
            )
            for tool in tools
            if tool.name in CALLABLE
        }

    async def get_tools(self, ctx: RunContext[object]) -> dict[str, ToolsetTool[object]]:
        del ctx  # always the same
        return self._tools

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[object], tool: ToolsetTool[object]
    ) -> Json:
        del ctx, tool
        try:
            return await self._call(name, tool_args)
        except DeckError as exc:
            raise ToolFailed(exc.message) from None  # the model reads it and goes on
