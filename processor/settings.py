"""Settings: one typed model. `processor.toml`, then `PROCESSOR_*` in the environment, then flags.

A running local stack's file comes before all of these: it only changes what nothing else sets.
Every fault of every source is told at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from processor.contracts.uris import BUCKET
from processor.errors import UsageError
from processor.kafka_rules import kafka_fault
from processor.protection import EncryptionSettings, FileSettings, HttpSettings
from processor.secret import MASK, masked, passwords_in
from processor.section import Bytes, EntryFault, Seconds, Section
from processor.section import parse_bytes as parse_bytes  # Known by this module's name.
from processor.section import parse_duration as parse_duration
from processor.sources import Found, FromFile, Names, from_environment, from_flags, from_toml

DEV_STACK_FILE = Path(".processor/dev/settings.toml")
SETTINGS_FILE = Path("processor.toml")


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    for each in value.split(","):  # The registry may have several.
        try:
            parts = urlsplit(each.strip())
            whole = parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("must be like https://host:8081; write an @ in a password as %40")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
# A secret remembers the file that it was read from.
Secret = Annotated[SecretStr, BeforeValidator(lambda v: SecretStr(v) if type(v) is FromFile else v)]
NO_LEDGER = "none"


_POSTGRES = ("postgresql://", "postgres://")
_HOST = r"(\[[^]@/?]*\]|[^]:@/?,[]*)(:\d*)?"
_POSTGRES_URL = re.compile(
    rf"postgres(ql)?://([^:@/]*(:[^@/]*)?@)?{_HOST}(,{_HOST})*(/[^@?]*)?(\?.*)?", re.DOTALL
)


def _database_url(value: str) -> str:
    # With another @ or / the password ends there for libpq, which tells the rest as a host.
    if value.startswith(_POSTGRES) and not _POSTGRES_URL.fullmatch(value):
        raise ValueError("must be like postgresql://user:password@host:5432/database, with @ and /"
                         " of a password as %40 and %2F")  # fmt: skip
    return value


def _ledger_url(value: str) -> str:
    if value != NO_LEDGER and not value.startswith(("sqlite://", *_POSTGRES)):
        raise ValueError("must begin with sqlite:// or postgresql://, or be `none`")
    return value


def _store_url(value: str) -> str:
    scheme, _, path = value.partition("://")
    form = r"/+[^/?#][^?#\0]*" if scheme == "file" else f"{BUCKET}(/.*)?"
    named = re.fullmatch(form, path)
    if scheme not in ("file", "s3") or not named or {".", ".."} & set(path.split("/")):
        raise ValueError(
            "must be like file:///var/lib/claims or s3://bucket/prefix;"
            " of an access point, give the alias"
        )
    return value


StoreUrl = Annotated[str, AfterValidator(_store_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
LedgerUrl = Annotated[DatabaseUrl, AfterValidator(_ledger_url)]


class RegistrySettings(Section):
    """Where the schema registry is (Confluent-compatible API), and how we are known there."""

    url: HttpUrl = "http://127.0.0.1:8081"
    username: str | None = None
    password: Secret | None = None
    token: Secret | None = None  # A bearer token, in place of username and password.
    ca_location: Path | None = None  # Whom to trust; the system's authorities where it is not set.
    certificate_location: Path | None = None
    key_location: Path | None = None
    key_password: Secret | None = None
    timeout_seconds: Seconds = Field(10.0, gt=0)
    subjects: Literal["topic", "any"] = "topic"  # Under which a value's schema must be registered.

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("set both username and password, or neither")
        if self.token is not None and self.username is not None:
            raise ValueError("set a token, or username and password, not both")
        if (self.certificate_location is None) != (self.key_location is None):
            raise ValueError("set both certificate_location and key_location, or neither")
        return self


class S3Settings(Section):
    """How S3 is reached. Empty: the AWS SDK's own defaults (environment, profile, role)."""

    endpoint_url: HttpUrl | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None
    bucket_owner: str | None = Field(None, pattern=r"^\d{12}$")  # another account's are refused

    @property
    def put_options(self) -> dict[str, str]:
        """What goes with every new object."""
        options = {
            "ServerSideEncryption": self.server_side_encryption,
            "SSEKMSKeyId": self.kms_key_id,
        }
        return {name: value for name, value in options.items() if value is not None}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kms_key_id is not None and "kms" not in (self.server_side_encryption or ""):
            raise ValueError("kms_key_id needs server_side_encryption to be aws:kms")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("set both access_key_id and secret_access_key, or neither")
        return self


class ClaimSettings(Section):
    """Where values over a topic's message limit, and `--file` inputs, are kept."""

    store: StoreUrl | None = None  # file:///var/lib/claims or s3://bucket/prefix


class LedgerSettings(Section):
    """The durable memory of settled jobs; `none` makes effects at least once."""

    url: LedgerUrl = "sqlite:///.processor/ledger.db"
    retention: Seconds = Field(30 * 86_400.0, gt=0)  # rows of jobs that ended are kept so long


class OutboxSettings(Section):
    """The application's own database, whose outbox a relay empties."""

    url: DatabaseUrl | None = None


class WorkerSettings(Section):
    """How a worker runs jobs."""

    group: str = Field("processor", min_length=1)
    concurrency: int = Field(8, ge=1, le=1000)  # pool threads for sync handlers
    coroutines_max: int = Field(1000, ge=1)  # async handlers in flight
    lane_records_max: int = Field(4000, ge=1)  # per partition; a full lane pauses its partition
    fence_records_max: int = Field(100_000, ge=1)  # waiting in tiers; more pauses the partition
    slice_records_max: int = Field(2000, ge=1)  # jobs handed to a pool thread at once
    memory_max: Bytes = Field(128 * 1024 * 1024, ge=8 * 1024 * 1024)  # fetched and not settled
    commit_interval_seconds: Seconds = Field(1.0, gt=0)
    drain_seconds: Seconds = Field(20.0, ge=0)  # budget for running jobs on revoke and on SIGTERM
    shutdown_seconds: Seconds = Field(30.0, gt=0)  # after this a stopping worker leaves regardless
    start_jitter_seconds: Seconds = Field(0.0, ge=0)  # a random part of it, before joining
    timeout_seconds: Seconds = Field(300.0, gt=0)  # a job without its own timeout
    timeout_grace_seconds: Seconds = Field(5.0, ge=0)  # between telling a job and abandoning it
    stall_seconds: Seconds = Field(600.0, gt=0)  # work and no progress: the health check fails
    start_from: Literal["earliest", "latest"] = "earliest"  # no committed offset yet
    when_offset_lost: Literal["stop", "earliest"] = "stop"  # committed offset fell off the log
    metrics_port: int | None = Field(None, ge=0, le=65535)  # /metrics and /healthz; 0: any free
    metrics_host: str = "127.0.0.1"

    @model_validator(mode="after")
    def _drain_fits(self) -> Self:
        if self.drain_seconds > self.shutdown_seconds:
            raise ValueError(
                f"drain_seconds ({self.drain_seconds:g}) must not be longer than"
                f" shutdown_seconds ({self.shutdown_seconds:g})"
            )
        return self


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal, else json


class TracingSettings(Section):
    """Traces of jobs. Where they go, OTEL_EXPORTER_OTLP_ENDPOINT in the environment says."""

    enabled: bool = False
    sample_ratio: float | None = Field(None, ge=0, le=1)  # of traces that begin here


class Settings(Section):
    """Everything that can be set."""

    schemas_dir: Path | None = None  # default: ./schemas where it exists
    topics_dir: Path | None = None  # default: ./topics where it exists
    kafka: dict[str, Any] = Field(default_factory=lambda: {"bootstrap.servers": "127.0.0.1:9092"})
    registry: RegistrySettings = RegistrySettings()
    s3: S3Settings = S3Settings()
    files: FileSettings = FileSettings()
    http: HttpSettings = HttpSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    claims: ClaimSettings = ClaimSettings()
    ledger: LedgerSettings = LedgerSettings()
    outbox: OutboxSettings = OutboxSettings()
    worker: WorkerSettings = WorkerSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    _from_files: frozenset[str] = frozenset()  # Names of those that a `…_FILE` variable gave.

    @model_validator(mode="after")
    def _kafka_keeps_the_promise(self) -> Self:
        if faults := [f for n, v in self.kafka.items() if (f := kafka_fault(n, v))]:
            raise ValueError("; ".join(faults))
        return self

    def values(self) -> dict[str, Any]:
        """Every setting by its dotted name; secrets and what was read from files as SecretStr."""
        return {
            name: SecretStr(str(value)) if name in self._from_files else value
            for name, value in _leaves(self, "")
        }

    def secrets(self) -> list[str]:
        """The secret values themselves, for a log to mask. Passwords inside URLs are included."""
        found: list[str] = []
        for name, value in self.values().items():
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if masked(name, value) == MASK:
                found.append(str(text))
            if isinstance(text, str):
                found += passwords_in(text)
        return [secret for secret in found if secret]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each dotted name the source its value came from."""

    settings: Settings
    origins: Mapping[str, Found]


def load_settings(
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Read the settings of every source, or raise one UsageError that tells every fault.

    `file` replaces processor.toml; `overrides` are flags by dotted name, None where not given;
    `environ` and `folder` stand in for the process's own.
    """
    return resolve_settings(file=file, overrides=overrides, environ=environ, folder=folder).settings


def resolve_settings(
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Resolved:
    """Do what `load_settings` does, and remember where each value came from."""
    environ = os.environ if environ is None else environ
    folder = folder or Path()
    defaults = [Found(n, v, "default", "default") for n, v in Settings().values().items()]
    names = Names([f.name for f in defaults if not f.name.startswith("kafka.")], ["kafka"])
    found = {value.name: value for value in defaults}
    faults: list[str] = []

    def layer(values: list[Found], new_faults: list[str]) -> None:
        found.update({value.name: value for value in values})
        faults.extend(new_faults)

    chosen = file or (
        Path(environ["PROCESSOR_CONFIG"]) if environ.get("PROCESSOR_CONFIG") else None
    )
    if (folder / DEV_STACK_FILE).is_file():
        layer(*from_toml(folder / DEV_STACK_FILE, "dev stack", names))
    if chosen or (folder / SETTINGS_FILE).is_file():
        layer(*from_toml(folder / (chosen or SETTINGS_FILE), "file", names))
    layer(*from_environment(environ, names))
    layer(*from_flags(overrides or {}, names))
    settings, value_faults = _validate(found)
    if settings is None or faults:
        raise _told(faults + value_faults)
    return Resolved(settings, found)


def _validate(found: Mapping[str, Found]) -> tuple[Settings | None, list[str]]:
    faults: list[str] = []
    tables: dict[str, Any] = {"kafka": {}}
    for name, value in found.items():
        table, _, rest = name.partition(".")
        if table == "kafka":
            if fault := kafka_fault(rest, value.value):
                faults.append(f"{value.where}: {fault}")
            else:
                tables["kafka"][rest] = value.value
        elif not rest:
            tables[name] = value.value
        else:
            tables.setdefault(table, {})[rest] = value.value
    try:
        settings = Settings.model_validate(tables)
    except ValidationError as fault:
        return None, faults + [_value_fault(error, found) for error in fault.errors()]
    settings._from_files = frozenset(n for n, v in found.items() if type(v.value) is FromFile)
    return (None if faults else settings), faults


def _value_fault(error: Mapping[str, Any], found: Mapping[str, Found]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    value = found.get(name)
    if value is None:  # A rule about the table as a whole.
        wheres = [f.where for n, f in found.items() if n.startswith(f"{name}.")]
        told = ", ".join(dict.fromkeys(where for where in wheres if where != "default"))
        return f"{told}: [{name}] {message}"
    fault = error.get("ctx", {}).get("error")
    from_file = type(value.value) is FromFile
    if from_file and isinstance(fault, EntryFault):
        message = f"an entry {fault.fact}"
    shown = MASK if from_file else masked(name, value.value)
    told = "" if shown == MASK else f" = {shown!r}"
    return f"{value.where}: {name}{told}: {message}"


def _told(faults: list[str]) -> UsageError:
    hint = "docs/configuration.md lists every setting; `processor config check` looks again"
    if len(faults) == 1:
        return UsageError(faults[0], hint=hint)
    listed = "".join(f"\n  {fault}" for fault in faults)
    return UsageError(f"{len(faults)} faults in the settings{listed}", hint=hint)


def _leaves(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in type(section).model_fields:
        value = getattr(section, field)
        if isinstance(value, Section):
            yield from _leaves(value, f"{prefix}{field}.")
        elif isinstance(value, dict):
            yield from ((f"{prefix}{field}.{name}", entry) for name, entry in value.items())
        else:
            yield f"{prefix}{field}", value
