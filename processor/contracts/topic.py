"""The declared topics: one YAML file per main topic gives its retry, dead-letter and status topics.

Durations are seconds and sizes are bytes once read. `topics/copy.yaml` explains every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from processor.contracts.quantities import Duration, Size

NAME_SIZE_MAX = 249  # Kafka's limit, for the derived names too.
TIERS_MAX = 16
DELAYS_SECONDS_DEFAULT = (5.0, 60.0, 600.0)
DAY = 86_400.0

# A batch must fit `max.message.bytes`, and producers batch up to 1 MB: never declare less than
# Kafka's own default. The allowance is for a record's key and headers, which grow on retry.
_MESSAGE_BYTES_FLOOR = 1_048_588
_HEADERS_ALLOWANCE_BYTES = 65_536

# Settings that have a key of their own in the file.
_OWN_KEY = {
    "retention.ms": "retention",
    "max.message.bytes": "message_max",
    "cleanup.policy": None,
}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One Kafka topic as it is to be."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Backoff(_Part):
    """Delays that grow: `first`, then times `factor`, never over `max`, for `tiers` tiers."""

    first: Duration
    factor: float = Field(ge=1)
    max: Duration
    tiers: int = Field(ge=1, le=TIERS_MAX)


class RetryPolicy(_Part):
    """When a failed job runs again. One retry topic per delay."""

    delays: tuple[Duration, ...] | None = Field(None, max_length=TIERS_MAX)
    backoff: Backoff | None = None
    jitter: float = Field(0.1, ge=0, le=1)  # A delay grows by up to this share of itself.
    attempts: int | None = Field(None, ge=1)
    retention: Duration | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_way_of_delays(self) -> Self:
        if self.delays is not None and self.backoff is not None:
            raise ValueError("has both `delays` and `backoff`; keep one")
        tiers = len(self.delays_seconds)
        if self.attempts is not None and self.attempts <= tiers:
            raise ValueError(
                f"`attempts: {self.attempts}` leaves retry tier {self.attempts} of {tiers} unused;"
                f" allow at least {tiers + 1} attempts or declare fewer delays"
            )
        if self.attempts is not None and self.attempts > 1 and tiers == 0:
            raise ValueError(f"`attempts: {self.attempts}` needs at least one delay to wait in")
        return self

    @property
    def delays_seconds(self) -> tuple[float, ...]:
        """The delay of each tier, without jitter."""
        if self.backoff is not None:
            grown = (self.backoff.first * self.backoff.factor**n for n in range(self.backoff.tiers))
            return tuple(min(delay, self.backoff.max) for delay in grown)
        return DELAYS_SECONDS_DEFAULT if self.delays is None else self.delays


class DeadLetterPolicy(_Part):
    """What a job's death means for its key: `continue` with the next job, or `hold` the rest.

    Held jobs have never run: without a `retention` of its own their topic keeps them for ever.
    """

    policy: Literal["continue", "hold"] = "continue"
    retention: Duration | None = Field(None, gt=0)

    @property
    def retention_seconds(self) -> float | None:
        """How long a letter is kept; None: for ever."""
        if self.retention is None:
            return None if self.policy == "hold" else 30 * DAY
        return self.retention


class StatusPolicy(_Part):
    """Whether each job's final outcome is published, and how long it is kept."""

    publish: bool = True
    retention: Duration = Field(7 * DAY, gt=0)


def _config_text(value: object) -> str:
    """Write a YAML scalar as Kafka reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        raise ValueError("is no single value; write a text or a number")  # noqa: TRY004 - pydantic's.
    return str(value)


_ConfigValue = Annotated[str, BeforeValidator(_config_text)]
_JobType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]


class Topic(_Part):
    """One main topic, with everything that is derived from it."""

    name: str
    jobs: tuple[_JobType, ...] = Field(min_length=1)
    partitions: int = Field(ge=1, le=10_000)
    replication: int | None = Field(None, ge=1, le=32_767)
    retention: Duration = Field(7 * DAY, gt=0)
    ordering: Literal["partition", "key", "none"] = "partition"
    fence: Literal["key", "partition"] = "key"
    message_max: Size = Field(10 * 1024, ge=1)
    retry: RetryPolicy = RetryPolicy()
    dead_letter: DeadLetterPolicy = DeadLetterPolicy()
    status: StatusPolicy = StatusPolicy()
    config: dict[str, _ConfigValue] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _legal_name(cls, name: str) -> str:
        longest = NAME_SIZE_MAX - len(f".retry.{TIERS_MAX}")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name in (".", "..") or len(name) > longest:
            raise ValueError(f"is no topic name; use at most {longest} letters, digits, `.-_`")
        return name

    @field_validator("jobs")
    @classmethod
    def _each_job_once(cls, jobs: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({job for job in jobs if jobs.count(job) > 1})
        if twice:
            raise ValueError(f"lists `{twice[0]}` twice; keep one")
        return jobs

    @field_validator("config")
    @classmethod
    def _no_key_of_its_own(cls, config: dict[str, str]) -> dict[str, str]:
        for name in config:
            if name in _OWN_KEY:
                key = _OWN_KEY[name]
                todo = f"set `{key}` instead" if key else "jobs must be kept until they expire"
                raise ValueError(f"must not set `{name}`; {todo}")
        return config

    @model_validator(mode="after")
    def _hold_is_of_keys(self) -> Self:
        if self.dead_letter.policy == "hold" and self.ordering == "none":
            raise ValueError(
                "has `ordering: none` and `dead_letter.policy: hold`: jobs of a key that run side"
                " by side cannot be held behind one another; use `ordering: key`, or `continue`"
            )
        if self.dead_letter.policy == "hold" and self.fence == "partition":
            raise ValueError(
                "has `fence: partition` and `dead_letter.policy: hold`: one dead job would hold a"
                " whole partition; use `fence: key`, or `continue`"
            )
        return self

    @model_validator(mode="after")
    def _retries_outlive_their_delays(self) -> Self:
        delays_sum = sum(self.delays_seconds) * (1 + self.retry.jitter)
        if self.retry_retention_seconds <= delays_sum:
            raise ValueError(
                f"retry retention of {self.retry_retention_seconds:g} s is not longer than all"
                f" delays together ({delays_sum:g} s): waiting jobs would be deleted;"
                " raise `retry.retention` or shorten the delays"
            )
        return self

    @property
    def delays_seconds(self) -> tuple[float, ...]:
        """The delay of each retry tier, without jitter."""
        return self.retry.delays_seconds

    @property
    def attempts_max(self) -> int:
        """How often a job's handler is called before it is dead."""
        return self.retry.attempts or len(self.delays_seconds) + 1

    @property
    def retry_retention_seconds(self) -> float:
        """How long a retry topic keeps a record."""
        return self.retention if self.retry.retention is None else self.retry.retention

    @property
    def wait_seconds_max(self) -> float:
        """How long a job may wait in a retry topic, or on main where there is none.

        Kafka deletes it after the retention, worked or not; a tenth of that is left for the work.
        """
        kept = self.retry_retention_seconds if self.delays_seconds else self.retention
        return 0.9 * kept

    @property
    def record_bytes_max(self) -> int:
        """How large a record of this topic may be, as a copy on a retry topic too."""
        return self.message_max + 2 * _HEADERS_ALLOWANCE_BYTES

    @property
    def retry_topics(self) -> tuple[str, ...]:
        """The name of each retry tier, the first tier first."""
        return tuple(f"{self.name}.retry.{n}" for n in range(1, len(self.delays_seconds) + 1))

    @property
    def dead_letter_topic(self) -> str:
        """Where jobs go that will not run again."""
        return f"{self.name}.dlt"

    @property
    def status_topic(self) -> str:
        """Where each job's final outcome is published, if `status.publish`."""
        return f"{self.name}.status"

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every topic this file stands for, declared or not: none of them may be another's."""
        return (self.name, *self.retry_topics, self.dead_letter_topic, self.status_topic)

    def all_topics(self, brokers: int) -> list[TopicSpec]:
        """Specify every Kafka topic of this one, for a cluster of so many brokers."""
        specs = [self._spec(self.name, brokers, self.retention, self.config)]
        specs += [
            self._spec(name, brokers, self.retry_retention_seconds) for name in self.retry_topics
        ]
        specs.append(
            self._spec(self.dead_letter_topic, brokers, self.dead_letter.retention_seconds)
        )
        if self.status.publish:
            compact = {"cleanup.policy": "compact,delete"}
            specs.append(self._spec(self.status_topic, brokers, self.status.retention, compact))
        return specs

    def _spec(
        self,
        name: str,
        brokers: int,
        retention_seconds: float | None,
        more: Mapping[str, str] | None = None,
    ) -> TopicSpec:
        replication = min(3, brokers) if self.replication is None else self.replication
        message_bytes_max = max(_MESSAGE_BYTES_FLOOR, self.message_max + _HEADERS_ALLOWANCE_BYTES)
        if name != self.name:  # A copy is a record of the main topic and the engine's headers.
            message_bytes_max += _HEADERS_ALLOWANCE_BYTES
        config = {
            "cleanup.policy": "delete",
            "max.message.bytes": str(message_bytes_max),
            "retention.ms": (
                "-1" if retention_seconds is None else str(round(retention_seconds * 1000))
            ),
        }
        if replication >= 3:
            config["min.insync.replicas"] = "2"
        return TopicSpec(name, self.partitions, replication, {**config, **(more or {})})
