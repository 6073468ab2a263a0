"""What is known of a deployment. None: it was not asked for, or did not answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from processor.contracts.acl_plan import Role
from processor.contracts.claim_rules import seconds_of
from processor.contracts.schemas import Schema
from processor.contracts.topic import Topic
from processor.contracts.topic_plan import ExistingTopic
from processor.engine.job import JobSpec
from processor.model import Partition
from processor.settings import Settings


@dataclass(frozen=True, slots=True)
class Cluster:
    """Kafka's topics, and the settings of its brokers as far as they may be seen."""

    brokers: int
    topics: Mapping[str, ExistingTopic]
    settings: Mapping[str, str]

    @property
    def kept(self) -> dict[str, float | None]:
        """How many seconds each topic keeps its records; None: for ever."""
        return {
            name: seconds_of(topic.config["retention.ms"])
            for name, topic in self.topics.items()
            if "retention.ms" in topic.config
        }


@dataclass(frozen=True, slots=True)
class Offsets:
    """A partition's first offset, its end, and what the group has committed, if anything."""

    first: int
    end: int
    committed: int | None

    @property
    def waiting(self) -> int:
        """Records that the group has not committed."""
        return self.end - max(self.first, self.committed or 0)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One of the latest records of a main topic. `at` is its time in seconds since the epoch."""

    partition: Partition
    offset: int
    key: bytes | None
    at: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A job type's schema, and what the registry has under its subject."""

    name: str
    schema: Schema
    registered: str | None  # The registry's own text of this schema, if it has it.
    versions: tuple[tuple[int, str], ...]  # Number and text, the oldest first.
    objections: tuple[str, ...]  # The registry's own, by the level that is set there.


@dataclass(frozen=True, slots=True)
class ClaimBucket:
    """The bucket of the claim store: the prefix of claims in it, and its lifecycle rules."""

    name: str
    prefix: str
    rules: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """Another machine's clock: how many seconds it is ahead of ours."""

    of: str
    ahead_seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. `topics` are those that are checked; `jobs` are an app's handlers by job type.

    `consumer` and `producer` are the client settings that a worker would use; `hosts` is where the
    group's present members are. `may` has what these credentials may do on a resource (kind and
    name), for the roles that they are meant for.
    """

    settings: Settings
    topics: tuple[Topic, ...]
    now: float
    consumer: Mapping[str, Any]
    producer: Mapping[str, Any]
    jobs: Mapping[str, JobSpec] | None = None
    schemas: tuple[Schema, ...] = ()  # Of the topics' job types.
    keys_fault: str | None = None  # Why there is no key for tagged fields.
    served: tuple[str, ...] = ()  # Topics that the app is to work.
    cluster: Cluster | None = None
    offsets: Mapping[Partition, Offsets] | None = None
    sample: tuple[Sampled, ...] = ()
    hosts: tuple[str, ...] = ()
    subjects: tuple[Subject, ...] = ()
    bucket: ClaimBucket | None = None
    roles: tuple[Role, ...] = ()
    may: Mapping[tuple[str, str], frozenset[str]] | None = None
    result_topics: tuple[str, ...] = ()  # That the app's Kafka sinks write to.
    clocks: tuple[Clock, ...] = ()
    sink_faults: tuple[tuple[str, str], ...] = ()  # Job type, and what its sink lacks.
    undeclared_jobs: tuple[str, ...] = ()  # Job types of the app that no topic takes.
