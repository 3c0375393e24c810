"""GET /metrics: what the deck knows of itself, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from quarterdeck.tools.contract import NoClient

from ..deck import Deck


class _Snapshot(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


async def metrics_answer(deck: Deck) -> Response:
    registry = CollectorRegistry()
    registry.register(_Snapshot([*await _state(deck), *_calls(deck), *_work(deck)]))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _state(deck: Deck) -> list[Metric]:
    now = (await deck.tools["server_status"].answer({}, NoClient()))["performance"]
    build = GaugeMetricFamily("quarterdeck_build_info", "The program", labels=["version"])
    build.add_metric([version("quarterdeck")], 1)
    queries = GaugeMetricFamily("quarterdeck_queries", "Queries in the data directory", labels=["status"])
    for status, count in now["queries"].items():
        queries.add_metric([status], count)
    alive = GaugeMetricFamily("quarterdeck_agents_alive", "Live agents of this server", value=now["agentsAlive"])
    return [build, queries, alive]


def _calls(deck: Deck) -> list[Metric]:
    calls = SummaryMetricFamily("quarterdeck_tool_call_seconds", "Calls of tools by clients", labels=["tool"])
    errors = CounterMetricFamily("quarterdeck_tool_call_errors", "Those that were refused", labels=["tool"])
    for tool, figures in deck.meter.figures.items():
        calls.add_metric([tool], count_value=figures.calls, sum_value=figures.seconds)
        errors.add_metric([tool], figures.errors)
    return [calls, errors]


def _work(deck: Deck) -> list[Metric]:
    labels = ["agent_type", "status"]
    work = SummaryMetricFamily("quarterdeck_query_seconds", "Ended queries, pauses left out", labels=labels)
    tokens = CounterMetricFamily("quarterdeck_query_tokens", "What they used", labels=labels)
    usd = CounterMetricFamily("quarterdeck_query_cost_usd", "What they cost", labels=labels)
    for key, spent in deck.telemetry.spent.items():
        work.add_metric(key, count_value=spent.queries, sum_value=spent.seconds)
        if spent.tokens is not None:
            tokens.add_metric(key, spent.tokens)
        if spent.usd is not None:
            usd.add_metric(key, spent.usd)
    pauses = CounterMetricFamily("quarterdeck_query_pauses", "Pauses that took effect", labels=["level"])
    for level, count in deck.telemetry.pauses.items():
        pauses.add_metric([level], count)
    orphans = CounterMetricFamily(
        "quarterdeck_orphans_reaped", "Agents of dead servers that were cleared up", value=deck.telemetry.orphans
    )
    return [work, tokens, usd, pauses, orphans]
