"""Waiting for a new agent to be ready."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

from .base import AgentDiedError, AgentHandle

Agent = TypeVar("Agent", bound=AgentHandle)


async def when_ready(agent: Agent, beginning: Coroutine[Any, Any, None], seconds: float, who: str) -> Agent:
    """The agent, once its `beginning` has been done; one that cannot begin is ended.

    Raises:
        AgentDiedError: it is not ready after so many `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            await beginning
    except BaseException as exc:
        with anyio.CancelScope(shield=True):
            await agent.end(grace=0)
        if isinstance(exc, TimeoutError):
            raise AgentDiedError(f"{who} was not ready within {seconds:g} s") from None
        raise
    return agent
