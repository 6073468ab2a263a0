"""Prometheus metrics: counts what the engine tells, under the names of metric_catalogue.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

import processor
from processor.adapters import metric_catalogue as catalogue
from processor.adapters.histogram import BulkHistogram
from processor.adapters.memory_limit import memory_limit
from processor.adapters.metric_catalogue import DISTINCT_MAX, Definition
from processor.engine.telemetry import Change, CommitResult, Outage, Outcome, Telemetry

_Wrapper = TypeVar("_Wrapper", bound=MetricWrapperBase)


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
        self._consumed = self._made(Counter, catalogue.RECORDS_CONSUMED)
        self._settled = self._made(Counter, catalogue.JOBS_SETTLED)
        self._attempts_failed = self._made(Counter, catalogue.ATTEMPTS_FAILED)
        self._job_seconds = self._bulk_histogram(catalogue.JOB_SECONDS)
        self._job_attempts = self._bulk_histogram(catalogue.JOB_ATTEMPTS)
        self._wait_seconds = self._histogram(catalogue.JOB_WAIT_SECONDS)
        self._ledger_seconds = self._histogram(catalogue.LEDGER_SECONDS)
        self._sink_seconds = self._histogram(catalogue.SINK_SECONDS)
        self._lag = self._made(Gauge, catalogue.LAG_RECORDS)
        self._runnable_lag = self._made(Gauge, catalogue.RUNNABLE_LAG_RECORDS)
        self._oldest_seconds = self._made(Gauge, catalogue.OLDEST_SECONDS)
        self._in_flight = self._made(Gauge, catalogue.IN_FLIGHT)
        self._lane_records = self._made(Gauge, catalogue.LANE_RECORDS)
        self._lane_bytes = self._made(Gauge, catalogue.LANE_BYTES)
        self._memory_budget = self._made(Gauge, catalogue.MEMORY_BUDGET_BYTES)
        self._made(Gauge, catalogue.MEMORY_LIMIT_BYTES).set_function(memory_limit)
        self._partitions_declared = self._made(Gauge, catalogue.PARTITIONS_DECLARED)
        self._partitions_owned = self._made(Gauge, catalogue.PARTITIONS_OWNED)
        self._partitions_paused = self._made(Gauge, catalogue.PARTITIONS_PAUSED)
        self._in_outage = self._made(Gauge, catalogue.PARTITIONS_IN_OUTAGE)
        self._parked_records = self._made(Gauge, catalogue.PARKED_RECORDS)
        self._parked_keys = self._made(Gauge, catalogue.PARKED_KEYS)
        self._parked_oldest_seconds = self._made(Gauge, catalogue.PARKED_OLDEST_SECONDS)
        self._held_keys = self._made(Gauge, catalogue.HELD_KEYS)
        self._stalled_seconds = self._made(Gauge, catalogue.PARTITION_STALLED_SECONDS)
        self._commits = self._made(Counter, catalogue.COMMITS)
        self._uncommitted_since: float | None = None  # Monotonic seconds.
        self._made(Gauge, catalogue.COMMIT_AGE_SECONDS).set_function(self._commit_age)
        self._rebalances = self._made(Counter, catalogue.REBALANCES)
        self._drain_seconds = self._histogram(catalogue.DRAIN_SECONDS)
        self._outages = self._made(Counter, catalogue.OUTAGE_PAUSES)
        self._produce_errors = self._made(Counter, catalogue.PRODUCE_ERRORS)
        self._late_results = self._made(Counter, catalogue.LATE_RESULTS)
        self._conflicts = self._made(Counter, catalogue.IDEMPOTENCY_CONFLICTS)
        self._pruned = self._made(Counter, catalogue.LEDGER_PRUNED)
        self._made(Gauge, catalogue.BUILD).labels(processor.__version__).set(1)
        for what in get_args(Outage):
            self._outages.labels(what)
        for result in get_args(CommitResult):
            self._commits.labels(result)
        for change in get_args(Change):
            self._rebalances.labels(change)

    def expect(self, topic: str, job_types: Iterable[str], *, partitions: int) -> None:
        """Show a topic's counts as 0 from the start: a rate sees no count that begins above it."""
        self._partitions_declared.labels(topic).set(partitions)
        for counter in (self._consumed, self._produce_errors, self._late_results):
            counter.labels(topic)
        self._wait_seconds.labels(topic)
        self._job_attempts.expect((topic,))
        for job_type in job_types:
            self._job_seconds.expect((topic, self._job_type(job_type)))
        for job_type in (*job_types, "unknown"):  # As what cannot be decoded is counted.
            for outcome in get_args(Outcome):
                self._settled.labels(topic, self._job_type(job_type), outcome)

    def memory_budget(self, count: int) -> None:
        """Show how many bytes records in lanes may take."""
        self._memory_budget.set(count)

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

    def ended(self, topic: str, attempts: int, count: int = 1) -> None:
        """Observe the attempts of jobs that came to their end."""
        self._job_attempts.observe_same((topic,), attempts, count)

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

    def lag(self, topic: str, records: int) -> None:
        """Show what is not settled."""
        self._lag.labels(topic).set(records)

    def runnable_lag(self, topic: str, records: int) -> None:
        """Show what could run."""
        self._runnable_lag.labels(topic).set(records)

    def oldest(self, topic: str, seconds: float) -> None:
        """Show the age of the oldest job."""
        self._oldest_seconds.labels(topic).set(seconds)

    def in_outage(self, topic: str, partitions: int) -> None:
        """Show the partitions that an outage pauses."""
        self._in_outage.labels(topic).set(partitions)

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

    def commit_age(self, seconds: float | None) -> None:
        """Show the age of what waits for a commit: it grows on while the loop hangs in one."""
        self._uncommitted_since = None if seconds is None else time.monotonic() - seconds

    def rebalanced(self, change: Change) -> None:
        """Count a change of ownership."""
        self._rebalances.labels(change).inc()

    def drained(self, seconds: float) -> None:
        """Observe a drain."""
        self._drain_seconds.observe(seconds)

    def outage(self, what: Outage) -> None:
        """Count an outage each time it is found."""
        self._outages.labels(what).inc()

    def ledger_took(self, call: str, seconds: float) -> None:
        """Observe a call of the ledger."""
        self._child(self._ledger_seconds, call).observe(seconds)

    def sink_took(self, sink: str, seconds: float) -> None:
        """Observe a sink's write."""
        self._child(self._sink_seconds, sink).observe(seconds)

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

    def _commit_age(self) -> float:
        since = self._uncommitted_since
        return 0.0 if since is None else max(0.0, time.monotonic() - since)

    def _made(self, kind: type[_Wrapper], metric: Definition) -> _Wrapper:
        return kind(metric.name, metric.sentence, metric.labels, registry=self.registry)

    def _child(self, metric: _Wrapper, *labels: str) -> _Wrapper:
        """What `labels` gives, kept: the client library looks it up under a lock each time."""
        found = self._children.get((metric, *labels))
        if found is None:
            found = self._children[metric, *labels] = metric.labels(*labels)
        return found

    def _bulk_histogram(self, metric: Definition) -> BulkHistogram:
        return BulkHistogram(
            metric.name,
            metric.sentence,
            metric.labels,
            bounds=metric.buckets,
            registry=self.registry,
        )

    def _histogram(self, metric: Definition) -> Histogram:
        return Histogram(
            metric.name,
            metric.sentence,
            metric.labels,
            registry=self.registry,
            buckets=metric.buckets,
        )
