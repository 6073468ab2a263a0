"""The scaling policy of the rendered chart, tried on lag curves: it follows, and it does not flap.

The controller is the simulation in `autoscaler`; every number of the policy is the chart's own.
"""

from __future__ import annotations

import csv
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.helm import chart
from tests.helm.autoscaler import (
    SYNC_SECONDS,
    Autoscaler,
    Policy,
    changes,
    followed,
    reversals,
    worked_off,
)

POD_RATE = 20.0  # Jobs a second that a pod works.
HOUR = 3600
CURVES = Path(__file__).parent / "lag_curves.csv"


def values(**scaling: Any) -> dict[str, Any]:
    group = {
        "module": "mail:app",
        "partitions": 60,
        "autoscaling": {"enabled": True, **scaling},
    }
    return {"settings": {"ledger": {"url": "none"}}, "workers": {"mail": group}}


def rendered(kind: str = "keda", **group: Any) -> chart.Object:
    changed = values(kind=kind)
    changed["workers"]["mail"].update(group)
    wanted = {"keda": "ScaledObject", "hpa": "HorizontalPodAutoscaler"}[kind]
    return chart.named(chart.rendered(changed), wanted, "worker-mail")


def hpa_of_both() -> dict[str, Any]:
    return {"enabled": True, "kind": "hpa", "hpa": {"busyMetric": "running_jobs"}}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.of(rendered())


def spike(now: float) -> float:
    """A quiet topic, and 60,000 jobs within a minute."""
    return 1000.0 if 600 <= now < 660 else 10.0


def ramp(now: float) -> float:
    """From little to 600 jobs a second within half an hour, and it stays."""
    return 10.0 + 590.0 * min(1.0, now / 1800)


def sawtooth(now: float) -> float:
    """Bursts: a minute of much in every four."""
    return 700.0 if now % 240 < 60 else 20.0


def test_the_defaults_are_the_documented_ones(policy: Policy) -> None:
    assert (policy.replicas_min, policy.replicas_max, policy.targets) == (3, 50, (500, 5.6))
    assert policy.behavior["scaleUp"] == {
        "stabilizationWindowSeconds": 60,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
    }
    assert policy.behavior["scaleDown"] == {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}],
    }
    assert Policy.of(rendered("hpa", autoscaling=hpa_of_both())) == policy


@pytest.mark.parametrize(
    ("partitions", "processes", "expected"),
    [(12, 1, (3, 12)), (60, 2, (3, 30)), (9, 4, (2, 2)), (2, 1, (2, 2)), (500, 1, (3, 50))],
)
def test_there_are_never_more_processes_than_partitions(
    partitions: int, processes: int, expected: tuple[int, int]
) -> None:
    for kind in ("keda", "hpa"):
        scaled = rendered(kind, partitions=partitions, processes=processes)
        found = Policy.of(scaled)
        assert (found.replicas_min, found.replicas_max) == expected
        if kind == "keda":
            assert scaled["spec"]["fallback"]["replicas"] <= expected[1]


def test_the_query_asks_for_the_runnable_lag_of_the_group_alone() -> None:
    trigger, busy = rendered()["spec"]["triggers"]
    (metric,) = rendered("hpa")["spec"]["metrics"]
    of_the_group = {
        "namespace": chart.NAMESPACE,
        "app_kubernetes_io_instance": chart.RELEASE,
        "job": "worker-mail",
    }
    matchers = ",".join(f'{name}="{value}"' for name, value in sorted(of_the_group.items()))

    assert trigger["metadata"]["query"] == f"sum(processor_runnable_lag_records{{{matchers}}})"
    assert busy["metadata"]["query"] == f"sum(rate(processor_job_seconds_sum{{{matchers}}}[5m]))"
    assert trigger["metricType"] == busy["metricType"] == "AverageValue"
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert metric["external"]["metric"]["name"] == "processor_runnable_lag_records"
    assert metric["external"]["metric"]["selector"]["matchLabels"] == of_the_group


def test_a_spike_is_met_once_and_let_go_slowly(policy: Policy) -> None:
    pods, lags = worked_off(policy, spike, seconds=2 * HOUR, pod_rate=POD_RATE)

    assert max(pods) == policy.replicas_max
    assert reversals(pods) == 1
    assert (pods[0], pods[-1]) == (3, 3)
    alone = 60_000 / (3 * POD_RATE - 10)  # What the three would have needed.
    assert seconds_until_worked_off(lags) < alone / 2


def test_a_ramp_is_followed_without_turning_back(policy: Policy) -> None:
    pods, lags = worked_off(policy, ramp, seconds=4 * HOUR, pod_rate=POD_RATE)
    settled = pods[len(pods) // 2 :]

    assert reversals(pods) <= 2  # It overshoots once, and comes down to what is needed.
    assert changes(settled) <= 2  # In two hours of a steady stream.
    assert settled[-1] >= math.ceil(600 / POD_RATE)
    assert max(lags[len(lags) // 2 :]) < policy.targets[0]


def test_by_the_lag_alone_a_steady_stream_would_make_it_swing() -> None:
    alone = Policy.of(rendered(autoscaling={"enabled": True, "busy": {"enabled": False}}))

    pods, _ = worked_off(alone, ramp, seconds=4 * HOUR, pod_rate=POD_RATE)

    assert alone.targets == (500,)
    assert reversals(pods) > 20


def test_bursts_that_come_again_and_again_do_not_make_it_flap(policy: Policy) -> None:
    pods, _ = worked_off(policy, sawtooth, seconds=2 * HOUR, pod_rate=POD_RATE)
    settled = pods[30 * 60 // SYNC_SECONDS :]

    assert reversals(pods) <= 2
    assert changes(settled) <= 6  # In an hour and a half.


def test_without_the_windows_the_bursts_would_make_it_flap(policy: Policy) -> None:
    naive = {
        direction: {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        }
        for direction in ("scaleUp", "scaleDown")
    }
    hasty = Policy(policy.replicas_min, policy.replicas_max, policy.targets[:1], naive)

    pods, _ = worked_off(hasty, sawtooth, seconds=2 * HOUR, pod_rate=POD_RATE)

    assert reversals(pods) > 20


def recorded(name: str) -> tuple[list[float], list[float]]:
    """A recorded curve, every 15 seconds: the whole lag, and the part that can be worked now."""
    with CURVES.open() as file:
        rows = [row for row in csv.DictReader(file) if row["curve"] == name]
    return [float(row["lag"]) for row in rows], [float(row["runnable"]) for row in rows]


def test_a_backlog_that_is_held_starts_no_pod(policy: Policy) -> None:
    lag, runnable = recorded("held")

    by_runnable = followed(policy, runnable)
    by_lag = followed(policy, lag)

    assert set(by_runnable) == {policy.replicas_min}
    assert max(by_lag) == policy.replicas_max  # All of them would wait for an operator.


@pytest.mark.parametrize("name", ["spike", "ramp", "sawtooth"])
def test_recorded_curves_are_followed_without_flapping(policy: Policy, name: str) -> None:
    _, runnable = recorded(name)

    pods = followed(policy, runnable)

    assert max(pods) > policy.replicas_min
    assert reversals(pods) <= 1
    assert all(b <= max(2 * a, a + 1) for a, b in pairwise(pods))


def test_small_differences_are_tolerated(policy: Policy) -> None:
    scaler = Autoscaler(policy, replicas=10)

    around = [(10 * policy.targets[0] * share, 0.0) for share in (1.09, 0.91, 1.0, 1.05, 0.95) * 20]
    pods = [scaler.decide(lag, SYNC_SECONDS * turn) for turn, lag in enumerate(around)]

    assert set(pods) == {10}


def seconds_until_worked_off(lags: list[float]) -> float:
    peak = lags.index(max(lags))
    done = next(turn for turn in range(peak, len(lags)) if lags[turn] < 1)
    return (done - peak) * SYNC_SECONDS
