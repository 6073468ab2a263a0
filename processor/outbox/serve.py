"""Put a relay together from settings, and run it until it is told to stop."""

from __future__ import annotations

import os
import socket
import time

from prometheus_client import CollectorRegistry, Counter, Gauge

from processor.adapters.health import HealthServer
from processor.adapters.logs import configure_logging, worker_logger
from processor.engine.telemetry import Check, Health
from processor.outbox.relay import Relay
from processor.outbox.rows import Backlog, open_rows
from processor.settings import Settings
from processor.stopping import end_in_time
from processor.tracing import flush, log_fields_of, tracing_of

LOOP_SECONDS_MAX = 60.0
READY_SECONDS_MAX = 30.0  # Without an acknowledgement while rows are sent, or without a database.


def serve(
    settings: Settings, url: str, *, once: bool, poll_seconds: float, metrics_port: int | None
) -> None:
    """Relay until a signal; a second one ends the process at once."""
    tracing = tracing_of(settings, service="processor-outbox-relay")
    configure_logging(settings.log, secrets=settings.secrets(), more=log_fields_of(tracing))
    registry = CollectorRegistry()
    relayed = Counter("processor_outbox_relayed_total", "Jobs brought to Kafka.", ("topic",),
                      registry=registry)  # fmt: skip
    waiting = Gauge("processor_outbox_rows", "Rows that wait in the outbox.", registry=registry)
    oldest = Gauge("processor_outbox_oldest_seconds", "How long the oldest row waits; 0: none.",
                   registry=registry)  # fmt: skip

    def tell(backlog: Backlog) -> None:
        waiting.set(backlog.rows)
        oldest.set(backlog.oldest_seconds)

    logger = worker_logger(f"{socket.gethostname()}-{os.getpid()}")
    relay = Relay(
        open_rows(url, existing=True),
        settings.kafka,
        logger=logger,
        relayed=lambda topic, count: relayed.labels(topic).inc(count),
        backlog=tell,
        poll_seconds=poll_seconds,
        tracing=tracing,
    )

    end_in_time(relay.stop, seconds=settings.worker.shutdown_seconds)
    server = None
    if metrics_port is not None:
        server = HealthServer(registry, lambda: _health(relay), port=metrics_port,
                              host=settings.worker.metrics_host)  # fmt: skip
        server.start()
        logger.info("probes and metrics answer", url=server.url)
    logger.info("relay starting")
    try:
        relay.run(once=once)
    finally:
        if server is not None:
            server.stop()
        flush()
    logger.info("relay stopped")


def _health(relay: Relay) -> Health:
    now, since = time.monotonic(), relay.waits_since
    idle = now - relay.turned_at
    return Health(
        (Check("loop", idle < LOOP_SECONDS_MAX, f"turned {idle:.1f} s ago"),),
        ready=since is None or now - since < READY_SECONDS_MAX,
    )
