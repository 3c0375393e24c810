"""Spans and metrics of agents, as a collector gets them."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry import metrics, trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from quarterdeck.server.client import DeckClient
from quarterdeck.server.config import Settings
from quarterdeck.server.deck import Deck, open_deck
from quarterdeck.tools.agents.telemetry import SCHEMA_URL
from quarterdeck.tools.contract import NoClient

PROMPT = "# A secret\n\nThe harbour pilot boards every ship."


class Exported:
    """What the SDK of this process was given. A process has one SDK: it is set up once, and emptied for each test."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracing = TracerProvider(shutdown_on_exit=False)
        self.tracing.add_span_processor(SimpleSpanProcessor(self.spans))
        self.measuring = MeterProvider([self.reader], shutdown_on_exit=False)
        trace.set_tracer_provider(self.tracing)
        metrics.set_meter_provider(self.measuring)

    def span(self, name: str) -> ReadableSpan:
        [found] = [span for span in self.spans.get_finished_spans() if span.name == name]
        return found

    def attributes(self, name: str) -> Mapping[str, Any]:
        return self.span(name).attributes or {}

    def everything(self) -> str:
        return "".join(span.to_json() for span in self.spans.get_finished_spans())

    def points(self) -> dict[str, list[Any]]:
        data: Any = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture(scope="module")
def sdk() -> Generator[Exported]:
    exported = Exported()
    yield exported
    exported.tracing.shutdown()
    exported.measuring.shutdown()


@pytest.fixture
def exported(sdk: Exported) -> Exported:
    sdk.spans.clear()
    return sdk


async def call(deck: Deck, tool: str, **arguments: Any) -> Any:
    return await deck.tools[tool].answer(arguments, NoClient())


async def work(deck: Deck, prompt: str = PROMPT) -> str:
    """A query by a new agent, to its end; returns its id."""
    [agent] = (await call(deck, "agents_spawn_parallel", agents=[{"type": "researcher", "name": "reader"}]))["results"]
    query: str = (await call(deck, "query_start", agentId=agent["agentId"], prompt=prompt))["queryId"]
    assert (await call(deck, "query_wait", queryIds=[query], timeout=60))["pending"] == []
    return query


async def test_an_agent_its_work_and_its_calls_are_spans_without_content(exported: Exported, tmp_path: Path) -> None:
    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck:
        query = await work(deck)
    created, invoked = exported.attributes("create_agent reader"), exported.attributes("invoke_agent reader")
    assert created["gen_ai.operation.name"] == "create_agent"
    assert invoked["gen_ai.operation.name"] == "invoke_agent"
    assert invoked["gen_ai.agent.id"] == created["gen_ai.agent.id"]
    assert invoked["gen_ai.conversation.id"] == query
    assert invoked["quarterdeck.usage.cpu_seconds"] >= 0
    assert "quarterdeck.usage.tokens" not in invoked
    span = exported.span("invoke_agent reader")
    context = span.get_span_context()
    assert context is not None
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == SCHEMA_URL
    tools = [one for one in exported.spans.get_finished_spans() if one.name == "execute_tool memory_usage"]
    assert tools, "a researcher keeps what it found"
    for tool in tools:
        assert tool.parent is not None
        assert tool.parent.span_id == context.span_id
    assert "harbour" not in exported.everything()
    points = exported.points()
    [duration] = [
        point
        for point in points["gen_ai.client.operation.duration"]
        if point.attributes["quarterdeck.agent.type"] == "researcher" and "error.type" not in point.attributes
    ]
    assert duration.count == 1


async def test_content_is_there_for_who_asks_for_it(exported: Exported, tmp_path: Path) -> None:
    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[], telemetry_content=True)) as deck:
        await work(deck)
    invoked = exported.attributes("invoke_agent reader")
    assert "harbour pilot" in str(invoked["gen_ai.input.messages"])
    assert "gen_ai.output.messages" in invoked


async def test_a_failure_is_told_by_its_kind_alone(exported: Exported, tmp_path: Path) -> None:
    async with open_deck(Settings(data_dir=tmp_path, upload_roots=[])) as deck:
        await work(deck, '{"do": "a secret that is no capability"}')
        spent = deck.telemetry.spent
    assert exported.attributes("invoke_agent reader")["error.type"] == "WorkError"
    assert "a secret" not in exported.everything()
    assert spent["researcher", "failed"].queries == 1


class Collector:
    """An OTLP receiver on loopback that decodes what it gets with the protocol's own messages."""

    def __init__(self) -> None:
        self.spans: list[str] = []
        self.services: set[str] = set()
        self.metrics: set[str] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[str]:
        app = web.Application()
        app.router.add_post("/v1/traces", self._traces)
        app.router.add_post("/v1/metrics", self._metrics)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _traces(self, request: web.Request) -> web.Response:
        got = ExportTraceServiceRequest.FromString(await _body(request))
        for resource in got.resource_spans:
            self.services |= {
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            }
            self.spans += [span.name for scope in resource.scope_spans for span in scope.spans]
        return web.Response()

    async def _metrics(self, request: web.Request) -> web.Response:
        got = ExportMetricsServiceRequest.FromString(await _body(request))
        self.metrics |= {
            metric.name
            for resource in got.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        return web.Response()


async def _body(request: web.Request) -> bytes:
    body = await request.read()
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


async def test_a_collector_gets_them_from_a_server_on_stdio(tmp_path: Path) -> None:
    collector = Collector()
    agents = [{"type": "researcher", "name": "reader"}]
    async with (
        collector.serving() as url,
        DeckClient(tmp_path, environment={"QUARTERDECK_TELEMETRY_URL": url}) as deck,
    ):
        await deck.call("memory_usage", action="list")
        [agent] = (await deck.call("agents_spawn_parallel", agents=agents))["results"]
        query = await deck.call("query_start", agentId=agent["agentId"], prompt=PROMPT)
        await deck.call("query_wait", queryIds=[query["queryId"]])
        await deck.stop()  # what is left is sent at the end
    assert {"tools/call memory_usage", "create_agent reader", "invoke_agent reader"} <= set(collector.spans)
    assert collector.services == {"quarterdeck"}
    assert {"mcp.server.operation.duration", "gen_ai.client.operation.duration"} <= collector.metrics
