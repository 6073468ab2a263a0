"""Which schema belongs under which subject of the registry."""

from __future__ import annotations

from collections.abc import Iterator

from processor.contracts.avro import subject_for
from processor.contracts.schemas import Schema, SchemaSet
from processor.contracts.topics import TopicSet

STATUS_TYPE = "processor.JobStatus"


def declared_subjects(topics: TopicSet, schemas: SchemaSet) -> Iterator[tuple[str, Schema]]:
    """Yield (subject, schema): each topic's job types, and its status topic's record."""
    for topic in topics:
        for job in topic.jobs:
            yield subject_for(topic.name, job), schemas.get(job)
        if topic.status.publish:
            yield subject_for(topic.status_topic, STATUS_TYPE), schemas.get(STATUS_TYPE)
