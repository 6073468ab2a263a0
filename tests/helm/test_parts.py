"""What the parts of a release share, and what each of them has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from processor.secret import names_path, secret_name
from tests.alerts.rules import alerts
from tests.helm import chart

DIGEST, OTHER = (f"sha256:{digit * 64}" for digit in "12")
SECRETS = [
    {"setting": setting, "secret": "s", "key": key}
    for setting, key in {
        "ledger.url": "ledger", "outbox.url": "outbox", "encryption.key_file": "keys.toml",
        "kafka.ssl.key.location": "tls.key", "registry.ca_location": "ca.crt",
        "kafka.sasl.password": "password",
    }.items()
] + [{"env": "SMTP_PASSWORD_FILE", "secret": "s", "key": "smtp"}]  # fmt: skip
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


def test_each_part_is_given_the_secrets_that_it_has_a_use_for_and_files_as_their_paths() -> None:
    objects = chart.rendered(ALL)

    given = {where: secrets_in(spec) for where, spec in chart.pod_specs(objects)}

    client = {
        ("KAFKA_SSL_KEY_LOCATION", "tls.key"),
        ("KAFKA_SASL_PASSWORD_FILE", "password"),
    }
    registry = {("REGISTRY_CA_LOCATION", "ca.crt")}
    keys = {("ENCRYPTION_KEY_FILE", "keys.toml")}
    ledger, outbox = {("LEDGER_URL_FILE", "ledger")}, {("OUTBOX_URL_FILE", "outbox")}
    handlers = {("SMTP_PASSWORD_FILE", "smtp")}
    mail = client | registry | keys | ledger | handlers
    assert given["Deployment jobs-processor-worker-mail"] == mail
    assert given["Deployment jobs-processor-relay"] == client | outbox
    assert given["Job jobs-processor-provision"] == client | registry


def test_variables_are_given_as_they_are_written() -> None:
    values = {
        "workers": {"mail": {"module": "mail:app"}},
        "settings": {"ledger": {"url": "none"}},
        "secrets": [{"env": "ON", "secret": "s", "key": "k"}],
        "env": {"Yes": "a", "CACHE_BYTES": 10_000_000, "RATIO": 0.25, "DEBUG": True},
    }

    deployment = chart.named(chart.rendered(values), "Deployment", "worker-mail")

    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    assert given["ON"] == "/run/secrets/processor/s/k"
    told = {name: given[name] for name in values["env"]}
    assert told == {"Yes": "a", "CACHE_BYTES": "10000000", "RATIO": "0.25", "DEBUG": "true"}


def secrets_in(spec: chart.Object) -> set[tuple[str, str]]:
    """The variables that name a mounted secret, and its key; each is mounted."""
    named = {
        (each["name"].removeprefix("PROCESSOR_"), each["value"].rpartition("/")[2])
        for container in chart.containers(spec)
        for each in container["env"]
        if each.get("value", "").startswith("/run/secrets/")
    }
    (mounted,) = [each["projected"] for each in spec["volumes"] if each["name"] == "secrets"]
    items = [item["key"] for source in mounted["sources"] for item in source["secret"]["items"]]
    assert sorted(items) == sorted({key for _, key in named})
    return named


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


SECRET_SETTINGS = [
    ("kafka", "sasl.password"), ("kafka", "ssl.key.pem"), ("kafka", "ssl.key.password"),
    ("kafka", "sasl.oauthbearer.client.secret"), ("kafka", "sasl.oauthbearer.token"),
    ("registry", "password"), ("registry", "token"), ("registry", "key_password"),
    ("s3", "secret_access_key"),
]  # fmt: skip
PLAIN_SETTINGS = [
    ("kafka", "sasl.username"), ("kafka", "ssl.key.location"), ("kafka", "ssl.ca.pem"),
    ("kafka", "sasl.oauthbearer.token.endpoint.url"), ("kafka", "ssl.keystore.location"),
    ("registry", "key_location"), ("s3", "access_key_id"), ("encryption", "key_file"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "name"), SECRET_SETTINGS)
def test_a_secret_among_the_settings_is_refused(table: str, name: str) -> None:
    told = chart.refusal(with_accounts({}), {"settings": {table: {name: "canary"}}})

    assert secret_name(f"{table}.{name}")
    assert f"workers.g0: {table}.{name} holds a secret" in told
    assert f"{{setting: {table}.{name}, secret: NAME, key: KEY}}" in told
    assert "canary" not in told


@pytest.mark.parametrize(
    ("table", "name", "url"),
    [
        ("ledger", "url", "postgresql://me:canary@db/jobs"),
        ("ledger", "url", "postgresql://db/jobs?user=me&password=canary"),
        ("registry", "url", "https://me:canary@registry"),
        ("registry", "url", "https://canary@registry"),
        ("registry", "url", "https://one,https://canary:@two"),
        ("ledger", "url", "postgresql://me:1,canary@[::1]:5432/jobs"),
        ("ledger", "url", "postgresql://me:1/canary@db/jobs"),
        ("outbox", "url", "postgresql://me:a/canary@db/jobs"),
        ("outbox", "url", "postgresql://me:a?canary@db/jobs"),
    ],
)
def test_a_url_with_a_password_among_the_settings_is_refused(
    table: str, name: str, url: str
) -> None:
    told = chart.refusal(with_accounts({}), {"settings": {table: {name: url}}})

    assert f"{table}.{name} holds a secret" in told
    assert "canary" not in told


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("registry", "password", ""),
        ("registry", "password", None),
        ("registry", "url", "https://registry/a@b,https://registry?c@d"),
        ("ledger", "url", "postgresql://db:5432/jobs?user=svc@corp"),
        ("ledger", "url", "postgresql://h1:5432,h2:5433/jobs?user=svc@corp"),
        ("ledger", "url", "postgresql://[::1]:5432/jobs?user=svc@corp"),
        ("ledger", "url", "postgresql://me@db:5432/jobs?application_name=a@b"),
    ],
)
def test_a_setting_without_a_secret_in_it_is_taken(
    table: str, name: str, value: str | None
) -> None:
    chart.rendered(with_accounts({}), {"settings": {table: {name: value}}})


PATHS = ["kafka.sasl.kerberos.keytab", "kafka.ssl.ca.location", "http.ca_file",
         "kafka.sasl.oauthbearer.assertion.private.key.file"]  # fmt: skip
CONTENTS = ["kafka.sasl.password", "outbox.url", "kafka.ssl.key.pem", "registry.token"]


def test_a_secret_is_a_path_where_its_setting_names_one() -> None:
    names = [*PATHS, *CONTENTS]
    listed = [{"setting": n, "secret": "s", "key": f"k{i}"} for i, n in enumerate(names)]
    values = {**with_accounts({}), "relay": {"enabled": True}, "secrets": listed}

    given = [secrets_in(spec) for _, spec in chart.pod_specs(chart.rendered(values))]

    assert [names_path(n) for n in names] == [True] * len(PATHS) + [False] * len(CONTENTS)
    assert set.union(*given) == {
        (n.replace(".", "_").upper() + ("" if n in PATHS else "_FILE"), f"k{i}")
        for i, n in enumerate(names)
    }


def test_settings_that_are_no_secret_are_taken() -> None:
    settings: dict[str, Any] = {"ledger": {"url": "postgresql://me@db/jobs"}}
    for table, name in PLAIN_SETTINGS:
        assert not secret_name(f"{table}.{name}")
        settings.setdefault(table, {})[name] = "/x"

    chart.rendered({**with_accounts({}), "settings": settings})


def test_the_content_of_a_file_is_not_taken_for_its_path() -> None:
    (entry,) = [each for each in SECRETS if each.get("setting") == "encryption.key_file"]

    told = chart.refusal(with_accounts({}), {"secrets": [{**entry, "as": "content"}]})

    assert "encryption.key_file names a file, and the content of the secret would" in told
    chart.rendered(with_accounts({}), {"secrets": [{**entry, "as": "path"}]})


@pytest.mark.parametrize("kind", ["PrometheusRule", "ConfigMap"])
def test_alerts_lead_to_runbooks_where_they_are_said_to_be(kind: str) -> None:
    base = "https://git.example.com/processor/blob/main/docs/runbooks"
    told = {"enabled": True, "kind": kind, "runbookUrl": f"{base}/"}

    made = chart.named(chart.rendered({"monitoring": {"alerts": told}}), kind, "alerts")

    text = made["spec"] if kind == "PrometheusRule" else made["data"]["processor-alerts.yaml"]
    document = text if isinstance(text, dict) else yaml.safe_load(text)
    rules = [rule for group in document["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(rules) == len(alerts())
    for rule, shipped in zip(rules, alerts(), strict=True):
        page = shipped["annotations"]["runbook"].removeprefix("docs/runbooks/")
        assert rule["annotations"] == {**shipped["annotations"], "runbook_url": f"{base}/{page}"}
