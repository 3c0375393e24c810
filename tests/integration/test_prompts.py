"""Prompts over a real client in both eras, and the plans that they write carried out on the real server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp_types import PromptReference, TextContent

from quarterdeck.server.client import DeckClient, Era
from tests.here import DeckHere

ERAS: tuple[Era, ...] = ("auto", "legacy")


async def plan(deck: DeckClient, name: str, **arguments: str) -> str:
    [message] = (await deck.client.get_prompt(name, arguments)).messages
    assert isinstance(message.content, TextContent)
    assert message.role == "user"
    return message.content.text


def calls_of(text: str, tools: set[str]) -> list[tuple[str, dict[str, Any]]]:
    """The calls that a plan names, in its order."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for found in re.finditer(r"\b([a-z_]+) (?=\{)", text):
        assert found[1] in tools, found[1]
        calls.append((found[1], json.JSONDecoder().raw_decode(text, found.end())[0]))
    return calls


@pytest.mark.parametrize("era", ERAS)
async def test_they_are_listed_got_and_completed(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        listed = {prompt.name: prompt for prompt in (await deck.client.list_prompts()).prompts}
        assert list(listed) == ["review_crew", "index_folder", "research_run"]
        assert [(a.name, a.required) for a in listed["index_folder"].arguments or ()] == [
            ("folder", True),
            ("collection", False),
        ]
        await deck.call("memory_usage", action="store", namespace="research-2026", key="k", value=1)
        await deck.call("vector_collections", action="create", collection="papers", dimension=3)
        key = (await deck.call("upload", files=[{"name": "a.md", "content": "# A"}]))["files"][0]["path"]

        async def complete(prompt: str, argument: str, typed: str) -> list[str]:
            reference = PromptReference(name=prompt)
            return (await deck.client.complete(reference, {"name": argument, "value": typed})).completion.values

        assert await complete("research_run", "type", "re") == ["researcher", "reviewer"]
        assert await complete("research_run", "namespace", "rese") == ["research-2026"]
        assert await complete("research_run", "question", "what") == []
        assert await complete("index_folder", "collection", "") == ["papers"]
        assert await complete("index_folder", "collection", "q") == []
        assert await complete("review_crew", "document", "uploads/") == [key]

        text = await plan(deck, "research_run", question='Why "é"?', seconds="60", tokens="5000")
        assert 'Why "é"?' in text
        assert '"budget": {"wallSeconds": 60, "tokens": 5000}' in text
        for name, arguments, told in (
            ("research_run", {}, "question: research_run needs it"),
            ("research_run", {"question": "q", "type": "sage"}, "type: no 'sage' (types: researcher"),
            ("research_run", {"question": "q", "seconds": "soon"}, "seconds: must be a whole number"),
            ("research_run", {"question": "q", "tokens": "0" * 15 + "9" * 5000}, "tokens: must be a whole number"),
            ("index_folder", {"folder": "f", "depth": "2"}, "unknown argument 'depth'"),
            ("summon", {}, "no prompt 'summon' (prompts: review_crew"),
        ):
            with pytest.raises(MCPError) as refused:
                await deck.client.get_prompt(name, arguments)
            assert told in refused.value.error.message
        with pytest.raises(MCPError, match="'depth' is not of index_folder"):
            await complete("index_folder", "depth", "")


async def test_the_plans_can_be_carried_out(tmp_path: Path) -> None:
    """Every call as it is written, but for what only earlier answers say."""
    (tmp_path / "docs").mkdir()
    document = tmp_path / "docs" / "a.md"
    document.write_text("# Anchors\n\nAn anchor holds a ship.\n\n```python\nprint('holds')\n```\n")
    async with DeckHere(tmp_path / "deck", environment={"QUARTERDECK_UPLOAD_ROOTS": str(tmp_path / "docs")}) as deck:
        tools = {tool.name for tool in (await deck.client.list_tools()).tools}
        for name, arguments in (
            ("index_folder", {"folder": str(tmp_path / "docs")}),
            ("review_crew", {"document": str(document)}),
            ("research_run", {"question": "What holds a ship?", "collection": "library"}),
        ):
            agents: list[str] = []
            queries: list[str] = []
            uploaded = ""
            for tool, call in calls_of(await plan(deck, name, **arguments), tools):
                if tool == "upload":
                    call["files"] = [{"path": str(document)}]
                elif tool == "query_start":
                    given = call["prompt"].replace("KEY", uploaded).replace("PART", "anchor ship")
                    call |= {"agentId": agents[len(queries)], "prompt": given}
                elif tool == "query_wait":
                    call["queryIds"] = queries
                elif tool == "agents_stop":
                    call["agentIds"] = agents
                elif tool in ("vector_search", "memory_usage"):
                    call = json.loads(json.dumps(call, ensure_ascii=False).replace("…", "anchor"))
                answer = await deck.call(tool, **call)
                match tool:
                    case "upload":
                        uploaded = answer["files"][0]["path"]
                    case "agents_spawn_parallel":
                        agents = [agent["agentId"] for agent in answer["results"]]
                    case "query_start":
                        queries.append(answer["queryId"])
                    case "query_wait":
                        assert [result["status"] for result in answer["results"]] == ["completed"] * len(queries)
                        assert len(queries) == (5 if name == "review_crew" else 1)
                    case "vector_search":
                        assert "anchor holds" in answer["results"][0][0]["payload"]["text"]
                    case _:
                        pass
        assert (await deck.call("memory_usage", action="list", namespace="reviews"))["count"] == 1
