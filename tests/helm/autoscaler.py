"""Kubernetes' HorizontalPodAutoscaler, as far as it decides by external average values.

After `pkg/controller/podautoscaler` of Kubernetes 1.33: the tolerance of 0.1, the metric that asks
for the most, the stabilization windows (the least of the recommendations in the scale-up window,
the greatest in the scale-down window), and the policies' bounds on what a period may change. It
decides every 15 seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

TOLERANCE = 0.1
SYNC_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Policy:
    """What the rendered chart asks for."""

    replicas_min: int
    replicas_max: int
    targets: tuple[float, ...]  # The runnable lag, and where it is asked for what is running.
    behavior: dict[str, Any]

    @classmethod
    def of(cls, rendered: dict[str, Any]) -> Policy:
        """Read it from a ScaledObject or a HorizontalPodAutoscaler."""
        spec = rendered["spec"]
        if rendered["kind"] == "ScaledObject":
            return cls(
                spec["minReplicaCount"],
                spec["maxReplicaCount"],
                tuple(float(each["metadata"]["threshold"]) for each in spec["triggers"]),
                spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
            )
        values = [each["external"]["target"]["averageValue"] for each in spec["metrics"]]
        return cls(
            spec["minReplicas"],
            spec["maxReplicas"],
            tuple(float(v[:-1]) / 1000 if v.endswith("m") else float(v) for v in values),
            spec["behavior"],
        )


@dataclass(slots=True)
class Autoscaler:
    """Decides how many pods there are to be. `now` only grows."""

    policy: Policy
    replicas: int
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _events: list[tuple[float, int]] = field(default_factory=list)  # When, and how many more.

    def decide(self, metrics: Sequence[float], now: float) -> int:
        """One turn of the controller: the metrics' sums over all pods are these now."""
        wanted = max(map(self._wanted, metrics, self.policy.targets))
        # The controller bounds a recommendation before it remembers it.
        wanted = min(max(wanted, self.policy.replicas_min), self.policy.replicas_max)
        desired = self._stabilized(wanted, now)
        if desired > self.replicas:
            desired = min(desired, self._limit("scaleUp", now))
        elif desired < self.replicas:
            desired = max(desired, self._limit("scaleDown", now))
        desired = min(max(desired, self.policy.replicas_min), self.policy.replicas_max)
        if desired != self.replicas:
            self._events.append((now, desired - self.replicas))
            self.replicas = desired
        return desired

    def _wanted(self, metric: float, target: float) -> int:
        usage = metric / (target * self.replicas)
        if abs(1.0 - usage) <= TOLERANCE:
            return self.replicas
        return math.ceil(metric / target)

    def _stabilized(self, wanted: int, now: float) -> int:
        up, down = wanted, wanted
        for at, each in self._recommended:
            if at > now - self.policy.behavior["scaleUp"]["stabilizationWindowSeconds"]:
                up = min(up, each)
            if at > now - self.policy.behavior["scaleDown"]["stabilizationWindowSeconds"]:
                down = max(down, each)
        self._recommended.append((now, wanted))
        return min(max(self.replicas, up), down)

    def _limit(self, direction: str, now: float) -> int:
        rule = self.policy.behavior[direction]
        sign = 1 if direction == "scaleUp" else -1
        limits = []
        for each in rule["policies"]:
            recent = [more for at, more in self._events if at > now - each["periodSeconds"]]
            at_start = self.replicas - sum(recent)
            share = each["value"] / 100 * at_start if each["type"] == "Percent" else each["value"]
            limit = at_start + sign * share
            limits.append(math.ceil(limit) if sign > 0 else int(limit))
        assert rule["selectPolicy"] == "Max"
        return max(limits) if sign > 0 else min(limits)


def followed(policy: Policy, lag: Sequence[float]) -> list[int]:
    """The pods at each turn, while the lag goes as it was recorded, whatever the pods do."""
    scaler = Autoscaler(policy, policy.replicas_min)
    none_running = (0.0,) * (len(policy.targets) - 1)
    return [
        scaler.decide((each, *none_running), turn * SYNC_SECONDS) for turn, each in enumerate(lag)
    ]


def worked_off(
    policy: Policy, arriving: Callable[[float], float], *, seconds: int, pod_rate: float,
    threads: int = 8, pod_start_seconds: int = 45, busy_seconds: int = 300,
) -> tuple[list[int], list[float]]:  # fmt: skip
    """The pods and the lag at each turn, where pods work the lag off.

    `arriving` is the jobs a second at a time, `pod_rate` what a pod does with all of its threads.
    A new pod works after `pod_start_seconds`; what runs is averaged over `busy_seconds`, as the
    query asks for it.
    """
    scaler = Autoscaler(policy, policy.replicas_min)
    starting: list[tuple[float, int]] = []
    lag, working = 0.0, policy.replicas_min
    running: deque[float] = deque(maxlen=busy_seconds)
    pods: list[int] = []
    lags: list[float] = []
    for now in range(seconds):
        for at, more in [each for each in starting if each[0] <= now]:
            working += more
            starting.remove((at, more))
        working = min(working, scaler.replicas)
        worked = min(lag + arriving(now), working * pod_rate)
        lag += arriving(now) - worked
        running.append(worked / pod_rate * threads)
        if now % SYNC_SECONDS == 0:
            before = scaler.replicas
            metrics = (lag, sum(running) / len(running))
            after = scaler.decide(metrics[: len(policy.targets)], now)
            if after > before:
                starting.append((now + pod_start_seconds, after - before))
            pods.append(after)
            lags.append(lag)
    return pods, lags


def reversals(pods: Sequence[int]) -> int:
    """How often the number of pods turned from growing to shrinking or back."""
    moves = [b - a for a, b in pairwise(pods) if a != b]
    return sum((a > 0) != (b > 0) for a, b in pairwise(moves))


def changes(pods: Sequence[int]) -> int:
    """How often the number of pods changed: each is a rebalance."""
    return sum(a != b for a, b in pairwise(pods))
