"""Starts agents on models. Their library is imported when the first one starts: that takes seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.contract import DeckTool

from ..base import AgentDiedError, AgentHandle, AgentSpec, CallDeck
from .config import LlmType

if TYPE_CHECKING:
    from pydantic_ai.models import Model


class LlmRunner:
    def __init__(
        self,
        types: Mapping[str, LlmType],
        tools: Callable[[], Iterable[DeckTool]],
        connect: Callable[[LlmType, str], Model] | None = None,
    ) -> None:
        """`tools` tells at a start what the deck offers; `connect` gives the model of a name, by default what the
        type's configuration says."""
        self._types = types
        self._tools = tools
        self._connect = connect

    async def start(self, spec: AgentSpec, call: CallDeck) -> AgentHandle:
        """See Runner.start. Ready means that the model's name, its provider and its key are there."""
        try:
            await asyncio.to_thread(import_module, f"{__package__}.agent")
            from .agent import LlmAgent
            from .providers import connect
        except ModuleNotFoundError as exc:
            raise AgentDiedError(f"{exc}: pip install 'quarterdeck[llm]'") from exc
        agent = LlmAgent(spec, self._types[spec.type], call, self._tools(), self._connect or connect)
        try:
            await agent.begin()
        except (InvalidArgumentError, ValueError, OSError) as exc:
            raise AgentDiedError(str(exc)) from None
        return agent
