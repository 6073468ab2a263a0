"""Static membership (`group.instance.id`): what ends a member for good, and joining again.

Rule 1: an id belongs to one member at a time. With the classic protocols a newcomer takes it over
        at once, and the earlier member is *fenced*: its requests are refused for good.
Rule 2: with `group.protocol=consumer` the earlier member keeps it until it closes or its session
        ends. The newcomer's client is unusable then: a new one tries again, ever less often.
Rule 3: a client that has ended for any other reason cannot be mended either: the worker ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError

from processor.adapters.broker import Need, fault_of, lacks_right, servers_of
from processor.errors import ProcessorError, UsageError

REJOIN_SECONDS = (1.0, 2.0, 4.0, 8.0)  # The last again and again.

# A commit that is answered so may be another owner's to make.
COMMIT_REFUSED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._STATE,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._NO_OFFSET,
    KafkaError._FATAL,  # `poll` tells why.
    113,  # STALE_MEMBER_EPOCH: the member has to learn of a newer assignment first.
    110,  # FENCED_MEMBER_EPOCH
    25,  # UNKNOWN_MEMBER_ID
}

# A fatal error carries the cause in its text alone.
_FENCED = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
_IN_USE = KafkaError(111).str()  # UNRELEASED_INSTANCE_ID

_LOGGER = logging.getLogger(__name__)


class IdInUse(ProcessorError):
    """Another member still has the id that this one is to join with."""


class Rejoin:
    """When a member whose id was in use tries again."""

    def __init__(self, instance_id: str, group: str) -> None:
        self.instance_id = instance_id
        self.group = group
        self.waiting = False
        self.at = 0.0  # Monotonic seconds.
        self._tries = 0

    def later(self, now: float) -> None:
        """Plan the next try."""
        seconds = REJOIN_SECONDS[min(self._tries, len(REJOIN_SECONDS) - 1)]
        self._tries += 1
        self.waiting, self.at = True, now + seconds
        _LOGGER.warning(
            "kafka.group.instance.id `%s` still belongs to another member of group `%s`: an earlier"
            " process keeps it until it ends or its session does; joining again in %.0f s",
            self.instance_id,
            self.group,
            seconds,
        )

    def begun(self) -> None:
        """The next try is under way."""
        self.waiting = False


def end_of(error: KafkaError, settings: Mapping[str, Any], rejoin: Rejoin) -> ProcessorError:
    """Tell why a client has ended for good."""
    text = error.str()
    if _IN_USE in text:
        return IdInUse(text)
    if _FENCED in text:
        return UsageError(
            f"another process has joined group `{rejoin.group}` as `{rejoin.instance_id}`, which is"
            " this worker's kafka.group.instance.id: the partitions are its own now",
            hint="give every worker an id of its own; jobs that ran here are run again there",
        )
    if lacks_right(error):
        need = Need("Read", "group", rejoin.group)
        return fault_of(error, settings, "working as a member", need=need)
    return ProcessorError(
        f"the client of Kafka at {servers_of(settings)} has ended for good: {text}",
        hint="start the worker again",
    )
