"""Settings that protect: what jobs may read, write and fetch, and the keys of tagged fields."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from processor.section import Bytes, EntryFault, Seconds, Section, Texts

KMS_KEY = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9_.-]*[a-z0-9])?")


def _folders(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        if not Path(entry).is_absolute():
            raise EntryFault(entry, "is no absolute path such as /srv/in")
    return entries


class FileSettings(Section):
    """Which of a worker's files jobs may name."""

    folders: Annotated[Texts, AfterValidator(_folders)] = ()  # Read and written, at any depth.


def _hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_host(entry) for entry in entries)


def _host(entry: str) -> str:
    host = entry.lower().rstrip(".")
    if host == "*" or _HOST.fullmatch(host):
        return host
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        raise EntryFault(
            entry, "is no host: write files.example.com, *.example.com, an address, or *"
        ) from None


def _networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        try:
            ipaddress.ip_network(entry)
        except ValueError as fault:
            raise EntryFault(entry, "is no network such as 10.1.0.0/16", fault) from None
    return entries


class HttpSettings(Section):
    """What jobs may fetch from `http(s)` sources; redirects are held to the same."""

    hosts: Annotated[Texts, AfterValidator(_hosts)] = ("*",)
    networks: Annotated[
        Texts, AfterValidator(_networks)
    ] = ()  # Not public, and allowed all the same.
    size_max: Bytes = Field(64 * 1024**3, ge=0)  # Of one object.
    timeout_seconds: Seconds = Field(3600.0, gt=0)  # For one object as a whole, redirects included.
    ca_file: Path | None = None  # PEM: trusted instead of the public authorities.


def _kms_keys(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        if not KMS_KEY.fullmatch(entry):
            raise EntryFault(
                entry, "is no key: write arn:aws:kms:<region>:<account>:key/<id>, no alias"
            )
    return entries


class EncryptionSettings(Section):
    """The keys by which fields tagged PII are encrypted."""

    key_file: Path | None = None  # TOML: keys by id, and which one is current.
    kms_keys: Annotated[Texts, AfterValidator(_kms_keys)] = ()  # The first encrypts, all decrypt.
    kms_endpoint_url: str | None = Field(None, pattern=r"^https?://")
