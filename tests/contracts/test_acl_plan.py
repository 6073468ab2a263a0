from __future__ import annotations

from collections.abc import Sequence

import pytest

from processor.contracts.acl_plan import (
    ROLES,
    Acl,
    Deployment,
    Role,
    compare,
    rights_of,
    spared,
)
from processor.contracts.topic import Topic

MAIL = Topic.model_validate({"name": "mail", "jobs": ["mail.send"], "partitions": 3,
                             "retry": {"delays": ["1s", "1m"]}})  # fmt: skip
QUIET = Topic.model_validate(
    {"name": "quiet", "jobs": ["a.b"], "partitions": 1, "retry": {"delays": []},
     "status": {"publish": False}}
)  # fmt: skip
GROUP = Deployment("mailers")

# What Kafka's authorizer lets pass with each operation (KIP-11, KIP-133).
IMPLIES = {"Read": {"Describe"}, "Write": {"Describe"}, "Alter": {"Describe"},
           "Delete": {"Describe"}, "AlterConfigs": {"DescribeConfigs"}}  # fmt: skip


def needed(role: Role, topic: Topic = MAIL, deployment: Deployment = GROUP) -> set[tuple[str, str]]:
    rights = rights_of({role: [f"User:{role}"]}, [topic], deployment)
    return {(each.acl.operation, each.acl.name) for each in rights}


def test_worker_reads_jobs_and_retries_and_appends_what_becomes_of_them():
    assert needed("worker") == {
        ("Read", "mailers"),
        ("Read", "mail"),
        ("Read", "mail.retry.1"),
        ("Write", "mail.retry.1"),
        ("Read", "mail.retry.2"),
        ("Write", "mail.retry.2"),
        ("Write", "mail.dlt"),
        ("Write", "mail.status"),
    }


def test_worker_without_a_ledger_reads_the_dead_letters_too():
    without = needed("worker", deployment=Deployment("mailers", remembers=False))

    assert without - needed("worker") == {("Read", "mail.dlt")}


def test_worker_writes_to_the_topics_of_its_sinks():
    sinks = needed("worker", deployment=Deployment("mailers", result_topics=["sent"]))

    assert sinks - needed("worker") == {("Write", "sent")}


def test_topics_that_are_not_declared_need_no_rights():
    assert needed("worker", QUIET) == {
        ("Read", "mailers"),
        ("Read", "quiet"),
        ("Write", "quiet.dlt"),
    }
    assert needed("producer", QUIET) == {("Write", "quiet")}


def test_producer_and_relay_append_to_the_main_topic_alone():
    assert needed("relay") == {("Write", "mail")}
    assert needed("producer") == {("Write", "mail"), ("Read", "mail.status")}


def test_operator_reads_everything_and_writes_to_main_for_replays():
    rights = needed("operator")

    assert {name for operation, name in rights if operation == "Write"} == {"mail"}
    assert ("Describe", "mailers") in rights
    assert {name for operation, name in rights if operation == "Read"} == set(MAIL.all_names)


def test_only_the_provisioner_has_a_right_on_the_cluster_and_it_changes_nothing():
    for role in ROLES:
        rights = rights_of({role: [f"User:{role}"]}, [MAIL], GROUP)
        on_cluster = [each.acl.operation for each in rights if each.acl.resource == "cluster"]

        assert on_cluster == (["Describe"] if role == "provisioner" else [])


@pytest.mark.parametrize("role", ROLES)
def test_no_right_is_implied_by_another(role: Role):
    rights = rights_of({role: [f"User:{role}"]}, [MAIL], GROUP)
    held = {(each.acl.resource, each.acl.name, each.acl.operation) for each in rights}

    for resource, name, operation in held:
        assert not held & {(resource, name, each) for each in IMPLIES.get(operation, ())}


def test_every_right_is_literal_allowed_and_explained():
    for right in rights_of({role: [f"User:{role}"] for role in ROLES}, [MAIL, QUIET], GROUP):
        assert (right.acl.pattern, right.acl.permission, right.acl.host) == (
            "literal",
            "allow",
            "*",
        )
        assert right.why


def test_principal_of_two_roles_needs_each_entry_once():
    rights = rights_of({"producer": ["User:app"], "relay": ["User:app"]}, [MAIL], GROUP)

    assert len(rights) == len({each.acl for each in rights}) == 2


def test_comparison_tells_what_is_there_missing_and_beyond():
    rights = rights_of({"relay": ["User:relay"], "producer": ["User:app"]}, [MAIL], GROUP)
    wide = Acl("User:relay", "All", "topic", "mail", pattern="prefixed")
    denied = Acl("User:app", "Write", "topic", "mail", permission="deny")
    foreign = Acl("User:billing", "Read", "topic", "mail")

    found = compare(rights, {rights[0].acl, wide, denied, foreign})

    assert found.granted == (rights[0],)
    assert set(found.missing) == set(rights[1:])
    assert set(found.beyond) == {wide, denied}


def beyond(*existing: Acl, roles: Sequence[Role] = ROLES) -> set[Acl]:
    """Of what `User:app` has: what is beyond its rights on `mail`, chosen by topic and roles."""
    rights = rights_of({role: ["User:app"] for role in roles}, [MAIL], GROUP)
    left = spared(rights, existing, roles=roles, topics=[MAIL], deployment=GROUP)
    return set(compare(rights, existing, left).beyond)


def test_rights_on_topics_and_groups_that_were_not_chosen_are_not_beyond():
    elsewhere = [
        Acl("User:app", "Write", "topic", "billing"),
        Acl("User:app", "Read", "topic", "mail-archive"),
        Acl("User:app", "All", "topic", "mail-", pattern="prefixed"),
        Acl("User:app", "Read", "group", "billers"),
    ]

    assert beyond(*elsewhere) == set()


@pytest.mark.parametrize(
    "acl",
    [
        Acl("User:app", "Delete", "topic", "mail"),
        Acl("User:app", "All", "topic", "mail.dlt"),
        Acl("User:app", "All", "group", "mailers"),
        Acl("User:app", "Write", "topic", "mail", permission="deny"),
        Acl("User:app", "Read", "topic", "ma", pattern="prefixed"),
        Acl("User:app", "Read", "topic", "*"),
    ],
)
def test_what_reaches_a_chosen_topic_or_group_is_beyond(acl: Acl):
    assert beyond(acl) == {acl}


def test_rights_of_a_second_role_are_not_beyond_where_the_first_was_chosen():
    second = [each.acl for each in rights_of({"worker": ["User:app"]}, [MAIL], GROUP)]
    wide = Acl("User:app", "Delete", "topic", "mail")
    denied = Acl("User:app", "Read", "topic", "mail", permission="deny")

    assert beyond(*second, wide, denied, roles=["producer"]) == {wide, denied}
