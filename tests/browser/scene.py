"""A deck over HTTP with agents of a type that follows every control, and helpers that call its tools."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.servers.http import HttpServer, http_server

Json = dict[str, Any]
SURVEYOR = [sys.executable, "-I", "-u", str(Path(__file__).with_name("surveyor.py"))]
TYPES = {
    "surveyor": {"protocol": "jsonl", "command": SURVEYOR},
    "pump": {"command": [sys.executable, "-I", "-c", "import time; time.sleep(600)"]},
}


@dataclass(slots=True)
class Scene:
    """The server, its address, and a client of its tools."""

    server: HttpServer
    url: str
    client: httpx2.AsyncClient

    async def call(self, tool: str, **arguments: Any) -> Json:
        answer = await self.client.post(f"/api/tools/{tool}", json=arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def spawn(self, *names: str, kind: str = "surveyor") -> list[str]:
        """Start agents of these names and return their ids."""
        agents = [{"type": kind, "name": name} for name in names]
        answer = await self.call("agents_spawn_parallel", agents=agents, maxConcurrency=10, batchSize=10)
        assert answer["agentsFailed"] == 0, answer
        return [result["agentId"] for result in answer["results"]]

    async def start(
        self, agent: str, query_id: str, *, steps: int = 100_000, pause: float = 0.05, **options: Any
    ) -> None:
        """Give an agent work that lasts."""
        prompt = json.dumps({"steps": steps, "pause": pause, **options})
        await self.call("query_start", agentId=agent, queryId=query_id, prompt=prompt)

    async def query(self, query_id: str) -> Json:
        return (await self.client.get(f"/api/queries/{query_id}")).json()

    async def agent(self, agent_id: str) -> Json:
        return (await self.client.get(f"/api/agents/{agent_id}")).json()


@asynccontextmanager
async def scene(folder: Path, **environment: str) -> AsyncGenerator[Scene]:
    """Start one that keeps its data in `folder`."""
    variables = {
        "QUARTERDECK_AGENTS": json.dumps({"types": TYPES}),
        "QUARTERDECK_UPLOAD_ROOTS": str(folder),
        **environment,
    }
    token = environment.get("QUARTERDECK_HTTP_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with http_server(folder, **variables) as server:
        async with await server.client(headers=headers) as client:
            yield Scene(server, await server.url(), client)
