"""Every value of the chart is explained, and changing it changes what is rendered."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm import chart

VALUES = chart.CHART / "values.yaml"
Path_ = tuple[str, ...]

# Values under which every part of the chart is rendered, each by the defaults that it is to show.
EVERYTHING: dict[str, Any] = {
    "settings": {"ledger": {"url": "none"}, "outbox": {"url": "postgresql://db/orders"}},
    "relay": {"enabled": True, "pool": "on-demand"},
    "workerDefaults": {"autoscaling": {"hpa": {"busyMetric": "running"}}},
    "workers": {
        "plain": {"module": "plain:app", "pool": "spot"},
        "static": {"module": "static:app", "kind": "StatefulSet"},
        "keda": {"module": "a:app", "partitions": 200, "autoscaling": {"enabled": True}},
        "hpa": {"module": "b:app", "partitions": 200,
                "autoscaling": {"enabled": True, "kind": "hpa"}},
    },
    "monitoring": {
        "podMonitor": {"enabled": True},
        "alerts": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}  # fmt: skip

# Changing these alone breaks a rule; that the rule is asked shows that they are read.
REFUSED = {
    "commitSeconds",
    "pools.on-demand.noticeSeconds",
    "pools.spot.noticeSeconds",
    "workerDefaults.kind",
    "workerDefaults.partitions",
    "workerDefaults.autoscaling.enabled",
}

# Another value for those that a rule or the schema binds; all others are changed by their kind.
OTHERS: dict[str, Any] = {
    "image.digest": "sha256:" + "0" * 64,
    "image.pullPolicy": "Always",
    "settings.worker.drain_seconds": "15s",
    "settings.worker.shutdown_seconds": "31s",
    "secrets": [{"setting": "registry.password", "secret": "registry", "key": "password"}],
    "contracts.topics": {"mail.yaml": "name: mail\n"},
    "contracts.schemas": {"mail.send.avsc": "{}"},
    "commitSeconds": 11,
    "pools.spot.noticeSeconds": 34,
    "workerDefaults.kind": "StatefulSet",
    "workerDefaults.pool": "on-demand",
    "workerDefaults.terminationGracePeriodSeconds": 60,
    "workerDefaults.image": {"tag": "7"},
    "workerDefaults.secrets": [{"setting": "kafka.sasl.password", "secret": "k", "key": "p"}],
    "workerDefaults.affinity": {"nodeAffinity": {}},
    "workerDefaults.topologySpread.whenUnsatisfiable": "DoNotSchedule",
    "workerDefaults.partitions": 2,
    "workerDefaults.autoscaling.enabled": True,
    "workerDefaults.autoscaling.kind": "hpa",
    "workerDefaults.autoscaling.busy.target": 3.5,
    "workerDefaults.autoscaling.hpa.busyMetric": "",
    "workerDefaults.autoscaling.keda.fallback.replicas": 9,
    "workerDefaults.autoscaling.keda.serverAddress": "http://other:9090",
    "relay.secrets": [{"setting": "kafka.sasl.password", "secret": "k", "key": "p"}],
    "relay.pool": "spot",
    "provision.secrets": [{"setting": "kafka.sasl.password", "secret": "k", "key": "p"}],
    "provision.commands": [["topics", "plan", "--check"]],
    "test.commands": [["schemas", "list"]],
    "monitoring.alerts.kind": "ConfigMap",
    "monitoring.alerts.runbookUrl": "https://runbooks.example.com",
    "networkPolicy.metricsFrom": [],
}


def leaves(values: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value that is not a table, and tables that are empty."""
    if isinstance(values, dict) and values and not is_labels(path):
        for name, value in values.items():
            yield from leaves(value, (*path, name))
    else:
        yield path, values


def is_labels(path: Path_) -> bool:
    """Whether the table there is one of the user's own names."""
    return bool(path) and path[-1] in {"nodeSelector", "labels", "annotations"}


def test_every_value_is_explained() -> None:
    explained = set()
    commented = False
    stack: list[tuple[int, str]] = []
    for line in VALUES.read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            commented = commented or text.startswith("# -- ")
            continue
        if not text or ":" not in text or text.startswith("- "):
            commented = False
            continue
        indent = len(line) - len(line.lstrip())
        stack = [each for each in stack if each[0] < indent] + [(indent, text.partition(":")[0])]
        if commented:
            explained.add(tuple(name for _, name in stack))
        commented = False

    silent = [".".join(path) for path, _ in leaves(yaml.safe_load(VALUES.read_text()))
              if path not in explained]  # fmt: skip
    assert silent == []


def other(path: Path_, value: Any) -> Any:
    """Another value of the same kind."""
    name = ".".join(path)
    if name in OTHERS:
        return OTHERS[name]
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str() if path[-1] in ("interval", "scrapeTimeout", "start_jitter_seconds"):
            return "7s"
        case str() if path[-1] in ("sizeLimit", "memory"):
            return "777Mi"
        case str() if path[-1] == "cpu":
            return "777m"
        case str():
            return f"{value}other"
        case list() if path[-1] == "ports":
            return [777]
        case list() if path[-1] == "to":
            return [{"podSelector": {"matchLabels": {"other": "yes"}}}]
        case list() if path[-1] == "roles":
            return ["relay"] if value != ["relay"] else ["worker"]
        case list() if path[-1] == "tolerations":
            return [{"key": "other", "operator": "Exists"}]
        case list():
            return ["other"]
        case dict() if path[-1] == "settings":
            return {"log": {"level": "debug"}}
        case dict():
            return {"OTHER": "yes"}
        case _:
            raise AssertionError(f"{name}: which other value?")


def laid_over(path: Path_, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(EVERYTHING)
    inner = values
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    return values


def in_everything(path: Path_, default: Any) -> Any:
    inner: Any = EVERYTHING
    for name in path:
        inner = inner.get(name, {}) if isinstance(inner, dict) else {}
    return default if inner == {} else inner


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_value_reaches_what_is_rendered() -> None:
    declared = dict(leaves(yaml.safe_load(VALUES.read_text())))
    declared.pop(("workers",))  # EVERYTHING is made of them.
    unchanged = chart.template([EVERYTHING])
    assert unchanged.returncode == 0, unchanged.stderr

    def deaf(leaf: tuple[Path_, Any]) -> str | None:
        path, value = leaf
        if path == ("workerDefaults", "module"):
            path = ("workers", "plain", "module")
        done = chart.template([laid_over(path, other(path, in_everything(path, value)))])
        name = ".".join(path)
        if done.returncode != 0:
            told = done.stderr
            refused = "workers." in told or "relay" in told
            return None if refused and name in REFUSED else f"{name}: {told}"
        return f"{name} changes nothing" if done.stdout == unchanged.stdout else None

    with ThreadPoolExecutor(2) as pool:
        told = [each for each in pool.map(deaf, declared.items()) if each is not None]

    assert told == []
    assert len(declared) > 100


def test_a_group_overrides_its_own_values_alone() -> None:
    before = chart.rendered(EVERYTHING)
    changed = copy.deepcopy(EVERYTHING)
    changed["workers"]["plain"]["resources"] = {"limits": {"memory": "3Gi"}}
    changed["workers"]["plain"]["podDisruptionBudget"] = {"enabled": False}
    changed["workers"]["plain"]["settings"] = {"worker": {"concurrency": 3}}

    after = chart.rendered(changed)

    differing = [each for each in before if each not in after]
    differing += [each for each in after if each not in before]
    assert {(each["kind"], each["metadata"]["name"]) for each in differing} == {
        ("ConfigMap", "jobs-processor-worker-plain"),
        ("Deployment", "jobs-processor-worker-plain"),
        ("PodDisruptionBudget", "jobs-processor-worker-plain"),
        ("Pod", "jobs-processor-test-plain"),
    }


def test_settings_come_out_as_they_were_written(tmp_path: Path) -> None:
    values = {
        "settings": {
            "ledger": {"url": "none"},
            "kafka": {"session.timeout.ms": 45000, "linger.ms": 2.5, "ssl.ca.pem": 'a"b\\c\nd',
                      "enable.ssl.certificate.verification": False},
            "worker": {"memory_max": 268435456, "group": None, "drain_seconds": 12},
        },
        "workers": {"a": {"module": "a:app", "settings": {"worker": {"memory_max": 536870912}}}},
    }  # fmt: skip

    objects = chart.rendered(values)

    from processor.settings import load_settings

    written = chart.named(objects, "ConfigMap", "worker-a")["data"]["processor.toml"]
    (tmp_path / "processor.toml").write_text(written)
    settings = load_settings(folder=tmp_path, environ={})
    assert settings.kafka["session.timeout.ms"] == 45000
    assert isinstance(settings.kafka["session.timeout.ms"], int)
    assert settings.kafka["linger.ms"] == 2.5
    assert settings.kafka["ssl.ca.pem"] == 'a"b\\c\nd'
    assert settings.kafka["enable.ssl.certificate.verification"] is False
    assert settings.worker.memory_max == 536870912
    assert settings.worker.drain_seconds == 12
