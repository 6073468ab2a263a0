"""Static members (`group.instance.id`): what they keep, who gets it, and who is told to go."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from processor.adapters import membership
from processor.adapters.kafka import KafkaLog
from processor.adapters.topic_admin import TopicAdmin
from processor.contracts.topic import TopicSpec
from processor.engine.ports import CommitRefused, Committed
from processor.errors import UsageError
from tests.adapters.log_conformance import Cluster, Member, polls, sent, until

pytestmark = pytest.mark.broker

CLASSIC = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
COOPERATIVE = CLASSIC
EAGER = {"partition.assignment.strategy": "range", **CLASSIC}
CONSUMER = {"group.protocol": "consumer"}
EVERY = pytest.mark.parametrize(
    "group",
    [COOPERATIVE, EAGER, CONSUMER],
    ids=["cooperative", "eager", "consumer-protocol"],
    indirect=True,
)
IN_CLASSIC = pytest.mark.parametrize(
    "group", [COOPERATIVE, EAGER], ids=["cooperative", "eager"], indirect=True
)

Group = Callable[[str], Member]


@pytest.fixture
def group(kafka: Any, request: pytest.FixtureRequest) -> Iterator[Group]:
    """Make members of a fresh group by their ids, over fresh topics of two partitions."""
    name = f"static-{uuid.uuid4().hex[:12]}"
    admin = TopicAdmin({"bootstrap.servers": kafka.bootstrap_servers})
    for topic in (name, f"{name}.retry.1"):
        admin.create(TopicSpec(topic, 2, 1, {}))
    cluster = Cluster(name, f"{name}.retry.1", lambda: KafkaLog({}, group=name, name="none"))

    def member(instance_id: str) -> Member:
        settings = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.instance.id": instance_id,
            **request.param,
        }
        cluster.make = lambda: KafkaLog(settings, group=name, name=uuid.uuid4().hex[:6])
        return cluster.member()

    yield member
    cluster.close()


def shared(group: Group) -> tuple[Member, Member]:
    """Two members, each with one partition, that have forgotten how it came."""
    first, second = group("a"), group("b")
    until(
        [first, second],
        lambda: len(first.owned) == len(second.owned) == 1,
        what="they share",
    )
    polls([first, second], seconds=1.5)
    first.told.clear()
    second.told.clear()
    return first, second


@EVERY
def test_restart_within_the_session_gives_the_partitions_back_and_moves_no_others(group: Group):
    first, second = shared(group)
    (mine,) = first.owned
    sent(second, mine, 3)
    until([first, second], lambda: first.offsets(mine) == [0, 1, 2], what="they are read")

    first.log.commit({mine: Committed(2, "epoch=4")})
    first.log.close()
    polls([second], seconds=1.0)
    again = group("a")
    until([again, second], lambda: len(again.records) == 1, what="it reads on")

    assert again.owned == {mine}
    assert again.offsets(mine) == [2]
    assert again.log.committed([mine]) == {mine: Committed(2, "epoch=4")}
    assert second.told == []


@EVERY
def test_static_member_that_stays_away_loses_its_partitions_with_its_session(group: Group):
    first, second = shared(group)
    (mine,) = first.owned

    first.log.close()
    closed_at = time.monotonic()
    polls([second], seconds=2.0)
    kept = set(second.owned)
    until([second], lambda: mine in second.owned, what="the other is given it")

    assert mine not in kept
    assert time.monotonic() - closed_at > 3.0


@IN_CLASSIC
def test_newcomer_of_the_same_id_takes_over_and_the_earlier_member_is_told_to_go(group: Group):
    first, second = shared(group)
    (mine,) = first.owned

    newcomer = group("a")
    until([newcomer, second], lambda: newcomer.owned == {mine}, what="the newcomer has it")
    newcomer.log.commit({mine: Committed(0, "epoch=5")})
    with pytest.raises(CommitRefused):
        first.log.commit({mine: Committed(0, "epoch=4")})
    polls([newcomer, second], seconds=1.5)  # By now its client knows, without having been polled.
    with pytest.raises(CommitRefused):
        first.log.commit({mine: Committed(0, "epoch=4")})
    with pytest.raises(UsageError) as caught:
        until([first], lambda: False, what="it is told")

    assert first.told == [("lost", [mine])]
    assert first.owned == set()
    assert "another process has joined" in caught.value.message
    assert "`a`" in caught.value.message
    assert newcomer.log.committed([mine]) == {mine: Committed(0, "epoch=5")}
    assert second.told == []


@pytest.mark.parametrize("group", [CONSUMER], ids=["consumer-protocol"], indirect=True)
def test_newcomer_of_the_same_id_waits_until_the_earlier_member_has_gone(
    group: Group, caplog: pytest.LogCaptureFixture
):
    first, second = shared(group)
    (mine,) = first.owned

    newcomer = group("a")
    polls([first, second, newcomer], seconds=5.0)
    waited = (set(newcomer.owned), set(first.owned), first.told[:], second.told[:])
    tries = [each for each in caplog.messages if "still belongs to another member" in each]
    first.log.commit({mine: Committed(0, "epoch=4")})
    first.log.close()
    until([newcomer, second], lambda: newcomer.owned == {mine}, what="the newcomer has it")

    assert waited == (set(), {mine}, [], [])
    assert len(tries) in (2, 3)  # At once, after a second, and after two more.
    assert "`a`" in tries[0]
    assert tries[0].endswith("joining again in 1 s")
    assert tries[1].endswith("joining again in 2 s")
    assert newcomer.log.committed([mine]) == {mine: Committed(0, "epoch=4")}
    assert second.told == []


@pytest.mark.parametrize("group", [CONSUMER], ids=["consumer-protocol"], indirect=True)
def test_member_that_waits_for_its_id_can_be_closed(group: Group):
    first = group("a")
    until([first], lambda: len(first.owned) == 2, what="it has joined")
    newcomer = group("a")
    polls([first, newcomer], seconds=0.5)

    newcomer.log.close()
    newcomer.log.close()

    assert newcomer.told == []
    assert len(first.owned) == 2


def test_waits_grow_up_to_a_bound():
    rejoin = membership.Rejoin("a", "g")
    waits = []

    for _ in range(6):
        rejoin.later(100.0)
        waits.append(rejoin.at - 100.0)

    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
