"""What the model is made to do in the coding agents: each step is a tool call, made from what the last one answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Json = Any
ToolCall = tuple[str, dict[str, Json]]

QUERY = "tides-1"
RESOURCE = {"server": "quarterdeck", "uri": "memory://default/plan"}
READ = "read a resource"  # which coding agents do by a tool of their own

STEPS: Sequence[Callable[[Json], ToolCall]] = [
    lambda _: ("memory_usage", {"action": "store", "key": "plan", "value": ["ship", "it"]}),
    lambda _: ("memory_usage", {"action": "retrieve", "key": "plan"}),
    lambda _: (READ, RESOURCE),
    lambda _: ("agents_spawn_parallel", {"agents": [{"type": "researcher", "name": "Ada"}]}),
    lambda spawned: (
        "query_start",
        {
            "agentId": spawned["results"][0]["agentId"],
            "queryId": QUERY,
            "prompt": json.dumps({"do": "analyze_document", "text": "# Tides\n\nThe sea rose by 3 metres."}),
        },
    ),
    lambda _: ("query_wait", {"queryIds": [QUERY], "timeout": 60}),
    lambda _: ("query_list", {"includeHistory": True}),
    lambda _: ("memory_usage", {"action": "remember"}),
]


class Script:
    """Plays the model, and keeps what it reads."""

    def __init__(self) -> None:
        self._steps = iter(STEPS)
        self._last = ""
        self.answers: list[Json] = []

    def next(self, answer: str) -> ToolCall | None:
        """The tool call after `answer` to the one before; None at the end."""
        if self._last:
            self.answers.append(answer if self._last == READ else json.loads(answer))
        step = next(self._steps, None)
        if step is None:
            return None
        self._last, arguments = step(self.answers[-1] if self.answers else None)
        return self._last, arguments

    def check(self) -> None:
        """Whether the model has read what each of the calls should answer."""
        stored, retrieved, read, spawned, started, waited, listed, refused = self.answers
        assert stored["stored"] is True
        assert retrieved["value"] == ["ship", "it"]
        assert "ship" in read
        assert spawned["results"][0]["status"] == "spawned"
        assert started["queryId"] == QUERY
        assert waited["results"][0]["status"] == "completed"
        assert "Tides" in json.dumps(waited["results"][0]["result"])
        assert [query["queryId"] for query in listed["queries"]] == [QUERY]
        assert refused["success"] is False
        assert "'store'" in refused["error"]
