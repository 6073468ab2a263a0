"""What cannot be planted on one broker, and the edges of what can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from processor.adapters.kafka_settings import consumer_settings, producer_settings
from processor.check.areas import RULES, chosen_ids, find_all
from processor.check.facts import ClaimBucket, Clock, Cluster, Facts, Offsets
from processor.contracts.claim_rules import claim_days, claim_seconds, with_our_rule
from processor.contracts.topic import Topic
from processor.contracts.topic_plan import ExistingTopic
from processor.errors import UsageError
from processor.model import Partition
from processor.settings import Settings
from tests.check.reference import DOCUMENT, document
from tests.check.test_check import FAULTS

HERE = {
    "ledger.shared", "claims.shared", "client.plaintext", "claims.frozen", "acl.missing",
    "schema.tags",
}  # fmt: skip


def topic(**more: Any) -> Topic:
    return Topic.model_validate(
        {"name": "mail", "jobs": ["a.b"], "partitions": 6, "retry": {"delays": ["1s"]}, **more}
    )


def cluster(declared: Topic, brokers: int = 3) -> Cluster:
    topics = {
        spec.name: ExistingTopic(spec.name, spec.partitions, spec.replication, spec.config)
        for spec in declared.all_topics(brokers)
    }
    return Cluster(brokers, topics, {"offsets.retention.minutes": "10080"})


def facts(declared: Topic | None = None, *, settings: Any = None, **more: Any) -> Facts:
    declared = declared or topic()
    known = Settings.model_validate(settings or {})
    seconds = claim_seconds([declared])
    rules = with_our_rule([], "claims/", None if seconds is None else claim_days(seconds))
    given = {
        "cluster": cluster(declared),
        "bucket": ClaimBucket("jobs", "claims/", tuple(rules)),
        **more,
    }
    return Facts(
        settings=known,
        topics=(declared,),
        now=1_000_000.0,
        consumer=consumer_settings(known.kafka, "g", "c"),
        producer=producer_settings(known.kafka, "c"),
        **given,
    )


def with_topic(declared: Topic, name: str, **changes: Any) -> Cluster:
    known = cluster(declared)
    config = {**known.topics[name].config, **changes.pop("config", {})}
    changed = replace(known.topics[name], config=config, **changes)
    return replace(known, topics={**known.topics, name: changed})


def told(given: Facts) -> list[tuple[str, str]]:
    return [(each.rule.id, each.what) for each in find_all(given)]


def test_every_rule_is_planted_somewhere():
    planted = {rule for rule, _, _ in FAULTS}

    assert planted | HERE == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_table_of_checks_in_the_docs_is_that_of_the_code():
    written = DOCUMENT.read_text(encoding="utf-8")

    assert written == document(), "run `python -m tests.check.reference`"


@pytest.mark.parametrize("hold", [False, True])
def test_three_brokers_as_declared_are_silent(hold: bool):
    policy = {"dead_letter": {"policy": "hold" if hold else "continue"}}

    assert told(facts(topic(**policy))) == []


def test_nothing_known_finds_nothing():
    assert told(facts(cluster=None, bucket=None)) == []


@pytest.mark.parametrize(
    ("changes", "rule", "what"),
    [
        ({"replication": 2}, "topic.replication", "2 replicas, declared are 3"),
        (
            {"config": {"min.insync.replicas": "1"}},
            "topic.min-insync-replicas",
            "min.insync.replicas is 1 of 3 replicas, declared is 2",
        ),
        (
            {"config": {"min.insync.replicas": "3"}},
            "topic.min-insync-replicas",
            "min.insync.replicas is 3 of 3 replicas: no broker may be down",
        ),
        (
            {"config": {"min.insync.replicas": "4"}},
            "topic.min-insync-replicas",
            "min.insync.replicas is 4 of 3 replicas: every write is refused",
        ),
    ],
)
def test_replicas_of_three_brokers(changes: Any, rule: str, what: str):
    found = with_topic(topic(), "mail", **changes)

    assert (rule, what) in told(facts(cluster=found))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"cleanup.policy": "delete"}, None),
        ({"cleanup.policy": "compact,delete"}, "topic.cleanup-policy"),
        ({"retention.ms": "3600000"}, "topic.retention"),
        ({"retention.ms": "1100"}, "topic.retention-delays"),
        ({"retention.ms": "1101"}, "topic.retention"),
        ({"max.message.bytes": "1114123"}, "topic.max-message-bytes"),
        ({"max.message.bytes": "9999999"}, None),
        ({"retention.bytes": "0"}, "topic.retention-bytes"),
    ],
)
@pytest.mark.parametrize("name", ["mail.retry.1", "mail.dlt"])
def test_settings_of_retry_and_dead_letter_topics(changes: Any, rule: str | None, name: str):
    found = with_topic(topic(), name, config=changes)

    assert [each for each, _ in told(facts(cluster=found))] == ([] if rule is None else [rule])


@pytest.mark.parametrize(
    ("declared", "mend"),
    [("7d", "processor topics apply mail"), ("500ms", "lengthen `retention`")],
)
def test_topic_that_keeps_less_than_its_file_says_needs_no_other_file(declared: str, mend: str):
    mail = topic(retention=declared, retry={"delays": ["1s"], "retention": "7d"})
    found = with_topic(mail, "mail", config={"retention.ms": "500"})

    (finding,) = find_all(facts(mail, cluster=found))

    assert finding.rule.id == "topic.retention-delays"
    assert finding.mend.startswith(mend)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"kafka": {"session.timeout.ms": "9000"}}, None),
        ({"kafka": {"session.timeout.ms": "8999"}}, "client.session-timeout"),
        ({"kafka": {"heartbeat.interval.ms": "20000"}}, "client.session-timeout"),
        ({"worker": {"drain_seconds": "270", "shutdown_seconds": "300"}}, None),
        (
            {"worker": {"drain_seconds": "271", "shutdown_seconds": "300"}},
            "client.max-poll-interval",
        ),
        ({"kafka": {"message.max.bytes": "141312"}}, None),
        ({"kafka": {"message.max.bytes": "141311"}}, "client.message-max-bytes"),
        ({"kafka": {"delivery.timeout.ms": "60000"}}, None),
        ({"kafka": {"delivery.timeout.ms": "59999"}}, "client.delivery-timeout"),
        ({"kafka": {"isolation.level": "read_committed"}}, None),
    ],
)
def test_edges_of_client_settings(settings: Any, rule: str | None):
    found = [each for each, _ in told(facts(settings=settings))]

    assert found == ([] if rule is None else [rule])


def test_single_copy_that_is_declared_on_three_brokers_is_an_error_all_the_same():
    (first, *_) = told(facts(topic(replication=1)))

    assert first == ("topic.replication", "1 replica, and the cluster has 3 brokers")


def test_retry_topic_with_too_few_partitions_is_told_by_its_main_topic():
    found = with_topic(topic(), "mail.retry.1", partitions=4)

    ((rule, what),) = told(facts(cluster=found))

    assert rule == "topic.partitions"
    assert what.startswith("topic `mail` has 6 partitions, `mail.retry.1` has 4: job p is retried")


def test_what_the_cluster_keeps_longer_is_counted():
    kept = with_topic(topic(), "mail.retry.1", config={"retention.ms": str(40 * 86_400_000)})

    ids = [rule for rule, _ in told(facts(cluster=kept))]

    assert ids == ["group.offsets-retention", "ledger.retention", "claims.lifetime"]


@pytest.mark.parametrize(
    ("days", "found"),
    [
        (30, []),
        (31, ["ledger.retention", "claims.lifetime"]),
        (-1, ["ledger.retention", "claims.lifetime"]),
    ],
)
def test_dead_letters_must_not_outlive_what_the_ledger_knows_of_them(days: int, found: list[str]):
    milliseconds = -1 if days < 0 else days * 86_400_000
    kept = with_topic(topic(), "mail.dlt", config={"retention.ms": str(milliseconds)})

    rows = told(facts(cluster=kept))

    assert [rule for rule, _ in rows] == found
    assert not rows or rows[0][1].endswith("and the ledger knows their jobs for 2592000 s")


def test_claims_of_a_topic_that_keeps_its_dead_for_ever_must_not_expire():
    declared = topic(dead_letter={"policy": "hold"})
    rules = with_our_rule([], "claims/", 1000)

    ((rule, what),) = told(facts(declared, bucket=ClaimBucket("jobs", "claims/", tuple(rules))))

    assert rule == "claims.lifetime"
    assert what.endswith("deletes claims after 1000 days, they are needed for ever")


def bucket(*more: Any) -> ClaimBucket:
    days = claim_days(claim_seconds([topic()]) or 0)
    return ClaimBucket("jobs", "claims/", (*with_our_rule([], "claims/", days), *more))


@pytest.mark.parametrize(
    "rule",
    [
        {"Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 1}},
        {"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 1}},
        {"Prefix": "", "Expiration": {"Days": 1}, "Status": "Disabled"},
        {"Prefix": "", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}},
        {"Prefix": "", "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}]},
    ],
)
def test_rules_that_delete_no_claim_are_silent(rule: Any):
    assert told(facts(bucket=bucket({"Status": "Enabled", **rule}))) == []


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ({"Prefix": "", "Expiration": {"Days": 1}}, "claims.lifetime"),
        ({"Filter": {}, "Expiration": {"Date": "2020-01-01"}}, "claims.lifetime"),
        ({"Filter": {"Prefix": "claims/ab"}, "Expiration": {"Days": 1}}, "claims.lifetime"),
        (
            {"Filter": {"And": {"Prefix": "cl", "ObjectSizeGreaterThan": 9}},
             "Expiration": {"Days": 1}},
            "claims.lifetime",
        ),
        (
            {"Filter": {"Prefix": "claims/"}, "Transitions": [
                {"Days": 9, "StorageClass": "GLACIER"}]},
            "claims.frozen",
        ),
    ],
)  # fmt: skip
def test_rules_of_others_that_meet_claims_are_found(rule: Any, found: str):
    given = facts(bucket=bucket({"ID": "theirs", "Status": "Enabled", **rule}))

    assert [each.rule.id for each in find_all(given)] == [found]
    assert "theirs" in find_all(given)[0].what


def test_rights_are_judged_by_role_and_resource():
    declared = topic(status={"publish": False})
    reads = frozenset({"Read", "Describe"})
    may = {
        ("group", "processor"): reads,
        ("topic", "mail"): reads,
        ("topic", "mail.retry.1"): reads,  # A worker writes there.
        ("topic", "mail.dlt"): frozenset[str](),
    }
    settings = {"worker": {"group": "processor"}}

    worker = facts(declared, settings=settings, cluster=None, roles=("worker",), may=may)
    nobody = facts(declared, settings=settings, cluster=None, may=may)
    hidden = facts(declared, settings=settings, cluster=None, roles=("provisioner",), may={
        ("topic", "mail"): frozenset[str](),
    })  # fmt: skip
    unknown = facts(declared, settings=settings, cluster=None, roles=("worker",), may={})

    assert [(each.rule.id, each.subject) for each in find_all(worker)] == [
        ("acl.missing", "topic mail.retry.1"),
        ("acl.missing", "topic mail.dlt"),
    ]
    assert [what.split()[0] for _, what in told(hidden)] == ["Alter"]  # Create may be there.
    assert told(nobody) == told(unknown) == []


def test_credentials_of_two_roles_need_the_rights_of_both():
    declared = topic(status={"publish": False})
    may = {("topic", "mail"): frozenset({"Write"})}

    both = facts(declared, cluster=None, roles=("producer", "worker"), may=may)

    assert told(both) == [
        ("acl.missing", "Read is not allowed; the role worker reads jobs"),
    ]
    assert told(replace(both, roles=("producer",))) == []


def test_members_on_two_machines_cannot_share_a_file():
    both = facts(hosts=("/10.0.0.1", "/10.0.0.2"))
    shared = facts(hosts=both.hosts, settings={"ledger": {"url": "postgresql://db/jobs"}})

    assert [rule for rule, _ in told(both)] == ["ledger.shared"]
    assert told(shared) == told(facts(hosts=("/10.0.0.1", "/10.0.0.1"))) == []


def test_members_on_two_machines_cannot_share_a_folder_of_claims():
    ledger = {"url": "postgresql://db/jobs"}
    folder = {"ledger": ledger, "claims": {"store": "file:///var/lib/claims"}}
    store = {"ledger": ledger, "claims": {"store": "s3://jobs/claims"}}
    hosts = ("/10.0.0.1", "/10.0.0.2")

    ((rule, what),) = told(facts(hosts=hosts, settings=folder, bucket=None, cluster=None))

    assert rule == "claims.shared"
    assert what == (
        "file:///var/lib/claims is a folder, and group `processor` has members at"
        " /10.0.0.1, /10.0.0.2"
    )
    assert told(facts(hosts=hosts, settings=store)) == []
    assert told(facts(hosts=hosts[:1] * 2, settings=folder)) == []


@pytest.mark.parametrize(
    ("servers", "mechanism", "found"),
    [
        ("kafka:9092", "PLAIN", True),
        ("127.0.0.1:9092, kafka:9092", "PLAIN", True),
        ("127.0.0.1:9092", "PLAIN", False),
        ("kafka:9092", "SCRAM-SHA-512", False),
    ],
)
def test_password_in_the_clear(servers: str, mechanism: str, found: bool):
    kafka = {
        "bootstrap.servers": servers,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
    }

    ids = [rule for rule, _ in told(facts(settings={"kafka": kafka}))]

    assert ids == (["client.plaintext"] if found else [])


@pytest.mark.parametrize(
    ("url", "found"),
    [("http://registry:8081", True), ("https://registry", False), ("http://127.0.0.1:1", False)],
)
def test_registry_password_in_the_clear(url: str, found: bool):
    registry = {"url": url, "username": "me", "password": "canary"}

    rows = told(facts(settings={"registry": registry}))

    assert [rule for rule, _ in rows] == (["client.plaintext"] if found else [])
    assert "canary" not in str(rows)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"registry": {"url": "http://registry:8081", "token": "canary"}}, True),
        ({"registry": {"url": "http://127.0.0.1,http://registry", "token": "canary"}}, True),
        ({"registry": {"url": "http://me:canary@registry:8081"}}, True),
        ({"registry": {"url": "http://127.example:8081", "token": "canary"}}, True),
        ({"registry": {"url": "http://localhost:8081", "token": "canary"}}, False),
        ({"registry": {"url": "http://[::1]:8081", "token": "canary"}}, False),
        ({"kafka": {"sasl.oauthbearer.token.endpoint.url": "http://[x"}}, False),
        ({"registry": {"url": "http://registry:8081"}}, False),
        ({"kafka": {"sasl.oauthbearer.token.endpoint.url": "http://login/token"}}, True),
        ({"kafka": {"sasl.oauthbearer.token.endpoint.url": "https://login/token"}}, False),
        ({"encryption": {"kms_endpoint_url": "http://kms:4566"}}, True),
        ({"encryption": {"kms_endpoint_url": "http://127.0.0.1:4566"}}, False),
    ],
)
def test_token_or_key_in_the_clear(settings: dict[str, Any], found: bool):
    rows = told(facts(settings=settings))

    assert [rule for rule, _ in rows] == (["client.plaintext"] if found else [])
    assert "canary" not in str(rows)


@pytest.mark.parametrize(
    ("at", "found"),
    [
        (Offsets(first=5, end=9, committed=5), False),
        (Offsets(first=5, end=9, committed=9), False),
        (Offsets(first=5, end=9, committed=None), False),
        (Offsets(first=5, end=9, committed=4), True),
        (Offsets(first=0, end=2, committed=9), True),
    ],
)
def test_committed_offset_must_be_on_its_topic(at: Offsets, found: bool):
    ids = [rule for rule, _ in told(facts(offsets={Partition("mail", 0): at}))]

    assert ids == (["group.offset-lost"] if found else [])


@pytest.mark.parametrize(("ahead", "found"), [(29.0, 0), (30.0, 1), (-30.0, 1)])
def test_clock_may_be_half_a_minute_off(ahead: float, found: int):
    assert len(told(facts(clocks=(Clock("registry", ahead),)))) == found


def test_ids_are_taken_by_area_too():
    assert chosen_ids(["claims", "topic.missing"]) == {
        "claims.lifetime", "claims.frozen", "claims.expiry", "claims.uploads", "claims.shared",
        "topic.missing",
    }  # fmt: skip
    with pytest.raises(UsageError, match="no check is called `claim`"):
        chosen_ids(["claim"])
