"""The `acp` runner: any agent of the Agent Client Protocol. The library is imported when the first of them starts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

import psutil

from ..base import AgentDiedError, AgentHandle, AgentSpec, CallDeck
from ..children import Children
from ..ends import ended_at_once
from ..ready import when_ready
from .config import AcpType

if TYPE_CHECKING:
    from .agent import AcpAgent

READY_TIMEOUT = 60.0  # seconds; agents on node take several of them on a busy machine


class AcpRunner:
    """Starts agents of the `types` that the user configured."""

    def __init__(self, children: Children, types: Mapping[str, AcpType]) -> None:
        self._children = children
        self._types = types

    async def start(self, spec: AgentSpec, call: CallDeck) -> AgentHandle:
        """See Runner.start."""
        del call  # such an agent has its own tools
        try:
            await asyncio.to_thread(import_module, f"{__package__}.agent")  # a second of reading
        except ModuleNotFoundError as exc:
            raise AgentDiedError(f"{exc}: pip install 'quarterdeck[acp]'") from None
        agent = await self._launch(self._types[spec.type], spec)
        return await when_ready(agent, agent.begin(spec), READY_TIMEOUT, "the agent")

    async def _launch(self, kind: AcpType, spec: AgentSpec) -> AcpAgent:
        from .agent import AcpAgent
        from .transport import MAX_LINE

        folder = spec.cwd or spec.folder
        child = await self._children.start(kind.order(folder), limit=MAX_LINE)
        try:
            return AcpAgent(child, kind, folder)
        except psutil.NoSuchProcess:
            raise AgentDiedError(await ended_at_once(child, "the agent")) from None
