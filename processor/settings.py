"""Settings: one typed model. `processor.toml`, then `PROCESSOR_*` in the environment, then flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Section(BaseModel):
    """A table of processor.toml. Unknown names are faults, not surprises."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(Section):
    """Where the schema registry is (Confluent-compatible API)."""

    url: str = "http://127.0.0.1:8081"
    username: str | None = None
    password: SecretStr | None = None
    timeout_seconds: float = Field(10.0, gt=0)


class S3Settings(Section):
    """How S3 is reached. Empty: the AWS SDK's own defaults (environment, profile, role)."""

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None


class ClaimSettings(Section):
    """Where values over a topic's message limit, and `--file` inputs, are kept."""

    store: str | None = None  # file:///var/lib/claims or s3://bucket/prefix


class LedgerSettings(Section):
    """The durable memory of settled jobs."""

    url: str = "sqlite:///.processor/ledger.db"


class WorkerSettings(Section):
    """How a worker runs jobs."""

    group: str = "processor"
    concurrency: int = Field(8, ge=1, le=1000)  # pool threads for sync handlers
    lane_records_max: int = Field(1000, ge=1)  # per partition; a full lane pauses its partition
    slice_records_max: int = Field(100, ge=1)  # jobs handed to a pool thread at once
    commit_interval_seconds: float = Field(1.0, gt=0)
    drain_seconds: float = Field(20.0, ge=0)  # budget for running jobs on revoke and on SIGTERM
    shutdown_seconds: float = Field(30.0, gt=0)  # after this a stopping worker leaves regardless
    timeout_seconds: float = Field(300.0, gt=0)  # a job without its own timeout
    timeout_grace_seconds: float = Field(5.0, ge=0)  # between telling a job and abandoning it
    start_from: Literal["earliest", "latest"] = "earliest"  # no committed offset yet
    when_offset_lost: Literal["stop", "earliest"] = "stop"  # committed offset fell off the log
    metrics_port: int | None = Field(None, ge=0, le=65535)  # /metrics and /healthz; 0: any free
    metrics_host: str = "127.0.0.1"


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal, else json


class Settings(Section):
    """Everything that can be set."""

    schemas_dir: Path | None = None  # default: ./schemas where it exists
    topics_dir: Path | None = None  # default: ./topics where it exists
    kafka: dict[str, Any] = Field(default_factory=lambda: {"bootstrap.servers": "127.0.0.1:9092"})
    registry: RegistrySettings = RegistrySettings()
    s3: S3Settings = S3Settings()
    claims: ClaimSettings = ClaimSettings()
    ledger: LedgerSettings = LedgerSettings()
    worker: WorkerSettings = WorkerSettings()
    log: LogSettings = LogSettings()
