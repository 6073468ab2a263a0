"""Prometheus metrics: the one place that knows their names, and what each one says.

Labels are few and bounded: a topic is declared, and what comes from records (job types, error
classes) is counted under `other` once there are too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

import processor
from processor.adapters.histogram import BulkHistogram
from processor.engine.telemetry import Change, CommitResult, Outage, Outcome, Telemetry

DISTINCT_MAX: Final = 200  # Values of one label that come from records; later ones are `other`.

_JOB_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_WAIT_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_DRAIN_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)

_Wrapper = TypeVar("_Wrapper", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's name, kind, sentence and labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    sentence: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


RECORDS_CONSUMED = Definition(
    "processor_records_consumed_total",
    "counter",
    "Records that came in from Kafka, markers and repeats included.",
    ("topic",),
)
JOBS_SETTLED = Definition(
    "processor_jobs_settled_total",
    "counter",
    "Records that reached a final or parked state: done, retried, parked, held, dead or repeated.",
    ("topic", "job_type", "outcome"),
)
ATTEMPTS_FAILED = Definition(
    "processor_attempts_failed_total",
    "counter",
    "Attempts that ended in a failure, whatever became of the job.",
    ("topic", "error_class"),
)
JOB_SECONDS = Definition(
    "processor_job_seconds",
    "histogram",
    "How long a handler ran.",
    ("topic", "job_type"),
    _JOB_BUCKETS,
)
JOB_WAIT_SECONDS = Definition(
    "processor_job_wait_seconds",
    "histogram",
    "How long the first record of a slice waited between being due and being started.",
    ("topic",),
    _WAIT_BUCKETS,
)
IN_FLIGHT = Definition(
    "processor_in_flight", "gauge", "Jobs that are with a handler now.", ("topic",)
)
LANE_RECORDS = Definition(
    "processor_lane_records",
    "gauge",
    "Records in lanes now, running ones included; tiers count under their own topics.",
    ("topic",),
)
LANE_BYTES = Definition(
    "processor_lane_bytes",
    "gauge",
    "About how much memory records in lanes take; `worker.memory_max` bounds it.",
    ("topic",),
)
PARTITIONS_OWNED = Definition(
    "processor_partitions_owned", "gauge", "Partitions this worker owns now.", ("topic",)
)
PARTITIONS_PAUSED = Definition(
    "processor_partitions_paused",
    "gauge",
    "Partitions that are paused now since they are full; tiers count under their own topics.",
    ("topic",),
)
PARKED_RECORDS = Definition(
    "processor_parked_records",
    "gauge",
    "Records with a key that wait in the topic's retry tiers now, fetched or not.",
    ("topic",),
)
PARKED_KEYS = Definition(
    "processor_parked_keys",
    "gauge",
    "Keys with records in the topic's retry tiers now: their later jobs wait behind these.",
    ("topic",),
)
PARKED_OLDEST_SECONDS = Definition(
    "processor_parked_oldest_seconds",
    "gauge",
    "How long ago the oldest job in the topic's retry tiers came to the topic; 0 when none is.",
    ("topic",),
)
HELD_KEYS = Definition(
    "processor_held_keys",
    "gauge",
    "Keys that are closed since a job of theirs died (dead-letter policy `hold`).",
    ("topic",),
)
PARTITION_STALLED_SECONDS = Definition(
    "processor_partition_stalled_seconds",
    "gauge",
    "How long the topic's slowest partition has had work and made no progress; 0 when none has.",
    ("topic",),
)
COMMITS = Definition(
    "processor_commits_total",
    "counter",
    "Offset commits: done, refused by the coordinator, or failed without an answer.",
    ("result",),
)
COMMIT_AGE_SECONDS = Definition(
    "processor_commit_age_seconds",
    "gauge",
    "How long the oldest settled but uncommitted record has waited, to a second; 0: there is none.",
)
REBALANCES = Definition(
    "processor_rebalances_total",
    "counter",
    "Changes of ownership: assigned, revoked or lost.",
    ("kind",),
)
DRAIN_SECONDS = Definition(
    "processor_drain_seconds",
    "histogram",
    "How long a revoke or a stop waited for running jobs.",
    (),
    _DRAIN_BUCKETS,
)
OUTAGE_PAUSES = Definition(
    "processor_outage_pauses_total",
    "counter",
    "How often the broker, registry, store or sink was found away, and what needed it waited.",
    ("what",),
)
PRODUCE_ERRORS = Definition(
    "processor_produce_errors_total",
    "counter",
    "Appends that failed: their partition was given up and taken again.",
    ("topic",),
)
LATE_RESULTS = Definition(
    "processor_late_results_total",
    "counter",
    "Results dropped because their assignment had ended.",
    ("topic",),
)
IDEMPOTENCY_CONFLICTS = Definition(
    "processor_idempotency_conflicts_total",
    "counter",
    "Jobs not run whose idempotency key was used before, for another payload.",
    ("job_type",),
)
LEDGER_PRUNED = Definition(
    "processor_ledger_pruned_total",
    "counter",
    "Rows of the ledger forgotten since their jobs cannot come again.",
)
BUILD = Definition("processor_build", "gauge", "Always 1; the label is the version.", ("version",))

CATALOGUE: Final = (
    RECORDS_CONSUMED,
    JOBS_SETTLED,
    ATTEMPTS_FAILED,
    JOB_SECONDS,
    JOB_WAIT_SECONDS,
    IN_FLIGHT,
    LANE_BYTES,
    LANE_RECORDS,
    PARTITIONS_OWNED,
    PARTITIONS_PAUSED,
    PARKED_RECORDS,
    PARKED_KEYS,
    PARKED_OLDEST_SECONDS,
    HELD_KEYS,
    PARTITION_STALLED_SECONDS,
    COMMITS,
    COMMIT_AGE_SECONDS,
    REBALANCES,
    DRAIN_SECONDS,
    OUTAGE_PAUSES,
    PRODUCE_ERRORS,
    LATE_RESULTS,
    IDEMPOTENCY_CONFLICTS,
    LEDGER_PRUNED,
    BUILD,
)


class Bounded:
    """Passes the first `DISTINCT_MAX` values of a label and calls all later ones `other`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value, or `other` when it is new and there are too many already."""
        if value not in self._seen:
            if len(self._seen) >= DISTINCT_MAX:
                return "other"
            self._seen.add(value)
        return value


class Metrics(Telemetry):
    """Counts what the engine tells, in a registry of its own. Safe to read from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._job_type = Bounded()
        self._error_class = Bounded()
        self._children: dict[tuple[Any, ...], Any] = {}
        self._consumed = self._made(Counter, RECORDS_CONSUMED)
        self._settled = self._made(Counter, JOBS_SETTLED)
        self._attempts_failed = self._made(Counter, ATTEMPTS_FAILED)
        self._job_seconds = BulkHistogram(
            JOB_SECONDS.name,
            JOB_SECONDS.sentence,
            JOB_SECONDS.labels,
            bounds=JOB_SECONDS.buckets,
            registry=self.registry,
        )
        self._wait_seconds = self._histogram(JOB_WAIT_SECONDS)
        self._in_flight = self._made(Gauge, IN_FLIGHT)
        self._lane_records = self._made(Gauge, LANE_RECORDS)
        self._lane_bytes = self._made(Gauge, LANE_BYTES)
        self._partitions_owned = self._made(Gauge, PARTITIONS_OWNED)
        self._partitions_paused = self._made(Gauge, PARTITIONS_PAUSED)
        self._parked_records = self._made(Gauge, PARKED_RECORDS)
        self._parked_keys = self._made(Gauge, PARKED_KEYS)
        self._parked_oldest_seconds = self._made(Gauge, PARKED_OLDEST_SECONDS)
        self._held_keys = self._made(Gauge, HELD_KEYS)
        self._stalled_seconds = self._made(Gauge, PARTITION_STALLED_SECONDS)
        self._commits = self._made(Counter, COMMITS)
        self._commit_age_seconds = self._made(Gauge, COMMIT_AGE_SECONDS)
        self._rebalances = self._made(Counter, REBALANCES)
        self._drain_seconds = self._histogram(DRAIN_SECONDS)
        self._outages = self._made(Counter, OUTAGE_PAUSES)
        self._produce_errors = self._made(Counter, PRODUCE_ERRORS)
        self._late_results = self._made(Counter, LATE_RESULTS)
        self._conflicts = self._made(Counter, IDEMPOTENCY_CONFLICTS)
        self._pruned = self._made(Counter, LEDGER_PRUNED)
        self._made(Gauge, BUILD).labels(processor.__version__).set(1)

    def consumed(self, topic: str, count: int) -> None:
        """Count records that came in."""
        self._child(self._consumed, topic).inc(count)

    def settled(self, topic: str, job_type: str, outcome: Outcome, count: int = 1) -> None:
        """Count settled records."""
        self._child(self._settled, topic, self._job_type(job_type), outcome).inc(count)

    def attempts_failed(self, topic: str, error_class: str, count: int = 1) -> None:
        """Count failed attempts."""
        self._attempts_failed.labels(topic, self._error_class(error_class)).inc(count)

    def ran(self, topic: str, job_type: str, seconds: Sequence[float]) -> None:
        """Observe each handler's running time."""
        self._job_seconds.observe_all((topic, self._job_type(job_type)), seconds)

    def waited(self, topic: str, seconds: float) -> None:
        """Observe a slice's waiting time."""
        # Clocks differ.
        self._child(self._wait_seconds, topic).observe(max(0.0, seconds))

    def in_flight(self, topic: str, count: int) -> None:
        """Show the jobs that run."""
        self._in_flight.labels(topic).set(count)

    def lane_records(self, topic: str, count: int) -> None:
        """Show the records in lanes."""
        self._lane_records.labels(topic).set(count)

    def lane_bytes(self, topic: str, count: int) -> None:
        """Show what the records in lanes take."""
        self._lane_bytes.labels(topic).set(count)

    def partitions_owned(self, topic: str, count: int) -> None:
        """Show the partitions owned."""
        self._partitions_owned.labels(topic).set(count)

    def partitions_paused(self, topic: str, count: int) -> None:
        """Show the partitions paused."""
        self._partitions_paused.labels(topic).set(count)

    def parked(self, topic: str, *, records: int, keys: int, oldest_seconds: float) -> None:
        """Show what waits in the tiers."""
        self._parked_records.labels(topic).set(records)
        self._parked_keys.labels(topic).set(keys)
        self._parked_oldest_seconds.labels(topic).set(oldest_seconds)

    def held_keys(self, topic: str, count: int) -> None:
        """Show the closed keys."""
        self._held_keys.labels(topic).set(count)

    def partition_stalled(self, topic: str, seconds: float) -> None:
        """Show the longest stall."""
        self._stalled_seconds.labels(topic).set(seconds)

    def committed(self, result: CommitResult, count: int = 1) -> None:
        """Count commits."""
        self._commits.labels(result).inc(count)

    def commit_age(self, seconds: float) -> None:
        """Show the age of what waits for a commit."""
        self._commit_age_seconds.set(seconds)

    def rebalanced(self, change: Change) -> None:
        """Count a change of ownership."""
        self._rebalances.labels(change).inc()

    def drained(self, seconds: float) -> None:
        """Observe a drain."""
        self._drain_seconds.observe(seconds)

    def outage(self, what: Outage) -> None:
        """Count an outage each time it is found."""
        self._outages.labels(what).inc()

    def produce_failed(self, topic: str, count: int = 1) -> None:
        """Count appends that failed."""
        self._produce_errors.labels(topic).inc(count)

    def late_results(self, topic: str, count: int = 1) -> None:
        """Count dropped results."""
        self._late_results.labels(topic).inc(count)

    def idempotency_conflict(self, job_type: str) -> None:
        """Count a job that was not run."""
        self._conflicts.labels(job_type).inc()

    def ledger_pruned(self, count: int) -> None:
        """Count rows that were forgotten."""
        self._pruned.inc(count)

    def _made(self, kind: type[_Wrapper], metric: Definition) -> _Wrapper:
        return kind(metric.name, metric.sentence, metric.labels, registry=self.registry)

    def _child(self, metric: _Wrapper, *labels: str) -> _Wrapper:
        """What `labels` gives, kept: the client library looks it up under a lock each time."""
        found = self._children.get((metric, *labels))
        if found is None:
            found = self._children[metric, *labels] = metric.labels(*labels)
        return found

    def _histogram(self, metric: Definition) -> Histogram:
        return Histogram(
            metric.name,
            metric.sentence,
            metric.labels,
            registry=self.registry,
            buckets=metric.buckets,
        )
