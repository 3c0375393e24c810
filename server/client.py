"""A client with a server of its own, for the demo, the tests and the examples.

Starts the real server as a client would, in either protocol era, and can kill and restart it:

    async with DeckClient(data_dir) as deck:
        await deck.call("memory_usage", action="store", key="plan", value="ship it")
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.dispatcher import ProgressFnT

Era = Literal["auto", "legacy"]
"""`auto` asks for the newest protocol, `legacy` shakes hands as clients up to 2025 do."""


class ToolRefusedError(Exception):
    """The tool answered with an error; `answer` is its structured content."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer.get("error"))
        self.answer = answer


class ServerDiedError(Exception):
    """The server ended before it answered; the text is what it said on stderr."""


class DeckClient:
    """One server process on `data_dir` and one client connected to it."""

    def __init__(
        self,
        data_dir: Path,
        *,
        era: Era = "auto",
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._era: Era = era
        self._parameters = StdioServerParameters(
            command=sys.executable,
            args=["-P", "-m", "quarterdeck.server", "serve"],  # -P: as the command, no module of the working directory
            env={"QUARTERDECK_DATA_DIR": str(data_dir), **(environment or {})},
            cwd=cwd,
        )
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="quarterdeck-client-")
        self._log = Path(self._folder.name) / "stderr"
        self._stderr = self._log.open("w", encoding="utf-8")  # closed with the client

    @property
    def client(self) -> Client:
        """The SDK's client, for whatever `call` does not do."""
        if self._client is None:
            raise RuntimeError("the server is not running")
        return self._client

    @property
    def stderr(self) -> str:
        """All that the server has logged so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self._forget()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        self._forget()

    def _forget(self) -> None:
        self._stderr.close()
        self._folder.cleanup()

    async def start(self) -> None:
        """Start the server and connect.

        Raises:
            ServerDiedError: it ended instead.
        """
        transport = stdio_client(self._parameters, errlog=self._stderr)
        client = Client(transport, mode=self._era, read_timeout_seconds=120)
        try:
            self._client = await self._stack.enter_async_context(client)
        except* MCPError:
            raise ServerDiedError(self.stderr.strip()) from None

    async def stop(self) -> None:
        """Close the connection as a client does: the server sees the end of its input and ends."""
        self._client = None
        await self._stack.aclose()

    async def kill(self) -> None:
        """End the server with SIGKILL (or what Windows has for it), as a crash would."""
        psutil.Process((await self.call("server_status"))["pid"]).kill()
        await self.stop()

    async def call(self, tool: str, /, *, on_progress: ProgressFnT | None = None, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured answer.

        Raises:
            ToolRefusedError: the tool answered with an error.
        """
        result = await self.client.call_tool(tool, arguments, progress_callback=on_progress)
        answer = result.structured_content or {"error": "".join(getattr(part, "text", "") for part in result.content)}
        if result.is_error:
            raise ToolRefusedError(answer)
        return answer

    async def call_all(self, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Make several calls at the same time."""
        return await asyncio.gather(*(self.call(tool, **arguments) for tool, arguments in calls))
