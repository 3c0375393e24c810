"""What every client does in turn, by Python's own SDK here and by TypeScript's in story.mjs, and what must come of it.

Remember, read the memory as a resource, spawn two agents with progress, give one work and wait for it, wait for the
other and cancel that, and make two mistakes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import CallToolResult, TextContent, TextResourceContents

from quarterdeck.server.client import Era
from tests.server.test_tools import CONTRACT

Json = Any
Report = dict[str, Json]

TOKENS = 6_000  # of all tools together
SERVER = [sys.executable, "-P", "-m", "quarterdeck.server", "serve"]
SLEEPER = {"types": {"sleeper": {"command": ["sleep", "600"]}}}
VALUE = {"ship": [1, None, '"1"']}


def environment(data_dir: Path) -> dict[str, str]:
    """Of a server with an agent type `sleeper`, whose work has no end."""
    return {"QUARTERDECK_DATA_DIR": str(data_dir), "QUARTERDECK_AGENTS": json.dumps(SLEEPER)}


async def tell(era: Era, data_dir: Path) -> Report:
    """The story, and what was seen."""
    parameters = StdioServerParameters(command=SERVER[0], args=SERVER[1:], env=environment(data_dir))
    with (data_dir.parent / "stderr").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode=era) as client:
            return await _tell(client)


async def _tell(client: Client) -> Report:
    async def call(tool: str, on_progress: ProgressFnT | None = None, **arguments: Json) -> Json:
        result = await client.call_tool(tool, arguments, progress_callback=on_progress)
        assert not result.is_error, result
        return result.structured_content

    assert client.server_info is not None
    report: Report = {"server": client.server_info.name, "protocol": client.protocol_version}
    tools = [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in (await client.list_tools()).tools
    ]
    report["tools"] = [tool["name"] for tool in tools]
    report["toolsBytes"] = len(json.dumps(tools, ensure_ascii=False, separators=(",", ":")).encode())

    stored = await call("memory_usage", action="store", key="pläne/1", value=VALUE)
    report["retrieved"] = (await call("memory_usage", action="retrieve", key="pläne/1"))["value"]
    [contents] = (await client.read_resource(stored["id"])).contents
    assert isinstance(contents, TextResourceContents)
    report["read"] = contents.text

    agents = [{"type": kind, "name": kind} for kind in ("researcher", "sleeper")]
    seen = report["progress"] = list[list[float | None]]()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append([progress, total])

    spawned: Json = (await call("agents_spawn_parallel", on_progress, agents=agents))["results"]
    report["spawned"] = [agent["status"] for agent in spawned]
    prompt = json.dumps({"do": "analyze_document", "text": "# Tides\n\nThe sea rose by 3 metres."})
    work = await call("query_start", agentId=spawned[0]["agentId"], prompt=prompt)
    [ended] = (await call("query_wait", queryIds=[work["queryId"]], timeout=60))["results"]
    report |= {"status": ended["status"], "result": ended["result"]}
    report["agents"] = [agent["name"] for agent in (await call("agents_list"))["agents"]]

    sleep = await call("query_start", agentId=spawned[1]["agentId"], prompt="x")
    report["cancelled"] = await _cancel(client, sleep["queryId"])

    async def errors() -> int:
        return (await call("server_status"))["performance"]["calls"].get("query_wait", {}).get("errors", 0)

    while await errors() < 1:  # the server has ended the cancelled call
        pass
    report["queries"] = [query["status"] for query in (await call("query_list"))["queries"]]

    refused = await client.call_tool("memory_usage", {"action": "remember"})
    report["refusal"] = {"isError": refused.is_error, **(refused.structured_content or {}), "text": _text(refused)}
    report["unknown"] = _text(await client.call_tool("memory_usage", {"action": "list", "colour": "red"}))
    return report


async def _cancel(client: Client, query_id: str) -> bool:
    begun = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        begun.set()

    arguments = {"queryIds": [query_id], "timeout": 600}
    waiting = asyncio.create_task(client.call_tool("query_wait", arguments, progress_callback=on_progress))
    await begun.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    return waiting.cancelled()


def _text(result: CallToolResult) -> str:
    [block] = result.content
    assert isinstance(block, TextContent)
    return block.text


def check(report: Report, protocol: str) -> None:
    """Whether all of it took place."""
    assert (report["server"], report["protocol"]) == ("quarterdeck", protocol)
    assert set(report["tools"]) == CONTRACT
    assert report["toolsBytes"] / 4 < TOKENS
    assert report["retrieved"] == VALUE
    assert json.loads(report["read"]) == VALUE
    assert report["spawned"] == ["spawned", "spawned"]
    assert report["status"] == "completed"
    assert "Tides" in json.dumps(report["result"])
    both = [[1, 2], [2, 2]]
    assert report["progress"] in (both, both[:1])  # TypeScript's client drops one that comes together with the answer
    assert set(report["agents"]) == {"researcher", "sleeper"}
    assert report["cancelled"]
    assert report["queries"] == ["running"]  # a cancelled wait ends no work
    assert report["refusal"]["isError"]
    assert report["refusal"]["success"] is False
    assert "'store'" in report["refusal"]["error"]
    assert json.loads(report["refusal"]["text"])["error"] == report["refusal"]["error"]
    assert "unknown argument 'colour' (valid: action, key" in report["unknown"]
