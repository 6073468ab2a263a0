"""The keys for tagged fields that the settings name, and encoders that use them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from fastavro.schema import parse_schema

from processor.adapters import key_file, kms
from processor.adapters.registry import Registry
from processor.contracts.avro import Encoder, no_key
from processor.contracts.schemas import Schema, SchemaSet
from processor.contracts.sealing import DataKey, Keyring, KeySource, KeyUnknown
from processor.contracts.tags import tagged_paths
from processor.errors import ContractError, UsageError
from processor.protection import KMS_KEY, EncryptionSettings

_FILE_KEY = re.compile(key_file.PREFIX + key_file.NAME)


class _Sources:
    """A key file and KMS keys behind one: the first one makes keys, the id says who opens them."""

    def __init__(self, sources: dict[str, KeySource]) -> None:
        self._sources = sources

    def new(self, job_type: str) -> DataKey:
        return next(iter(self._sources.values())).new(job_type)

    def unwrap(self, key_id: str, wrapped: bytes, job_type: str) -> bytes:
        if not (_FILE_KEY.fullmatch(key_id) or KMS_KEY.fullmatch(key_id)):
            raise ContractError(f"`{key_id}`, by which `{job_type}` is encrypted, is no key's id")
        for prefix, source in self._sources.items():
            if key_id.startswith(prefix):
                return source.unwrap(key_id, wrapped, job_type)
        raise KeyUnknown(
            f"no key source of the settings holds `{key_id}`",
            hint="set encryption.key_file or encryption.kms_keys (docs/data-protection.md)",
        )


def keyring_of(settings: EncryptionSettings) -> Keyring | None:
    """Make the keyring of the settings; None where they name no key. UsageError, KeysUnavailable.

    With both a key file and KMS keys, KMS encrypts and the file opens what it has encrypted before.
    """
    sources: dict[str, KeySource] = {}
    if settings.kms_keys:
        sources[kms.PREFIX] = kms.Kms(settings)
    if settings.key_file is not None:
        sources[key_file.PREFIX] = key_file.KeyFile(settings.key_file)
    return Keyring(_Sources(sources)) if sources else None


def registered_encoder(
    registry: Registry, subject: str, schema: Schema, encryption: EncryptionSettings
) -> Encoder:
    """Make the encoder of a schema that is registered under a subject.

    Raises UsageError where it is not, and where its tagged fields could not be encrypted, or not be
    told as such by those who read them.
    """
    schema_id = registry.id_of(subject, schema.text)
    paths = tagged_paths(schema.parsed)
    if not paths:
        return Encoder(schema, schema_id)
    # A registry may take a schema that only adds tags for the one that it has.
    if tagged_paths(parse_schema(json.loads(registry.schema_by_id(schema_id)))) != paths:
        raise UsageError(
            f"the registry has the schema of `{subject}` with other PII tags",
            hint="change the field's `doc` too, and run `processor schemas register`",
        )
    return Encoder(schema, schema_id, keyring_of(encryption))


def require_keys(schemas: SchemaSet, job_types: Iterable[str], keys: Keyring | None) -> None:
    """Refuse to work on tagged fields without a key."""
    for job_type in job_types:
        if keys is None and job_type in schemas and tagged_paths(schemas.get(job_type).parsed):
            raise no_key(schemas.get(job_type))
