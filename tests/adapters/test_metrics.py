from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from processor.adapters.memory_limit import memory_limit
from processor.adapters.metric_catalogue import CATALOGUE, DISTINCT_MAX
from processor.adapters.metrics import Metrics
from processor.engine.telemetry import Telemetry

EXERCISES = {
    "consumed": ("copy", 5),
    "settled": ("copy", "object.copy", "done", 3),
    "attempts_failed": ("copy", "StoreUnavailable", 2),
    "ended": ("copy", 2, 3),
    "ran": ("copy", "object.copy", [0.01, 2.0]),
    "waited": ("copy", 0.3),
    "in_flight": ("copy", 4),
    "lane_records": ("copy", 9),
    "lane_bytes": ("copy", 9000),
    "lag": ("copy.retry.1", 12),
    "runnable_lag": ("copy", 7),
    "oldest": ("copy", 90.5),
    "in_outage": ("copy", 2),
    "partitions_owned": ("copy", 6),
    "partitions_paused": ("copy", 1),
    "parked": ("copy", {"records": 3, "keys": 2, "oldest_seconds": 9.5}),
    "held_keys": ("copy", 1),
    "partition_stalled": ("copy", 12.5),
    "committed": ("refused", 1),
    "commit_age": (1.5,),
    "rebalanced": ("lost",),
    "drained": (0.7,),
    "outage": ("registry",),
    "ledger_took": ("record", 0.02),
    "sink_took": ("ObjectSink", 0.2),
    "produce_failed": ("copy.retry.1", 2),
    "late_results": ("copy", 1),
    "idempotency_conflict": ("copy",),
}


def exercised(telemetry: Telemetry) -> None:
    for name in EXERCISES:
        exercise(telemetry, name)


def exercise(telemetry: Telemetry, name: str) -> None:
    arguments = EXERCISES[name]
    more = [each for each in arguments if isinstance(each, dict)]
    plain = [each for each in arguments if not isinstance(each, dict)]
    getattr(telemetry, name)(*plain, **(more[0] if more else {}))


def calls() -> list[str]:
    return [n for n, _ in inspect.getmembers(Telemetry, inspect.isfunction) if n[0] != "_"]


def test_every_call_of_the_engine_is_exercised_and_answered():
    assert set(calls()) == set(EXERCISES)
    assert [name for name in calls() if name not in vars(Metrics)] == []


def test_engine_makes_every_call():
    engine = Path(__file__).parents[2] / "processor" / "engine"
    source = "".join(path.read_text(encoding="utf-8") for path in engine.glob("*.py"))

    assert [name for name in calls() if f"telemetry.{name}(" not in source] == []


def test_every_call_changes_a_metric():
    unheard = []
    for name in EXERCISES:
        metrics = Metrics()
        before = our_lines(metrics)
        exercise(metrics, name)
        if our_lines(metrics) == before:
            unheard.append(name)

    assert unheard == []


def our_lines(metrics: Metrics) -> list[str]:
    text = generate_latest(metrics.registry).decode()
    return [line for line in text.splitlines() if line.startswith("processor_")]


def test_telemetry_by_itself_is_silent():
    assert exercised(Telemetry()) is None


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('processor_jobs_settled_total{job_type="object.copy",outcome="done",topic="copy"}', "3.0"),
        ('processor_job_seconds_count{job_type="object.copy",topic="copy"}', "2.0"),
        ('processor_job_seconds_bucket{job_type="object.copy",le="0.025",topic="copy"}', "1.0"),
        ('processor_commits_total{result="refused"}', "1.0"),
        ('processor_partition_stalled_seconds{topic="copy"}', "12.5"),
        ("processor_drain_seconds_sum", "0.7"),
        ('processor_parked_records{topic="copy"}', "3.0"),
        ('processor_parked_keys{topic="copy"}', "2.0"),
        ('processor_parked_oldest_seconds{topic="copy"}', "9.5"),
        ('processor_job_attempts_count{topic="copy"}', "3.0"),
        ('processor_job_attempts_sum{topic="copy"}', "6.0"),
        ('processor_job_attempts_bucket{le="1.0",topic="copy"}', "0.0"),
        ('processor_lag_records{topic="copy.retry.1"}', "12.0"),
        ('processor_runnable_lag_records{topic="copy"}', "7.0"),
        ('processor_ledger_seconds_count{call="record"}', "1.0"),
    ],
)
def test_scrape_shows_what_was_told(line: str, value: str):
    metrics = Metrics()

    exercised(metrics)

    assert f"{line} {value}" in our_lines(metrics)


def test_gauge_shows_the_last_value_and_a_counter_the_sum():
    metrics = Metrics()

    for count in (5, 2):
        metrics.in_flight("copy", count)
        metrics.consumed("copy", count)

    assert 'processor_in_flight{topic="copy"} 2.0' in our_lines(metrics)
    assert 'processor_records_consumed_total{topic="copy"} 7.0' in our_lines(metrics)


def test_labels_that_come_from_records_are_bounded():
    metrics = Metrics()

    for number in range(DISTINCT_MAX + 50):
        metrics.settled("copy", f"type-{number}", "dead")
    metrics.settled("copy", "type-0", "dead")

    settled = [line for line in our_lines(metrics) if "jobs_settled_total{" in line]
    assert len(settled) == DISTINCT_MAX + 1
    assert any('job_type="other"' in line and line.endswith(" 50.0") for line in settled)
    assert any('job_type="type-0"' in line and line.endswith(" 2.0") for line in settled)


def test_two_workers_in_one_process_count_apart():
    one, other = Metrics(), Metrics()

    one.consumed("copy", 1)

    assert our_lines(one) != our_lines(other)


def test_process_s_own_memory_is_shown():
    assert b"process_resident_memory_bytes" in generate_latest(Metrics().registry)


def test_catalogue_is_what_a_scrape_shows():
    exposed = {m.name for m in Metrics().registry.collect() if m.name.startswith("processor_")}

    assert {metric.name.removesuffix("_total") for metric in CATALOGUE} == exposed


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_name_follows_the_conventions(metric):
    assert re.fullmatch(r"processor_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert metric.kind != "histogram" or metric.name.endswith(("_seconds", "_attempts"))
    assert metric.sentence.endswith(".")
    assert not {"key", "job_id", "partition", "offset"} & set(metric.labels)


def test_expected_topic_is_shown_before_anything_has_come_of_it():
    metrics = Metrics()

    metrics.expect("copy", ["object.copy"], partitions=6)
    shown = our_lines(metrics)

    for outcome in ("done", "dead", "retried"):
        labels = f'job_type="object.copy",outcome="{outcome}",topic="copy"'
        assert f"processor_jobs_settled_total{{{labels}}} 0.0" in shown
    assert 'processor_job_seconds_count{job_type="object.copy",topic="copy"} 0.0' in shown
    assert 'processor_job_attempts_sum{topic="copy"} 0.0' in shown
    assert 'processor_partitions_declared{topic="copy"} 6.0' in shown


def test_counts_of_the_worker_itself_begin_at_0():
    shown = our_lines(Metrics())

    assert 'processor_outage_pauses_total{what="broker"} 0.0' in shown
    assert 'processor_commits_total{result="refused"} 0.0' in shown
    assert 'processor_rebalances_total{kind="lost"} 0.0' in shown


def test_memory_is_shown_beside_its_bounds():
    metrics = Metrics()
    metrics.memory_budget(7 * 1024 * 1024)

    values = dict(line.split(" ") for line in our_lines(metrics) if "#" not in line)

    assert float(values["processor_memory_budget_bytes"]) == 7 * 1024 * 1024
    assert float(values["processor_memory_limit_bytes"]) == memory_limit()


def test_commit_age_grows_on_while_nobody_tells_of_it():
    metrics = Metrics()

    def age() -> float:
        (line,) = [each for each in our_lines(metrics) if "commit_age" in each]
        return float(line.split(" ")[1])

    ages = [age()]
    metrics.commit_age(5.0)
    ages += [age(), age()]
    metrics.commit_age(None)
    ages.append(age())

    assert ages[0] == ages[3] == 0.0
    assert 5.0 <= ages[1] < ages[2] < 60.0
