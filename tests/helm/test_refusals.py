"""Values that would lose or delay jobs are refused with a message, not deployed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.helm import chart

GOOD: dict[str, Any] = {
    "settings": {"ledger": {"url": "none"}, "worker": {}},
    "workers": {"mail": {"module": "mail:app"}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(GOOD)
    inner = values
    *tables, last = path.split("/")
    for name in tables:
        inner = inner.setdefault(name, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return values


MAIL = "workers/mail"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{MAIL}/module", None, "workers.mail: name its app in `module`"),
        (f"{MAIL}/pool", "sopt", 'there is no pool "sopt"; `pools` has on-demand, spot'),
        (f"{MAIL}/terminationGracePeriodSeconds", 25, "is 25, but stopping may take 30 s"),
        ("settings/worker/drain_seconds", "25s", "the drain (25 s) and the last commit (10 s)"),
        ("settings/worker/drain_seconds", "soon", "settings"),
        ("settings/worker/metrics_host", "::", "each pod listens on its own address"),
        ("settings/worker/group", "x", "set `group` of the worker group"),
        ("settings/kafka", {"group.instance.id": "x"}, "set `kind: StatefulSet`"),
        ("settings/ledger", None, "workers.mail: no ledger is named"),
        ("settings/ledger/url", "sqlite:///x.db", "a SQLite file in each pod is not one ledger"),
        ("settings/topics_dir", "x", None),
        (f"{MAIL}/partitions", 2, "3 pods of 1 processes are more than the 2 partitions"),
        (f"{MAIL}/autoscaling", {"enabled": True}, "autoscaling needs `partitions`"),
        (MAIL, {"module": "a:app", "kind": "StatefulSet", "partitions": 9,
                "autoscaling": {"enabled": True}}, "autoscaling needs `kind: Deployment`"),
        (MAIL, {"module": "a:app", "pool": "spot",
                "settings": {"worker": {"drain_seconds": "2m", "shutdown_seconds": "150s"}}},
         'a pod may take 155 s to stop, but nodes of the pool "spot" go 120 s after notice'),
        ("relay/enabled", True, "relay: no database is named"),
        ("env/PROCESSOR_WORKER_GROUP", "x", "invalid propertyName 'PROCESSOR_WORKER_GROUP'"),
        ("env/AWS_SECRET_ACCESS_KEY", "x", "{env: AWS_SECRET_ACCESS_KEY_FILE, secret: NAME"),
        (f"{MAIL}/env", {"smtp_password": "x"}, "the variable smtp_password holds a secret"),
        ("env/SMTP_PASSWORD", "/abc", "the variable SMTP_PASSWORD holds a secret"),
        ("env/SMTP_CREDENTIALS", "me:pw", "the variable SMTP_CREDENTIALS holds a secret"),
        (f"{MAIL}/secrets", [{"env": "PROCESSOR_X", "secret": "s", "key": "k"}], "env"),
        (f"{MAIL}/secrets", [{"env": "X", "secret": "s", "key": "k", "as": "path"}], "secrets"),
        (f"{MAIL}/secrets", [{"secret": "s", "key": "k"}], "secrets"),
        (f"{MAIL}/replica", 3, "replica"),
        (f"{MAIL}/replicas", -1, "replicas"),
        (f"{MAIL}/secrets", [{"setting": "a.b", "secret": "s"}], "key"),
        ("workers/Mail", {"module": "a:app"}, "'Mail' does not match"),
        ("image/digest", "latest", "digest"),
        ("user/id", 0, "id"),
        ("commonLabels", {"app.kubernetes.io/name": "x"}, "invalid propertyName"),
        ("commonLabels", {"app.kubernetes.io/instance": "x"}, "invalid propertyName"),
        (f"{MAIL}/podLabels", {"app.kubernetes.io/component": "x"}, "invalid propertyName"),
    ],
)  # fmt: skip
def test_it_is_refused_with_its_reason(path: str, value: Any, words: str | None) -> None:
    values = changed(path, value)

    if words is None:  # Fine by itself; the contracts of the release would be passed over.
        chart.rendered(values)
        values["contracts"] = {"topics": {"mail.yaml": "name: mail"}}
        words = "both contracts.topics and settings.topics_dir are given"

    assert words in chart.refusal(values)
    chart.rendered(GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/var/run/secrets/gcp/federation.json"),
        ("CORS_ALLOW_CREDENTIALS", "true"),
        ("SMTP_PASSWORD", ""),
        ("TOKENS_MAX", "4096"),
    ],
)
def test_a_variable_that_is_only_named_like_a_secret_passes(name: str, value: str) -> None:
    deployment = chart.named(
        chart.rendered(changed("env", {name: value})), "Deployment", "worker-mail"
    )

    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": name, "value": value} in container["env"]


@pytest.mark.parametrize(
    ("worker", "processes", "seconds"),
    [
        ({}, 1, 35),
        ({}, 2, 40),
        ({"drain_seconds": "1m30s", "shutdown_seconds": "2m"}, 1, 125),
        ({"drain_seconds": 0.5, "shutdown_seconds": "10500ms"}, 1, 16),
    ],
)
def test_the_grace_period_is_longer_than_drain_and_commit(
    worker: dict[str, Any], processes: int, seconds: int
) -> None:
    values = changed("settings/worker", worker)
    values["workers"]["mail"]["processes"] = processes

    deployment = chart.named(chart.rendered(values), "Deployment", "worker-mail")

    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == seconds
