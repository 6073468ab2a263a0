"""Bytes <-> payload: Avro in Confluent's wire format, with a compiled path per schema id.

    value = 0x00 | schema id (4 bytes, big-endian) | Avro body

Rule 1: what is sent has been checked against its schema, field by field.
Rule 2: what arrives is hostile until decoded. Its size, and its schema's shape, are bounded first;
whatever a schema or a body provokes is a ContractError, and a registry that is away is not one.
Rule 3: the writer's schema decides how bytes are read, the local schema of the same name what the
handler sees; where both are equal, nothing is resolved.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from sys import getsizeof
from threading import Lock
from typing import Any, NamedTuple, Protocol

from fastavro import schemaless_writer
from fastavro.schema import parse_schema

from processor.contracts.claims import CLAIM_BYTES_MAX
from processor.contracts.from_json import converter
from processor.contracts.lint import hazards
from processor.contracts.masking import Plaintexts
from processor.contracts.payload import Mismatch, checker
from processor.contracts.protected import PREFIX_SIZE, Opened, opening_of, plaintexts_of, sealed
from processor.contracts.reading import (
    FAULT_CHARACTERS_MAX,
    Open,
    Read,
    Reading,
    body_reader,
    too_heavy,
    too_large,
)
from processor.contracts.schemas import Schema, SchemaSet
from processor.contracts.sealing import Keyring
from processor.contracts.tags import tagged_paths, walk_of
from processor.contracts.weight import Scale
from processor.errors import ContractError, UsageError

VALUE_BYTES_MAX = CLAIM_BYTES_MAX  # A claimed value is decoded whole, in memory.
SCHEMA_TEXT_MAX = 1024 * 1024  # Characters,
NAME_MAX = 1000  # and of each name and namespace in it: they are written out many times over.
SCHEMAS_MAX = 1000  # Writer schemas kept; beyond it the oldest is dropped,
SCHEMA_TEXTS_BYTES_MAX = 64 * 1024 * 1024  # and beyond this memory of their texts.
UNKNOWN_IDS_MAX = 1000
UNKNOWN_ID_SECONDS = 10.0  # A registry may answer late for an id it has just given out.
SCHEMA_ID_MAX = 2**31 - 1  # A registry's ids are Java's ints: it takes a larger one for a path.
# Where a schema's text holds these, fastavro believes that it has checked it before.
_HINTS = ("__fastavro_parsed", "__named_schemas")


class SchemaSource(Protocol):
    """Where writer schemas come from."""

    def schema_by_id(self, schema_id: int) -> str:
        """Give a schema's self-contained text.

        Raises ContractError when there is none, RegistryUnavailable when nobody can be asked.
        """
        ...


class Decoded(NamedTuple):
    """A payload, and the full name of the schema that it was written with: the job type.

    `opened`: of one with tagged fields, what must not be told of it.
    """

    job_type: str
    payload: dict[str, Any]
    opened: Opened | None = None


def subject_for(topic_name: str, full_name: str) -> str:
    """Name the registry's subject for a record type on a topic (TopicRecordNameStrategy)."""
    return f"{topic_name}-{full_name}"


class Encoder:
    """Payloads of one schema to bytes. Keep it: making one compiles the schema."""

    def __init__(self, schema: Schema, schema_id: int, keys: Keyring | None = None) -> None:
        """Raises UsageError where a field is tagged PII and there is no key."""
        assert 0 <= schema_id <= SCHEMA_ID_MAX
        self._schema = schema
        self._walk = walk_of(schema.parsed)
        self._keys = keys
        if self._walk is not None and keys is None:
            raise no_key(schema)
        self._check = checker(schema.parsed)
        self._prefix = b"\x00" + schema_id.to_bytes(4, "big")
        self._scale = Scale(schema.parsed)

    def encode(self, payload: Mapping[str, Any]) -> bytes:
        """Check the payload and write it, its tagged fields encrypted.

        Raises ContractError naming the field and the types, never the value; KeysUnavailable.
        """
        try:
            self._check(payload)
        except Mismatch as mismatch:
            raise _payload_error(self._schema, mismatch) from None
        if self._walk is not None:
            assert self._keys is not None
            payload = sealed(payload, self._walk, self._keys, self._schema.full_name)
        value = self.write(payload)
        if len(value) > self._scale.light_max and not self._scale.fits(value, PREFIX_SIZE):
            raise too_heavy(self._schema.full_name)  # No worker would read it.
        return value

    @property
    def protects(self) -> bool:
        """Whether the schema has tagged fields."""
        return self._walk is not None

    def plaintexts(self, payload: Mapping[str, Any]) -> Plaintexts:
        """The tagged values of a payload that `encode` has taken."""
        return plaintexts_of(payload, self._walk)

    def write(self, payload: Mapping[str, Any]) -> bytes:
        """Write a payload that is known to be right: one that this program laid out itself."""
        return _written(self._schema.parsed, payload, after=self._prefix)


def _written(parsed: dict[str, Any], payload: Mapping[str, Any], *, after: bytes = b"") -> bytes:
    body = BytesIO()
    body.write(after)
    # Else fastavro takes a tuple for (branch name, value), and a pair of texts for a branch.
    schemaless_writer(body, parsed, payload, disable_tuple_notation=True)
    return body.getvalue()


def no_key(schema: Schema) -> UsageError:
    """Say that a schema needs a key."""
    first, *_ = tagged_paths(schema.parsed)
    return UsageError(
        f"field `{first}` of `{schema.full_name}` is tagged PII, and there is no key to encrypt it",
        hint="set encryption.key_file or encryption.kms_keys (docs/data-protection.md)",
    )


def payload_from_json(schema: Schema, document: Any) -> dict[str, Any]:
    """Turn a JSON document into a payload that `Encoder` accepts, by the rules of `from_json`.

    Raises ContractError naming the field and the types, never the value.
    """
    convert, check = _from_json(schema.text)
    try:
        payload = convert(document)
        check(payload)
    except Mismatch as mismatch:
        raise _payload_error(schema, mismatch) from None
    assert isinstance(payload, dict)
    return payload


@lru_cache(maxsize=100)
def _from_json(text: str) -> tuple[Callable[[Any], Any], Callable[[Any], None]]:
    """Compile a self-contained schema's conversion and check, once for a file of many lines."""
    parsed = parse_schema(json.loads(text))
    return converter(parsed), checker(parsed)


def _payload_error(schema: Schema, mismatch: Mismatch) -> ContractError:
    return ContractError(f"payload of `{schema.full_name}`: {mismatch}", hint=mismatch.hint)


class Decoder:
    """Bytes to payloads. One per worker; it keeps what it has learnt about each schema id."""

    def __init__(
        self,
        source: SchemaSource,
        readers: SchemaSet | None = None,
        *,
        keys: Keyring | None = None,
        value_bytes_max: int = VALUE_BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._readers = readers
        self._keys = keys
        self._value_bytes_max = value_bytes_max
        self._clock = clock
        self._reads: dict[int, Reading] = {}
        self._unknown: dict[int, tuple[float, str]] = {}  # id -> (until, why)
        self._learning = Lock()  # Pool threads share one decoder.

    def decode(
        self, value: bytes | None, admit: Callable[[str], object] = lambda _: None
    ) -> Decoded:
        """Read one record's value. `admit` is told its job type before its body is looked at.

        Raises ContractError for bytes that no schema of ours explains, RegistryUnavailable when the
        schema cannot be asked for now, KeysUnavailable when its key cannot; then the same bytes may
        decode later. And what `admit` raises.
        """
        reading = self.reading(value)
        assert value is not None
        admit(reading.job_type)
        if reading.open is not None:
            return Decoded(reading.job_type, *reading.open(value))
        return Decoded(reading.job_type, reading.read(value))

    def reading(self, value: bytes | None) -> Reading:
        """How this value is read, and all others that begin with the same `PREFIX_SIZE` bytes.

        Raises as `decode` does.
        """
        if value is None or len(value) < PREFIX_SIZE or value[0] != 0:
            raise _not_wire_format(value)
        if len(value) > self._value_bytes_max:
            raise too_large(value, self._value_bytes_max)  # Before its schema is asked for.
        schema_id = int.from_bytes(value[1:PREFIX_SIZE], "big")
        return self._reads.get(schema_id) or self._learn(schema_id)

    def _learn(self, schema_id: int) -> Reading:
        """Parse the schema of an id, or remember for a while why it cannot be used."""
        until, why = self._unknown.get(schema_id, (0.0, ""))
        if why and self._clock() < until:
            raise ContractError(why)
        try:
            if schema_id > SCHEMA_ID_MAX:
                raise ContractError(f"schema id {schema_id} is over {SCHEMA_ID_MAX}, the highest")
            text = self._source.schema_by_id(schema_id)
            job_type: str = _writer_schema(schema_id, text)["name"]
        except ContractError as fault:
            self._forget(schema_id, fault)
            raise
        # The text is kept, and not what was made of it: that takes many times more, and most of a
        # stranger's are never admitted.
        text_bytes = getsizeof(text)
        reading = Reading(job_type, lambda: self._compiled(schema_id, text), text_bytes=text_bytes)
        with self._learning:
            self._unknown.pop(schema_id, None)
            self._reads.pop(schema_id, None)
            _drop_oldest(self._reads, SCHEMAS_MAX)
            kept_bytes = sum(each.text_bytes for each in self._reads.values())
            while kept_bytes + text_bytes > SCHEMA_TEXTS_BYTES_MAX:
                kept_bytes -= self._reads.pop(next(iter(self._reads))).text_bytes
            self._reads[schema_id] = reading
        return reading

    def _forget(self, schema_id: int, fault: ContractError) -> None:
        """Remember for a while, and no longer, that an id cannot be used."""
        with self._learning:
            self._reads.pop(schema_id, None)
            _drop_oldest(self._unknown, UNKNOWN_IDS_MAX)
            why = fault.message[:FAULT_CHARACTERS_MAX]
            self._unknown[schema_id] = (self._clock() + UNKNOWN_ID_SECONDS, why)

    def _compiled(self, schema_id: int, text: str) -> tuple[Read, Open | None]:
        try:
            return self._made(schema_id, text)
        except ContractError as fault:
            self._forget(schema_id, fault)
            raise

    def _made(self, schema_id: int, text: str) -> tuple[Read, Open | None]:
        writer = _writer_schema(schema_id, text)
        try:
            return self._reads_of(schema_id, writer)
        except ContractError:
            raise
        except Exception as fault:  # noqa: BLE001 - a stranger's schema provoked it.
            raise ContractError(
                f"schema {schema_id} of `{writer['name']}` cannot be used ({type(fault).__name__})"
            ) from None

    def _reads_of(self, schema_id: int, writer: dict[str, Any]) -> tuple[Read, Open | None]:
        reader = self._reader_of(writer)
        bytes_max = self._value_bytes_max
        read = body_reader(schema_id, writer, reader, bytes_max=bytes_max)
        opening = opening_of(
            writer,
            reader,
            as_written=body_reader(schema_id, writer, None, bytes_max=bytes_max),
            read=read,
            write=lambda payload: _written(writer, payload),
            keys=self._keys,
        )
        return read, opening

    def _reader_of(self, writer: dict[str, Any]) -> dict[str, Any] | None:
        name = writer["name"]
        if self._readers is None or name not in self._readers:
            return None
        reader = self._readers.get(name).parsed
        return None if reader == writer else reader


def _writer_schema(schema_id: int, text: str) -> dict[str, Any]:
    """Parse a schema from the registry, and refuse shapes by which bytes could hurt us."""
    if len(text) > SCHEMA_TEXT_MAX:
        raise ContractError(f"schema {schema_id} has more than {SCHEMA_TEXT_MAX} characters")
    try:
        document = json.loads(text)
        _check_names(document)
        if isinstance(document, dict):
            document = {name: it for name, it in document.items() if name not in _HINTS}
        parsed = parse_schema(document)
        dangers = hazards(parsed)
    except Exception as fault:  # noqa: BLE001 - a stranger's schema provoked it.
        raise ContractError(
            f"schema {schema_id} is no self-contained Avro schema ({type(fault).__name__})"
        ) from None
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise ContractError(f"schema {schema_id} is no record; a job's payload is one")
    if dangers:
        where, what = dangers[0]
        raise ContractError(f"schema {schema_id} of `{parsed['name']}` is unsafe: {where}: {what}")
    return parsed


def _check_names(document: Any) -> None:
    if isinstance(document, list):
        for each in document:
            _check_names(each)
    elif isinstance(document, dict):
        for part in ("name", "namespace"):
            if isinstance(name := document.get(part), str) and len(name) > NAME_MAX:
                raise ValueError(f"a {part} of {len(name)} characters")
        for part, each in document.items():
            if part != "default":
                _check_names(each)


def _not_wire_format(value: bytes | None) -> ContractError:
    hint = "producers must use an Avro serializer with a schema registry (Confluent wire format)"
    if value is None:
        return ContractError("the record has no value", hint=hint)
    if not value or value[0] != 0:
        return ContractError("the value is no Avro in wire format: no magic byte 0", hint=hint)
    return ContractError(f"the value is truncated: {len(value)} bytes hold no schema id", hint=hint)


def _drop_oldest(kept: dict[int, Any], count_max: int) -> None:
    while len(kept) >= count_max:
        del kept[next(iter(kept))]
