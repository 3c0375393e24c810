"""What agents do, as OpenTelemetry spans and metrics after the conventions for generative AI; nothing of it goes
anywhere unless the process has an SDK set up.

What agents are asked, what they answer and what they call tools with is content, and is left out unless asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from quarterdeck.storage.errors import DeckError
from quarterdeck.storage.runs.base import Agent, Query

SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
"""The version of the conventions whose names are used here."""

Json = Any


@dataclass(slots=True)
class Spent:
    """What the ended queries of one agent type and outcome took together."""

    queries: int = 0
    seconds: float = 0.0
    tokens: float | None = None  # nobody told of any
    usd: float | None = None


class RunTelemetry:
    """Spans and metrics of the agents of one server. The plain figures are those since its start."""

    def __init__(self, *, content: bool = False) -> None:
        self._content = content
        self._tracer = trace.get_tracer("quarterdeck", schema_url=SCHEMA_URL)
        meter = metrics.get_meter("quarterdeck", schema_url=SCHEMA_URL)
        self._durations = meter.create_histogram("gen_ai.client.operation.duration", "s", "Work of an agent on a query")
        self._tokens = meter.create_counter("quarterdeck.query.tokens", "{token}", "Tokens that ended queries used")
        self._cost = meter.create_counter("quarterdeck.query.cost", "{USD}", "What ended queries cost")
        self._pauses = meter.create_counter("quarterdeck.query.pauses", "{pause}", "Pauses that took effect")
        self._orphans = meter.create_counter(
            "quarterdeck.orphans.reaped", "{agent}", "Agents of dead servers that were cleared up"
        )
        self._working: dict[str, Context] = {}  # by agent: what it works on
        self.spent: dict[tuple[str, str], Spent] = {}  # by agent type and outcome
        self.pauses: Counter[str] = Counter()  # by level
        self.orphans = 0

    @contextmanager
    def create_agent(self, agent: Agent) -> Generator[None]:
        """The start of an agent."""
        with self._span(f"create_agent {agent.name}", SpanKind.INTERNAL, _about(agent, "create_agent")):
            yield

    @contextmanager
    def invoke_agent(self, query: Query, agent: Agent) -> Generator[None]:
        """The work of an agent on a query; what it calls meanwhile is a part of that."""
        attributes = {
            **_about(agent, "invoke_agent"),
            "gen_ai.conversation.id": query.id,
            **({"gen_ai.request.model": query.wanted_model} if query.wanted_model else {}),
            **self._messages("gen_ai.input.messages", "user", query.prompt),
        }
        with self._span(f"invoke_agent {agent.name}", SpanKind.INTERNAL, attributes) as span:
            self._working[agent.id] = trace.set_span_in_context(span)
            try:
                yield
            finally:
                del self._working[agent.id]
                usage = query.usage or {}
                known = {
                    "gen_ai.response.model": query.model,
                    "quarterdeck.usage.tokens": usage.get("tokens"),
                    "quarterdeck.usage.usd": usage.get("usd"),
                    "quarterdeck.usage.cpu_seconds": usage.get("cpuSeconds"),
                }
                span.set_attributes({name: value for name, value in known.items() if value is not None})
                span.set_attributes(self._messages("gen_ai.output.messages", "assistant", query.result))

    @contextmanager
    def execute_tool(self, tool: str, arguments: Mapping[str, Json], agent_id: str | None = None) -> Generator[None]:
        """A call of a tool of the deck, by an agent or by a client that is no MCP client (the SDK tells of those)."""
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.type": "function",
            **({"gen_ai.agent.id": agent_id} if agent_id is not None else {}),
            **({"gen_ai.tool.call.arguments": _text(arguments)} if self._content else {}),
        }
        with self._span(f"execute_tool {tool}", SpanKind.INTERNAL, attributes, self._working.get(agent_id or "")):
            yield

    def ended(self, query: Query, seconds: float | None) -> None:
        """A query came to its end, after so many seconds of work."""
        used = query.usage or {}
        tokens, usd = used.get("tokens"), used.get("usd")
        spent = self.spent.setdefault((query.agent_type, query.status), Spent())
        spent.queries += 1
        spent.seconds += seconds or 0.0
        labels = {"gen_ai.operation.name": "invoke_agent", "quarterdeck.agent.type": query.agent_type}
        if query.model is not None:
            labels["gen_ai.response.model"] = query.model
        failed = {} if query.status == "completed" else {"error.type": query.status}
        if seconds is not None:
            self._durations.record(seconds, {**labels, **failed})
        if tokens is not None:
            spent.tokens = (spent.tokens or 0.0) + tokens
            self._tokens.add(tokens, labels)
        if usd is not None:
            spent.usd = (spent.usd or 0.0) + usd
            self._cost.add(usd, labels)

    def paused(self, level: str) -> None:
        """A pause took effect."""
        self.pauses[level] += 1
        self._pauses.add(1, {"quarterdeck.pause.level": level})

    def reaped(self) -> None:
        """What was left of an agent of a dead server is gone."""
        self.orphans += 1
        self._orphans.add(1)

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Any], context: Context | None = None
    ) -> Generator[Span]:
        """A span that tells the kind of a failure and not its text, which may quote content."""
        with self._tracer.start_as_current_span(
            name, context, kind, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as exc:
                span.set_attribute("error.type", exc.code if isinstance(exc, DeckError) else type(exc).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def _messages(self, name: str, role: str, content: Json) -> dict[str, str]:
        if not self._content or content is None:
            return {}
        text = content if isinstance(content, str) else _text(content)
        return {name: _text([{"role": role, "parts": [{"type": "text", "content": text}]}])}


def _about(agent: Agent, operation: str) -> dict[str, str]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.agent.id": agent.id,
        "gen_ai.agent.name": agent.name,
        "gen_ai.provider.name": f"quarterdeck.{agent.runner}",
        "quarterdeck.agent.type": agent.type,
    }


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
