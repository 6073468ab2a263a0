"""What the Kafka clients are set to. What breaks a promise outright the settings refuse already."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from processor.check.facts import Facts
from processor.check.finding import Finding, Rule

# librdkafka's own defaults.
MAX_POLL_MS = 300_000
SESSION_MS = 45_000
HEARTBEAT_MS = 3_000
HEARTBEATS_MIN = 3
COMMIT_SECONDS = 30.0  # Two commits that wait for their answer as long as they may.
SEND_SECONDS_MIN = 60.0  # Longer than a broker's fail-over takes.

REFUSED = Rule(
    "settings.refused", "error",
    "a setting that is unknown, has no possible value, or would break a promise: `acks`,"
    " `enable.idempotence`, `partitioner`, `enable.auto.commit`, …",
    "nothing starts with it; docs/configuration.md says what each of them would cost",
    "processor config check",
)  # fmt: skip
FILES = Rule(
    "files.refused", "error",
    "a topic or schema file with a fault",
    "nothing starts with it",
    "correct the file",
)  # fmt: skip
POLL = Rule(
    "client.max-poll-interval", "error",
    "`max.poll.interval.ms` too short for `worker.drain_seconds` and the commit after it",
    "a worker that drains is thrown out of its group before it has committed: what it finished is"
    " run again",
    "lengthen max.poll.interval.ms in [kafka], or shorten worker.drain_seconds",
)  # fmt: skip
SESSION = Rule(
    "client.session-timeout", "error",
    "a `session.timeout.ms` that the brokers refuse, or in which fewer than 3 heartbeats fit",
    "workers cannot join, or are thrown out for a lost packet, and their partitions are drained and"
    " taken over each time",
    "set session.timeout.ms and heartbeat.interval.ms in [kafka], or leave them out",
)  # fmt: skip
ISOLATION = Rule(
    "client.isolation-level", "error",
    "`isolation.level` set to `read_uncommitted`",
    "jobs that a producer's transaction took back are worked all the same",
    "take isolation.level out of [kafka]",
)  # fmt: skip
MESSAGE_BYTES = Rule(
    "client.message-max-bytes", "error",
    "`message.max.bytes` of the client below what `message_max` of a topic and its headers need",
    "a job of that size is refused at submission, and a worker that cannot append its copy to a"
    " retry topic gives the partition up again and again",
    "take message.max.bytes out of [kafka]",
)  # fmt: skip
SEND = Rule(
    "client.delivery-timeout", "warning",
    "a time limit for appends shorter than a broker's fail-over takes",
    "each fail-over makes workers give partitions up and take them over again",
    "take message.timeout.ms and delivery.timeout.ms out of [kafka]",
)  # fmt: skip
PLAINTEXT = Rule(
    "client.plaintext", "warning",
    "a password, token or key that crosses the network without encryption",
    "whoever reads it may submit, delete and read jobs",
    "set security.protocol to SASL_SSL, and https:// in the URL",
)  # fmt: skip

RULES = (REFUSED, FILES, POLL, SESSION, ISOLATION, MESSAGE_BYTES, SEND, PLAINTEXT)


def find(facts: Facts) -> Iterator[Finding]:
    """Judge the client settings, also by what the brokers allow."""
    yield from _poll(facts)
    yield from _session(facts)
    if facts.consumer.get("isolation.level") == "read_uncommitted":
        yield ISOLATION.broken("kafka.isolation.level", "it is read_uncommitted")
    yield from _message_bytes(facts)
    for name in ("message.timeout.ms", "delivery.timeout.ms"):
        milliseconds = float(facts.producer.get(name, 0))
        if 0 < milliseconds < SEND_SECONDS_MIN * 1000:
            what = f"it is {milliseconds:g}, at least {SEND_SECONDS_MIN * 1000:g} is expected"
            yield SEND.broken(f"kafka.{name}", what)
    yield from _plaintext(facts)


def _poll(facts: Facts) -> Iterator[Finding]:
    found = float(facts.consumer.get("max.poll.interval.ms", MAX_POLL_MS)) / 1000
    drain = facts.settings.worker.drain_seconds
    if found < drain + COMMIT_SECONDS:
        what = f"it is {found * 1000:g}: {found:g} s, for {drain:g} s of draining and up to"
        what += f" {COMMIT_SECONDS:g} s of committing"
        yield POLL.broken("kafka.max.poll.interval.ms", what)


def _session(facts: Facts) -> Iterator[Finding]:
    if facts.consumer.get("group.protocol", "classic") != "classic":
        return  # The brokers' own settings decide.
    session = int(facts.consumer.get("session.timeout.ms", SESSION_MS))
    heartbeat = int(facts.consumer.get("heartbeat.interval.ms", HEARTBEAT_MS))
    brokers = facts.cluster.settings if facts.cluster is not None else {}
    least = int(brokers.get("group.min.session.timeout.ms", 0))
    most = int(brokers.get("group.max.session.timeout.ms", session))
    name = "kafka.session.timeout.ms"
    if not least <= session <= most:
        what = f"it is {session}, the brokers take {least} to {most}"
        yield SESSION.broken(name, what)
    elif session < HEARTBEATS_MIN * heartbeat:
        what = f"it is {session}, and heartbeat.interval.ms is {heartbeat}"
        yield SESSION.broken(name, what)


def _message_bytes(facts: Facts) -> Iterator[Finding]:
    found = int(facts.producer["message.max.bytes"])
    for topic in facts.topics:
        if found < topic.record_bytes_max:
            what = f"it is {found}, a record of topic `{topic.name}` may have up to"
            what += f" {topic.record_bytes_max} bytes"
            yield MESSAGE_BYTES.broken("kafka.message.max.bytes", what)


def _plaintext(facts: Facts) -> Iterator[Finding]:
    kafka, registry = facts.settings.kafka, facts.settings.registry
    servers = [each.strip() for each in str(kafka.get("bootstrap.servers", "")).split(",")]
    away = [each for each in servers if not _is_here(each.rpartition(":")[0] or each)]
    mechanism = str(kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", "")))
    # SCRAM never sends the password itself.
    if (
        str(kafka.get("security.protocol", "")).lower() == "sasl_plaintext"
        and mechanism.upper() in ("PLAIN", "OAUTHBEARER")
        and away
    ):
        what = f"SASL {mechanism} goes to {away[0]} over SASL_PLAINTEXT"
        yield PLAINTEXT.broken("kafka.security.protocol", what)
    has_secret = registry.password is not None or registry.token is not None
    for each in registry.url.split(","):
        if (host := _host_in_the_clear(each, always=has_secret)) is not None:
            yield PLAINTEXT.broken("registry.url", f"credentials go to {host} over http")
            break
    token_url = str(kafka.get("sasl.oauthbearer.token.endpoint.url", ""))
    if (host := _host_in_the_clear(token_url)) is not None:
        what = f"the client's secret goes to {host} over http, and the token comes back"
        yield PLAINTEXT.broken("kafka.sasl.oauthbearer.token.endpoint.url", what)
    kms_url = facts.settings.encryption.kms_endpoint_url or ""
    if (host := _host_in_the_clear(kms_url)) is not None:
        what = f"data keys come from {host} over http"
        yield PLAINTEXT.broken("encryption.kms_endpoint_url", what)


def _host_in_the_clear(url: str, *, always: bool = True) -> str | None:
    """Name another machine that a URL reaches by http; without `always` where it has a user."""
    try:
        parts = urlsplit(url.strip())
        hostname = parts.hostname or ""
    except ValueError:
        return None
    user, _, host = parts.netloc.rpartition("@")
    shown = parts.scheme == "http" and (always or user) and not _is_here(hostname)
    return host if shown else None


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
