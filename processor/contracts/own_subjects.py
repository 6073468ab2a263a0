"""Which schemas a topic's values may have: those registered under the topic's own subjects.

Whoever may write to a topic may name any schema id of the registry. A type is the topic's own where
its schema is registered as `<topic>-<full name>` (TopicRecordNameStrategy), with the main topic's
name in all tiers, so what a topic takes is decided by who may register there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from threading import Lock
from typing import Protocol

from processor.contracts.avro import SCHEMAS_MAX, UNKNOWN_ID_SECONDS, subject_for
from processor.errors import ContractError

_ID = slice(1, 5)  # Of a value in wire format.


class SubjectSource(Protocol):
    """Who knows where a schema is registered."""

    def subjects_of(self, schema_id: int) -> Collection[str]:
        """Name the subjects; none where there is no such schema. RegistryUnavailable."""
        ...


class OwnSubjects:
    """Refuses values of other subjects' schemas. Asks once for each schema id. Safe for threads."""

    def __init__(
        self, source: SubjectSource, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._clock = clock
        self._own: dict[tuple[str, bytes], float] = {}  # (topic, schema id): since when.
        self._foreign: dict[tuple[str, bytes], float] = {}  # Until when it counts as one.
        self._learning = Lock()

    def __call__(self, topic: str, value: bytes | None, job_type: str) -> None:
        """Let a value pass whose schema is the main topic's own.

        Raises ContractError for another's, RegistryUnavailable when that cannot be asked for now.
        """
        place = (topic, (value or b"")[_ID])
        if place not in self._own:
            self._learn(place, subject_for(topic, job_type))

    def _learn(self, place: tuple[str, bytes], subject: str) -> None:
        schema_id = int.from_bytes(place[1], "big")
        if self._clock() >= self._foreign.get(place, 0.0):
            if subject in self._source.subjects_of(schema_id):
                self._keep(self._own, place, self._clock())
                return
            # It may be registered here too, any moment.
            self._keep(self._foreign, place, self._clock() + UNKNOWN_ID_SECONDS)
        raise ContractError(
            f"schema {schema_id} is not registered under the subject `{subject}`",
            hint="run `processor schemas register`, or set registry.subjects (docs/contracts.md)",
        )

    def _keep(
        self, kept: dict[tuple[str, bytes], float], place: tuple[str, bytes], what: float
    ) -> None:
        with self._learning:
            while len(kept) >= SCHEMAS_MAX:
                del kept[next(iter(kept))]
            kept[place] = what


def any_subject(topic: str, value: bytes | None, job_type: str) -> None:
    """Let every schema pass, wherever it is registered (`registry.subjects = "any"`)."""
