"""The `claude` runner: agents on Claude Code. The Claude Agent SDK is imported when the first of them starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from quarterdeck.tools.contract import DeckTool

from ..base import AgentDiedError, AgentHandle, AgentSpec, CallDeck
from ..children import Children
from ..ready import when_ready
from .config import ClaudeType
from .launch import BYPASS, DECK, find_program, is_root, order

if TYPE_CHECKING:
    from .agent import ClaudeAgent

READY_TIMEOUT = 60.0  # seconds; alone on a machine it takes half of one, twenty at once took fifteen


class ClaudeRunner:
    """Starts agents of the `types` that the user configured. `widest_mode` names the permission mode that agents of a
    type may be raised to: Claude Code must know of bypassPermissions when it starts. `tools` tells at a start what
    the deck offers."""

    def __init__(
        self,
        children: Children,
        types: Mapping[str, ClaudeType],
        widest_mode: Mapping[str, str],
        tools: Callable[[], Iterable[DeckTool]],
    ) -> None:
        self._children = children
        self._types = types
        self._widest_mode = widest_mode
        self._tools = tools

    async def start(self, spec: AgentSpec, call: CallDeck) -> AgentHandle:
        """See Runner.start."""
        kind = self._types[spec.type]
        try:
            sdk = await asyncio.to_thread(import_module, "claude_agent_sdk")  # a second of reading
        except ModuleNotFoundError as exc:
            raise AgentDiedError(f"{exc}: pip install 'quarterdeck[claude]'") from None
        program = find_program(kind, Path(str(sdk.__file__)).parent)
        may_bypass = self._widest_mode.get(spec.type) == BYPASS and kind.sandbox and not is_root()
        agent = await self._launch(program, kind, spec, call, may_bypass=may_bypass)
        return await when_ready(agent, agent.begin(), READY_TIMEOUT, "Claude Code")

    async def _launch(
        self, program: Path, kind: ClaudeType, spec: AgentSpec, call: CallDeck, *, may_bypass: bool
    ) -> ClaudeAgent:
        from .agent import ClaudeAgent
        from .deck_server import deck_server
        from .transport import MAX_LINE

        child = await self._children.start(order(program, kind, spec, may_bypass=may_bypass), limit=MAX_LINE)
        try:
            return ClaudeAgent(child, {DECK: deck_server(DECK, self._tools(), call)}, spec.model, may_bypass=may_bypass)
        except psutil.NoSuchProcess:
            child.close()
            raise AgentDiedError(f"{program} ended at once") from None
