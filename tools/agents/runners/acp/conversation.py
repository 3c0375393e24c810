"""The conversation with an agent's process: requests, and why they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import psutil
from acp import PROTOCOL_VERSION, RequestError, connect_to_agent
from acp.schema import AgentCapabilities, ClientCapabilities, Implementation
from pydantic import ValidationError

from ... import processes
from ..base import AgentDiedError
from ..children import Child
from ..ends import DRAIN_TIMEOUT, LastWords
from ..messages import MAX_ERROR
from .session import Session
from .transport import Pipe

AUTH_REQUIRED = -32000  # error code of the protocol

T = TypeVar("T")


class RefusedError(Exception):
    """The agent did not do what it was asked for; the text says why."""


class Conversation:
    """`connection` makes the requests, `ask` waits for their answers; `ended` tells how the process ended."""

    def __init__(self, child: Child, root: psutil.Process, session: Session) -> None:
        self._child = child
        self._root = root
        self._pipe = Pipe(child)
        self.connection = connect_to_agent(session, self._pipe)  # type: ignore[arg-type]
        self._auth_methods: Sequence[str] = ()  # that the agent has named
        self._words = LastWords()
        self._listening = asyncio.create_task(self._words.collect(child.stderr))
        self.ended = asyncio.create_task(self._watch())

    async def introduce(self, auth_method: str | None) -> AgentCapabilities:
        """Shake hands, and log in by the method if there is one. Raises RefusedError, AgentDiedError."""
        hello = await self.ask(
            self.connection.initialize(
                protocol_version=PROTOCOL_VERSION,
                client_capabilities=ClientCapabilities(),  # it has its own files and terminals
                client_info=Implementation(name="quarterdeck", version=version("quarterdeck")),
            )
        )
        if hello.protocol_version != PROTOCOL_VERSION:
            raise RefusedError(f"the agent speaks version {hello.protocol_version} of ACP, not {PROTOCOL_VERSION}")
        self._auth_methods = [method.id for method in hello.auth_methods or ()]
        if auth_method is not None:
            await self.ask(self.connection.authenticate(method_id=auth_method))
        return hello.agent_capabilities or AgentCapabilities()

    async def ask(self, request: Coroutine[Any, Any, T]) -> T:
        """Raises RefusedError; AgentDiedError: it ended, or had to be ended as it closed its end."""
        try:
            return await request
        except RequestError as exc:
            raise RefusedError(self._explain(exc)) from None
        except ValidationError as exc:
            raise RefusedError(f"the agent's answer is none of the protocol's: {exc}"[:MAX_ERROR]) from None
        except ConnectionError:
            await asyncio.wait([self._child.exited], timeout=DRAIN_TIMEOUT)
            if not self._child.exited.done():
                self._pipe.broken = "the agent was ended, as it closed its end of the conversation"
                await processes.end(self._root, grace=0)
            raise AgentDiedError(await asyncio.shield(self.ended)) from None

    def _explain(self, exc: RequestError) -> str:
        text = f"{exc}: {json.dumps(exc.data)}" if exc.data else str(exc)
        if exc.code == AUTH_REQUIRED and self._auth_methods:
            text += f" (auth_method of its type: {', '.join(self._auth_methods)})"
        return text[:MAX_ERROR]

    async def _watch(self) -> str:
        """Wait for the end of the process, then for what it has left in its pipes; whoever waits for an answer gets a
        ConnectionError."""
        ended = await asyncio.shield(self._child.exited)
        drained = asyncio.create_task(self._pipe.drained.wait())
        await asyncio.wait([drained, self._listening], timeout=DRAIN_TIMEOUT)
        for task in (drained, self._listening):
            task.cancel()
        await self.connection.close()
        self._child.close()
        return self._pipe.broken or self._words.explain("the agent", ended.code)
