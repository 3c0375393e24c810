"""Where spans and metrics go: to a collector that the settings name, over OTLP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from .config import Settings, SettingsError

if TYPE_CHECKING:  # the SDK is an extra, and most sessions have no use for it
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

PATIENCE = 3.0  # seconds for a collector to take something


@asynccontextmanager
async def telemetry(settings: Settings) -> AsyncGenerator[None]:
    """Export while the block runs, if the settings say so. Whatever else they say is said by OpenTelemetry's own
    variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, …).

    Raises:
        SettingsError: the packages for it are not installed.
    """
    url = settings.telemetry_url
    if url is None:
        yield
        return
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as exc:
        raise SettingsError(f"QUARTERDECK_TELEMETRY_URL: {exc}: pip install 'quarterdeck[telemetry]'") from exc
    resource = Resource.create({"service.name": "quarterdeck", "service.version": version("quarterdeck")})
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces", timeout=PATIENCE)))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/v1/metrics", timeout=PATIENCE))
    measuring = MeterProvider([reader], resource, shutdown_on_exit=False)
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(measuring)
    try:
        yield
    finally:
        await asyncio.to_thread(_end, tracing, measuring)


def _end(tracing: TracerProvider, measuring: MeterProvider) -> None:
    """Send what is left."""
    tracing.shutdown()
    measuring.shutdown(PATIENCE * 1000)
