"""Where spans go, as the environment says, and what a collector that does not answer costs."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ParentBased

from processor.adapters.otlp import made_provider, within
from processor.errors import UsageError
from processor.settings import Settings, TracingSettings
from processor.tracing import tracing_of
from tests.acceptance.otlp_receiver import receiving


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("PROTOCOL", "ENDPOINT", "TRACES_PROTOCOL", "TRACES_ENDPOINT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    return monkeypatch


def sampler(provider: Any) -> str:
    return str(provider.sampler.get_description())


def test_spans_come_to_the_collector_that_the_environment_names(environment: Any):
    with receiving() as receiver:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        environment.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        provider = made_provider(service="billing", instance="w-1")
        provider.get_tracer("t").start_span("one").end()

        assert within(10.0, provider.force_flush)
        assert [(each.name, each.service) for each in receiver.spans] == [("one", "billing")]
        provider.shutdown()


def test_service_that_the_environment_names_is_the_process_s(environment: Any):
    environment.setenv("OTEL_SERVICE_NAME", "shop")
    environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")

    attributes = made_provider(service="billing", instance="w-1").resource.attributes

    assert attributes["service.name"] == "shop"
    assert attributes["service.instance.id"] == "w-1"
    assert attributes["deployment.environment.name"] == "test"


def test_ratio_is_of_traces_that_begin_here(environment: Any):
    provider = made_provider(service="s", sample_ratio=0.25)

    assert isinstance(provider.sampler, ParentBased)
    assert "TraceIdRatioBased{0.25}" in sampler(provider)


def test_without_a_ratio_the_environment_s_sampler_decides(environment: Any):
    environment.setenv("OTEL_TRACES_SAMPLER", "always_off")

    assert sampler(made_provider(service="s")) == "AlwaysOffSampler"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PROTOCOL", "grpc", "is `grpc`; traces are sent as http/protobuf"),
        ("TRACES_PROTOCOL", "http/json", "is `http/json`"),
        ("ENDPOINT", "collector:4318", "is `collector:4318`, which is no URL"),
    ],
)
def test_what_cannot_be_done_is_refused(environment: Any, name: str, value: str, words: str):
    environment.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)

    with pytest.raises(UsageError, match="OTEL_EXPORTER_OTLP_") as caught:
        made_provider(service="s")

    assert words in caught.value.message


def test_protocol_for_traces_counts_before_the_one_for_all(environment: Any):
    environment.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    environment.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")

    made_provider(service="s")


def test_call_that_takes_too_long_is_not_waited_for():
    release = threading.Event()
    began = time.monotonic()

    ended = within(0.05, release.wait)

    assert not ended
    assert time.monotonic() - began < 5.0
    release.set()


def test_queue_is_bounded_and_what_has_no_room_is_dropped(environment: Any):
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    environment.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    environment.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100")
    tracer = made_provider(service="s").get_tracer("t")
    began = time.monotonic()

    for _ in range(1000):
        tracer.start_span("one").end()

    assert time.monotonic() - began < 5.0  # No end of a span waits for the collector.


def test_tracing_without_its_package_is_refused_with_what_to_install(environment: Any):
    environment.setitem(sys.modules, "opentelemetry", None)
    on = Settings(tracing=TracingSettings(enabled=True))

    with pytest.raises(UsageError, match="its package opentelemetry is not installed") as caught:
        tracing_of(on, service="s")

    assert "processor[tracing]" in (caught.value.hint or "")
    assert tracing_of(Settings(), service="s") is None
