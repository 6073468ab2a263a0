"""Every metric's name, kind, sentence and labels: the one place that knows them.

docs/metrics.md is made from it. Labels are few and bounded: a topic is declared, and what comes
from records (job types, error classes) is counted under `other` once there are too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DISTINCT_MAX: Final = 200  # Values of one label that come from records; later ones are `other`.

_JOB_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_WAIT_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_ATTEMPT_BUCKETS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
_CALL_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0)
_DRAIN_BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)


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
    "Attempts that ended in a failure, whatever became of the job; `topic` is its main topic.",
    ("topic", "error_class"),
)
JOB_ATTEMPTS = Definition(
    "processor_job_attempts",
    "histogram",
    "After how many attempts a job was done, or died.",
    ("topic",),
    _ATTEMPT_BUCKETS,
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
LEDGER_SECONDS = Definition(
    "processor_ledger_seconds",
    "histogram",
    "How long a call of the ledger took, failed ones included; none without a ledger.",
    ("call",),
    _CALL_BUCKETS,
)
SINK_SECONDS = Definition(
    "processor_sink_seconds",
    "histogram",
    "How long a sink took to write a slice's results, failed writes included.",
    ("sink",),
    _CALL_BUCKETS,
)
LAG_RECORDS = Definition(
    "processor_lag_records",
    "gauge",
    "Records of this worker's partitions that are not settled, fetched or not; tiers count under"
    " their own topics.",
    ("topic",),
)
RUNNABLE_LAG_RECORDS = Definition(
    "processor_runnable_lag_records",
    "gauge",
    "Of the topic and its tiers, the records that more workers would settle sooner: what is held,"
    " delayed or paused by an outage is left out.",
    ("topic",),
)
OLDEST_SECONDS = Definition(
    "processor_oldest_seconds",
    "gauge",
    "How long ago the oldest job on the main topic that is not settled came; 0 when none is.",
    ("topic",),
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
MEMORY_BUDGET_BYTES = Definition(
    "processor_memory_budget_bytes",
    "gauge",
    "How much memory records in lanes may take: `worker.memory_max` less the client's own queue.",
)
MEMORY_LIMIT_BYTES = Definition(
    "processor_memory_limit_bytes",
    "gauge",
    "How much memory the process may take: the least of control group, `ulimit -m`, and machine.",
)
PARTITIONS_DECLARED = Definition(
    "processor_partitions_declared",
    "gauge",
    "Partitions that the topic's file declares, the same for every worker.",
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
PARTITIONS_IN_OUTAGE = Definition(
    "processor_partitions_in_outage",
    "gauge",
    "Partitions that wait since broker, registry, store, keys, ledger or a sink is away.",
    ("topic",),
)
PARKED_RECORDS = Definition(
    "processor_parked_records",
    "gauge",
    "Records with a key that wait in the topic's retry tiers now, fetched or not, or in their lane "
    "to be tried again in a moment.",
    ("topic",),
)
PARKED_KEYS = Definition(
    "processor_parked_keys",
    "gauge",
    "Keys with such records now: their later jobs wait behind these.",
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
    "How often broker, registry, store, keys or sink was found away, and what needed it waited.",
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
    JOB_ATTEMPTS,
    JOB_SECONDS,
    JOB_WAIT_SECONDS,
    LEDGER_SECONDS,
    SINK_SECONDS,
    LAG_RECORDS,
    RUNNABLE_LAG_RECORDS,
    OLDEST_SECONDS,
    IN_FLIGHT,
    LANE_RECORDS,
    LANE_BYTES,
    MEMORY_BUDGET_BYTES,
    MEMORY_LIMIT_BYTES,
    PARTITIONS_DECLARED,
    PARTITIONS_OWNED,
    PARTITIONS_PAUSED,
    PARTITIONS_IN_OUTAGE,
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
