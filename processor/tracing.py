"""Tracing as the settings have it: none, or OpenTelemetry (docs/tracing.md).

OpenTelemetry is imported only where tracing is on.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import threading
from typing import TYPE_CHECKING

from processor.errors import UsageError
from processor.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from structlog.typing import Processor

    from processor.adapters.tracing import OpenTelemetry

FLUSH_SECONDS_MAX = 2.0  # What a client that closes waits for a collector that does not answer.

_made: TracerProvider | None = None
_making = threading.Lock()
_gave_up = False  # The collector did not answer the last flush: at exit it is not waited for again.


def tracing_of(
    settings: Settings, *, service: str, instance: str | None = None, group: str | None = None
) -> OpenTelemetry | None:
    """What traces in this process; None: tracing is off. UsageError: it cannot be on.

    Where the application has set OpenTelemetry up itself, spans go its way. Else they go to the
    collector that the environment names, for all that trace in this process: the first one's names
    and sample ratio count. With `group` (a worker's) handlers and libraries find the same provider.
    """
    global _made
    if not settings.tracing.enabled:
        return None
    try:
        from opentelemetry import trace

        from processor.adapters.otlp import made_provider, provider_in_force
        from processor.adapters.tracing import OpenTelemetry
    except ModuleNotFoundError as fault:
        raise UsageError(
            f"tracing is on, and its package {fault.name} is not installed",
            hint="pip install '/path/to/processor[tracing]', or set tracing.enabled to false",
        ) from None
    with _making:
        provider = provider_in_force() or _made
        if provider is None:
            ratio = settings.tracing.sample_ratio
            provider = made_provider(service=service, instance=instance, sample_ratio=ratio)
            atexit.register(_flush_at_exit)
        _made = provider
        if group is not None and provider_in_force() is None:
            trace.set_tracer_provider(provider)
    return OpenTelemetry(provider, version=importlib.metadata.version("processor"), group=group)


def log_fields_of(tracing: OpenTelemetry | None) -> list[Processor]:
    """What gives log lines the ids of the current span, where there is tracing."""
    if tracing is None:
        return []
    from processor.adapters.tracing import add_trace_ids

    return [add_trace_ids]


def flush(seconds: float = FLUSH_SECONDS_MAX) -> bool:
    """Send what waits to be sent, for so long at most. Returns whether that was enough."""
    global _gave_up
    force_flush = getattr(_made, "force_flush", None)
    if force_flush is None:
        return True  # Nothing is traced, or by a provider that is not the SDK's.
    from processor.adapters.otlp import within

    _gave_up = not within(seconds, force_flush)
    return not _gave_up


def _flush_at_exit() -> None:
    if not _gave_up:
        flush()
