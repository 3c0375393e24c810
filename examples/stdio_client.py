"""A client of Quarterdeck in forty lines: remember, spawn an agent, give it work, read the result.

python examples/stdio_client.py README.md
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters


async def main(document: Path) -> None:
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "quarterdeck.server", "serve"],
        env={"QUARTERDECK_UPLOAD_ROOTS": str(document.parent)},
    )
    async with Client(server) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            answer: dict[str, Any] = result.structured_content or {}
            if result.is_error:
                raise SystemExit(answer.get("error", "the call failed"))
            return answer

        await call("memory_usage", action="store", key="last-document", value=document.name)
        uploaded = await call("upload", files=[{"path": str(document)}])
        spawned = await call("agents_spawn_parallel", agents=[{"type": "researcher", "name": "reader"}])
        work = {"do": "analyze_document", "upload": uploaded["files"][0]["path"]}
        query = await call("query_start", agentId=spawned["results"][0]["agentId"], prompt=json.dumps(work))
        done = await call("query_wait", queryIds=[query["queryId"]])
        print(json.dumps(done["results"][0]["result"], indent=2, ensure_ascii=False))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} DOCUMENT")
    asyncio.run(main(Path(sys.argv[1]).resolve()))
