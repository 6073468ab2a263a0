"""What Kafka's clients are made with: the user's `[kafka]` over what the promise rests on."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

# The client's own settings; `[kafka]` may change all that the promise does not rest on.
_COMMON: dict[str, Any] = {
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 2000,
    "allow.auto.create.topics": False,
    "log_level": 0,  # It would write to stderr past our log; the same comes through error_cb.
}
_CONSUMER: dict[str, Any] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "auto.offset.reset": "error",
    "check.crcs": True,
    # A broker that hangs keeps the loop in a commit for as long; the client would wait for 60 s.
    "socket.timeout.ms": 15_000,
    "fetch.queue.backoff.ms": 50,  # The default of a second makes the intake a saw-tooth.
    "fetch.wait.max.ms": 100,
    "queued.min.messages": 5000,
    "queued.max.messages.kbytes": 16384,
    # Of each partition in one answer, compressed: the client unpacks all of them before it looks
    # how much it has queued. A larger record still comes, alone.
    "fetch.message.max.bytes": 256 * 1024,
}
_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "partitioner": "murmur2_random",  # What Java producers use: one key, one partition, for all.
    "compression.type": "lz4",
    "linger.ms": 5,
    # The topic's own max.message.bytes decides; a value is never over what a worker decodes.
    "message.max.bytes": 17 * 1024 * 1024,
}
_CONSUMER_ONLY_PREFIXES = ("fetch.", "queued.", "session.timeout", "heartbeat.", "max.poll.",
                           "group.", "partition.assignment", "check.crcs", "isolation.level",
                           "max.partition.fetch")  # fmt: skip
_PRODUCER_ONLY_PREFIXES = ("linger.", "batch.", "compression.", "queue.buffering.", "message.",
                           "delivery.", "request.timeout", "sticky.", "retries", "acks",
                           "retry.backoff", "enable.idempotence", "partitioner")  # fmt: skip


def _without(settings: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith(prefixes)}


def producer_settings(settings: Mapping[str, Any], client_id: str) -> dict[str, Any]:
    """Make a producer's settings."""
    mine = _without(settings, _CONSUMER_ONLY_PREFIXES)
    return {**_COMMON, **_PRODUCER, "client.id": client_id, **mine}


def consumer_settings(settings: Mapping[str, Any], group: str, client_id: str) -> dict[str, Any]:
    """What a group member is made with."""
    mine = _without(settings, _PRODUCER_ONLY_PREFIXES)
    made = {**_COMMON, **_CONSUMER, "client.id": client_id, "group.id": group, **mine}
    if made.get("group.protocol", "classic") == "classic":
        made.setdefault("partition.assignment.strategy", "cooperative-sticky")
    return made


def scanner_settings(settings: Mapping[str, Any], group: str) -> dict[str, Any]:
    """What a consumer is made with that reads tiers at a takeover: much at once, no member."""
    scanned = consumer_settings(settings, group, client_id("scanner"))
    for only_members in ("group.protocol", "group.instance.id"):
        scanned.pop(only_members, None)
    return {
        **scanned,
        "enable.partition.eof": True,
        # A message takes several times its bytes in the client: more would only take memory.
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 16_384,
        "fetch.message.max.bytes": 1024 * 1024,
    }


def admin_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a client is made with that only asks: no group, and nothing to produce."""
    mine = _without(settings, _PRODUCER_ONLY_PREFIXES + _CONSUMER_ONLY_PREFIXES)
    return {**_COMMON, "client.id": client_id("asker"), **mine}


def client_id(role: str) -> str:
    """Name this process for the brokers; uniquely, since equal names upset an assignor."""
    return f"processor-{role}-{socket.gethostname()}-{os.getpid()}"
