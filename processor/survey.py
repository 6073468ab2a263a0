"""Gather what is known of a deployment: Kafka, the registry, the claim store, the group, the app.

Nothing is changed anywhere. A part that does not answer is told; the rest is asked all the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from processor.adapters.acl_admin import AclAdmin
from processor.adapters.groups import owners_of
from processor.adapters.kafka_settings import client_id, consumer_settings, producer_settings
from processor.adapters.keys import keyring_of
from processor.adapters.reader import TopicReader
from processor.adapters.registry import Registry
from processor.adapters.topic_admin import TopicAdmin
from processor.app import App
from processor.check.facts import ClaimBucket, Clock, Cluster, Facts, Offsets, Sampled, Subject
from processor.contracts.acl_plan import Role
from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.schemas import Schema, SchemaSet
from processor.contracts.subjects import declared_subjects
from processor.contracts.topics import Topic, TopicSet
from processor.engine.job import JobSpec
from processor.errors import ProcessorError, UsageError
from processor.model import Partition
from processor.protection import EncryptionSettings
from processor.settings import Settings
from processor.sinks.kafka import KafkaSink

SAMPLE_RECORDS = 20  # Of each partition, the latest.
ASKING_MAX = 8  # Subjects that the registry is asked about at once.


class Survey:
    """One look at a deployment. `unreachable` holds each part that did not answer, and why.

    `names` are the topics to look at; none: all that are declared, but for built-in ones that were
    never applied. `roles`: whose credentials these are; most of the rest needs rights that they
    should not have, and is not asked. UsageError for files with faults and for unknown names.
    """

    def __init__(
        self,
        settings: Settings,
        names: Sequence[str] = (),
        *,
        app: App | None = None,
        roles: Sequence[Role] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.unreachable: list[tuple[str, ProcessorError]] = []
        self._settings = settings
        self._names = names
        self._app = app
        self._roles = tuple(roles)
        self._now = now
        self._schemas = SchemaSet.load(schema_directories(settings))
        self._declared = TopicSet.load(topic_directories(settings), self._schemas)
        self._chosen = [self._declared.get(name) for name in names] or list(self._declared)

    def facts(self) -> Facts:
        """Ask every part; with roles the brokers alone, and only for their rights."""
        settings = self._settings
        cluster = None if self._roles else self._cluster()
        topics = self._in_use(cluster)
        facts = Facts(
            settings=settings,
            topics=tuple(topics),
            now=self._now(),
            consumer=consumer_settings(settings.kafka, settings.worker.group, client_id("check")),
            producer=producer_settings(settings.kafka, client_id("check")),
            cluster=cluster,
            schemas=tuple(self._schemas.get(job) for topic in topics for job in topic.jobs),
        )
        if self._roles:
            return self._with_rights(self._with_app(facts))
        if cluster is not None:
            facts = self._with_group(self._with_offsets(facts, cluster))
        facts = self._with_registry(facts)
        facts = self._with_store(facts)
        facts = replace(facts, keys_fault=keys_fault(settings.encryption))
        return self._with_app(facts)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        try:
            yield
        except ProcessorError as fault:
            self.unreachable.append((name, fault))

    def _cluster(self) -> Cluster | None:
        with self._part("kafka"):
            admin = TopicAdmin(self._settings.kafka)
            brokers, topics, settings = admin.brokers(), admin.describe(), {}
            with self._part("kafka brokers' settings"):
                settings = admin.broker_settings()
            return Cluster(brokers, topics, settings)
        return None

    def _in_use(self, cluster: Cluster | None) -> list[Topic]:
        """Leave out built-in topics of which the cluster has nothing: this project has no use."""
        own = TopicSet.load(topic_directories(self._settings)[:1])
        return [
            topic
            for topic in self._chosen
            if self._names or topic.name in own or self._may_be_there(topic, cluster)
        ]

    def _may_be_there(self, topic: Topic, cluster: Cluster | None) -> bool:
        if cluster is None:
            return not self._roles  # What a role may not see is no use of it.
        return any(name in cluster.topics for name in topic.all_names)

    def _with_offsets(self, facts: Facts, cluster: Cluster) -> Facts:
        group = self._settings.worker.group
        with self._part("kafka offsets"), TopicReader(self._settings.kafka, group=group) as reader:
            read = [
                Partition(name, number)
                for name in _read_by_workers(facts.topics, cluster)
                for number in range(cluster.topics[name].partitions)
            ]
            if read:
                bounds, committed = reader.bounds(read), reader.committed(read)
                offsets = {p: Offsets(*bounds[p], committed[p][0]) for p in read}
                sample = tuple(_sample(reader, facts.topics, offsets))
                return replace(facts, offsets=offsets, sample=sample)
        return facts

    def _with_group(self, facts: Facts) -> Facts:
        with self._part("kafka group"):
            owners = owners_of(self._settings.kafka, self._settings.worker.group)
            hosts = tuple(dict.fromkeys(each.rpartition(" at ")[2] for each in owners.values()))
            return replace(facts, hosts=hosts)
        return facts

    def _with_rights(self, facts: Facts) -> Facts:
        sinks = [sink for spec in (facts.jobs or {}).values() for sink in spec.sinks]
        results = tuple(dict.fromkeys(each.topic for each in sinks if isinstance(each, KafkaSink)))
        names = [name for topic in facts.topics for name in topic.all_names]
        with self._part("kafka rights"):
            admin = AclAdmin(self._settings.kafka)
            may = admin.mine([*names, *results], self._settings.worker.group)
            return replace(facts, roles=self._roles, may=may, result_topics=results)
        return facts

    def _with_registry(self, facts: Facts) -> Facts:
        with self._part("registry"):
            registry = Registry(self._settings.registry)
            chosen = TopicSet(facts.topics)
            declared = list(declared_subjects(chosen, self._schemas))
            with ThreadPoolExecutor(ASKING_MAX, "registry") as pool:
                subjects = tuple(pool.map(lambda each: subject_of(registry, *each), declared))
            facts = _with_clock(facts, "registry", registry.clock_ahead_seconds())
            return replace(facts, subjects=subjects)
        return facts

    def _with_store(self, facts: Facts) -> Facts:
        base = self._settings.claims.store
        if base is None or not base.startswith("s3://"):
            return facts
        from processor.adapters.objects import claim_bucket

        with self._part("claim store"):
            bucket = claim_bucket.ClaimBucket(self._settings.s3, base)
            found = ClaimBucket(bucket.name, bucket.prefix, bucket.rules())
            facts = _with_clock(facts, "claim store", bucket.ahead_seconds)
            return replace(facts, bucket=found)
        return facts

    def _with_app(self, facts: Facts) -> Facts:
        if self._app is None:
            return facts
        jobs = self._app.jobs
        taken = {job: topic.name for topic in self._declared for job in topic.jobs}
        served = set(self._names)
        undeclared = []
        for job, spec in jobs.items():
            topic = spec.topic or taken.get(job)
            if topic is None or topic not in self._declared:
                undeclared.append(job)
            elif not self._names:
                served.add(topic)
        return replace(
            facts,
            jobs=jobs,
            served=tuple(sorted(served)),
            undeclared_jobs=tuple(undeclared),
            sink_faults=tuple(self._sink_faults(jobs)),
        )

    def _sink_faults(self, jobs: Mapping[str, JobSpec]) -> Iterator[tuple[str, str]]:
        for job, spec in jobs.items():
            for sink in spec.sinks:
                if isinstance(sink, KafkaSink):
                    with self._part(f"sink of {job}"):
                        try:
                            sink.check()
                        except UsageError as fault:
                            yield job, fault.message


def subject_of(registry: Registry, name: str, schema: Schema) -> Subject:
    """Ask the registry about one schema under its subject; to what it has it has no objections."""
    schema_id = registry.find_id(name, schema.text)
    registered = None if schema_id is None else registry.schema_by_id(schema_id)
    return Subject(
        name=name,
        schema=schema,
        registered=registered,
        versions=tuple(registry.versions(name)),
        objections=()
        if registered is not None
        else tuple(registry.incompatibilities(name, schema.text)),
    )


def keys_fault(settings: EncryptionSettings) -> str | None:
    """Say why there is no key for tagged fields; None: there is one."""
    try:
        return None if keyring_of(settings) is not None else "there is no key"
    except ProcessorError as fault:
        return fault.message


def _with_clock(facts: Facts, of: str, ahead_seconds: float | None) -> Facts:
    if ahead_seconds is None:
        return facts
    return replace(facts, clocks=(*facts.clocks, Clock(of, ahead_seconds)))


def _read_by_workers(topics: Sequence[Topic], cluster: Cluster) -> list[str]:
    """Name main and retry topics that exist, those no longer declared too."""
    tiers = re.compile("|".join(f"{re.escape(topic.name)}(\\.retry\\.\\d+)?" for topic in topics))
    return [name for name in cluster.topics if topics and tiers.fullmatch(name)]


def _sample(
    reader: TopicReader, topics: Sequence[Topic], offsets: Mapping[Partition, Offsets]
) -> Iterator[Sampled]:
    mains = {topic.name for topic in topics}
    starts = {
        partition: max(at.first, at.end - SAMPLE_RECORDS)
        for partition, at in offsets.items()
        if partition.topic in mains
    }
    for record in reader.read_all(list(starts), starts=starts):
        place = Partition(record.topic, record.partition)
        yield Sampled(place, record.offset, record.key, record.timestamp_ms / 1000)
