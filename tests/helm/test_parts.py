"""What the parts of a release share, and what each of them has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm import chart

DIGEST, OTHER = (f"sha256:{digit * 64}" for digit in "12")
SECRETS = [
    {"setting": setting, "secret": "s", "key": key}
    for setting, key in {
        "ledger.url": "ledger", "outbox.url": "outbox", "encryption.key_file": "keys.toml",
        "kafka.ssl.key.location": "tls.key", "registry.ca_location": "ca.crt",
        "kafka.sasl.password": "password",
    }.items()
]  # fmt: skip
ALL: dict[str, Any] = {
    "secrets": SECRETS,
    "relay": {"enabled": True},
    "workers": {
        "mail": {"module": "mail:app"},
        "static": {"module": "static:app", "kind": "StatefulSet"},
    },
    "monitoring": {"podMonitor": {"enabled": True}},
}


def selectors(document: Any) -> Iterator[dict[str, str]]:
    """The labels of every selector of pods in it, at any depth."""
    match document:
        case {"kind": "Service", "spec": {"selector": labels}}:
            yield labels
        case dict():
            for name, inner in document.items():
                if name in ("selector", "podSelector", "labelSelector"):
                    yield inner["matchLabels"]
                else:
                    yield from selectors(inner)
        case list():
            for inner in document:
                yield from selectors(inner)


def test_no_selector_takes_the_pods_of_another_chart_of_the_release() -> None:
    found = {each["kind"]: list(selectors(each)) for each in chart.rendered(ALL)}

    assert all(found[kind] for kind in (
        "NetworkPolicy", "PodMonitor", "Deployment", "StatefulSet", "Service",
        "PodDisruptionBudget",
    ))  # fmt: skip
    for labels in [each for of_kind in found.values() for each in of_kind]:
        assert labels["app.kubernetes.io/name"] == "processor"
        assert labels["app.kubernetes.io/instance"] == chart.RELEASE


def test_the_policy_of_a_group_is_that_of_its_test_too_whatever_its_name() -> None:
    values = {
        "settings": {"ledger": {"url": "none"}},
        "workers": {"co-worker-a": {"module": "a:app"}},
    }

    policy = chart.named(chart.rendered(values), "NetworkPolicy", "worker-co-worker-a")

    (component,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert component["values"] == ["worker-co-worker-a", "test-co-worker-a"]


@pytest.mark.parametrize(
    ("defaults", "own", "expected"),
    [
        ({}, {}, f"base@{DIGEST}"),
        ({}, {"tag": "7"}, "base:7"),
        ({}, {"repository": "mine"}, "mine:1"),
        ({}, {"repository": "mine", "tag": "7"}, "mine:7"),
        ({}, {"digest": OTHER}, f"base@{OTHER}"),
        ({}, {"repository": "mine", "digest": OTHER}, f"mine@{OTHER}"),
        ({"repository": "mine"}, {}, "mine:1"),
        ({"repository": "mine", "digest": OTHER}, {}, f"mine@{OTHER}"),
        ({"repository": "mine", "digest": OTHER}, {"tag": "7"}, "mine:7"),
    ],
)
def test_a_digest_is_that_of_its_own_image(
    defaults: dict[str, str], own: dict[str, str], expected: str
) -> None:
    values = {
        "image": {"repository": "base", "tag": "1", "digest": DIGEST},
        "settings": {"ledger": {"url": "none"}},
        "workerDefaults": {"image": defaults},
        "workers": {"mail": {"module": "mail:app", "image": own}},
    }

    group = chart.named(chart.rendered(values), "Deployment", "worker-mail")

    (container,) = group["spec"]["template"]["spec"]["containers"]
    assert container["image"] == expected


def with_accounts(*accounts: dict[str, Any], **more: Any) -> dict[str, Any]:
    groups = {
        f"g{number}": {"module": "a:app", "serviceAccount": account}
        for number, account in enumerate(accounts)
    }
    return {"settings": {"ledger": {"url": "none"}}, "workers": groups, **more}


def test_a_service_account_that_groups_share_is_made_once() -> None:
    role = {"name": "jobs", "annotations": {"role": "a"}}

    objects = chart.rendered(with_accounts(role, role, {"name": "jobs", "create": False}))

    accounts = [
        each["metadata"]["name"]
        for each in chart.of_kind(objects, "ServiceAccount")
        if "provision" not in each["metadata"]["name"]
    ]
    assert accounts == ["jobs"]


def test_a_service_account_that_is_meant_in_two_ways_is_refused() -> None:
    one, two = {"name": "jobs", "annotations": {"role": "a"}}, {"name": "jobs"}

    differing = chart.refusal(with_accounts(one, two))
    before = chart.refusal(with_accounts(two, provision={"serviceAccount": {"name": "jobs"}}))

    assert 'the service account "jobs" with other annotations' in differing
    assert 'provision: another part makes the service account "jobs", too' in before
    chart.rendered(with_accounts(
        two, provision={"serviceAccount": {"name": "jobs", "create": False}}
    ))  # fmt: skip
