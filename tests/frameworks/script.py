"""What a good model would do in the examples, call by call; runs in the environment of each framework."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "frameworks"))

Step = tuple[str, dict[str, Any]]


def next_step(answers: list[dict[str, Any]]) -> Step | str:
    """The next call after these answers of the tools, or what to say at last. Everything comes from the answers."""
    document, question = sys.argv[1:]

    def query(agent: int, what: str) -> Step:
        work = {"do": what, "upload": answers[1]["files"][0]["path"]}
        return "query_start", {"agentId": answers[2]["results"][agent]["agentId"], "prompt": json.dumps(work)}

    match len(answers):
        case 0:
            return "memory_usage", {"action": "search", "namespace": "examples", "query": question}
        case 1:
            return "upload", {"files": [{"path": document}]}
        case 2:
            names = [{"type": "researcher", "name": name} for name in ("indexer", "reader")]
            return "agents_spawn_parallel", {"agents": names}
        case 3:
            return query(0, "index_document")
        case 4:
            return query(1, "analyze_document")
        case 5:
            return "query_wait", {"queryIds": [answers[3]["queryId"], answers[4]["queryId"]], "timeout": 60}
        case 6:
            if [result["status"] for result in answers[5]["results"]] != ["completed"] * 2:
                return f"the queries did not end well: {answers[5]}"
            return "vector_search", {"collection": "documents", "query": question, "limit": 1}
        case 7:
            found = answers[6]["results"][0][0]["payload"]["text"]
            return "memory_usage", {"action": "store", "namespace": "examples", "key": question, "value": found}
        case _:
            return f"remembered as version {answers[7]['version']}"


def answer_of(content: Any) -> dict[str, Any]:
    """A tool's answer, however the framework hands it on: parsed, as JSON text, or as a list of text blocks."""
    if isinstance(content, list):
        content = "".join(block["text"] for block in cast("list[dict[str, str]]", content))
    answer: dict[str, Any] = json.loads(content) if isinstance(content, str) else content
    return answer_of(answer["text"]) if answer.get("type") == "text" else answer
