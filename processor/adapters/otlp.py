"""Where spans go: to an OTLP collector, as the standard OTEL_* variables of the environment say.

A thread of the SDK's own sends them in batches. What its queue has no room for is dropped with a
warning, and so is what the collector does not take in time: no job waits for it, or fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from processor.errors import UsageError

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL = "http/protobuf"


def provider_in_force() -> trace.TracerProvider | None:
    """The provider that the application itself has set up, if it has."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def made_provider(
    *, service: str, instance: str | None = None, sample_ratio: float | None = None
) -> TracerProvider:
    """Make a provider that exports. UsageError: the environment asks for what cannot be done.

    `service` and `instance` name the process where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    do not. Without a ratio OTEL_TRACES_SAMPLER decides, and else everything is kept.
    """
    _check_environment()
    names = {"service.name": service}
    if instance is not None:
        names["service.instance.id"] = instance
    resource = Resource.create(names).merge(OTELResourceDetector().detect())
    sampler = None if sample_ratio is None else ParentBased(TraceIdRatioBased(sample_ratio))
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Give a call of the SDK so long: its own limits are longer. Returns whether it has ended."""
    thread = threading.Thread(target=call, name="processor-tracing-flush", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    return not thread.is_alive()


def _check_environment() -> None:
    named = next((name for name in _PROTOCOLS if os.environ.get(name)), None)
    if named is not None and os.environ[named] != PROTOCOL:
        raise UsageError(
            f"{named} is `{os.environ[named]}`; traces are sent as {PROTOCOL}",
            hint=f"set {_PROTOCOLS[0]}={PROTOCOL}, and {_ENDPOINTS[0]} to the collector's port for"
            " HTTP, such as http://collector:4318/v1/traces",
        )
    for name in _ENDPOINTS:
        endpoint = os.environ.get(name) or "http://"
        if not endpoint.startswith(("http://", "https://")):
            raise UsageError(
                f"{name} is `{endpoint}`, which is no URL", hint="write it as http://collector:4318"
            )
