"""How values of one schema id are read, once it is known that they may be.

Rule: a stranger's schema is not compiled before its job type is admitted. So what is compiled, and
what is too heavy for it, is found at the first value that is read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BytesIO
from typing import Any

from fastavro import schemaless_reader

from processor.contracts.protected import PREFIX_SIZE, Opened
from processor.contracts.weight import DECODED_BYTES_MAX, Scale
from processor.errors import ContractError

FAULT_CHARACTERS_MAX = 1000  # Of what is kept of a fault: its message may name a stranger's fields.

Read = Callable[[bytes], dict[str, Any]]
Open = Callable[[bytes], tuple[dict[str, Any], Opened]]


class Reading:
    """How values of one schema id are read: the job type, and the function from value to payload.

    `read` raises ContractError for a value that is too large or no such body. The value's prefix
    must be the one that the reading was asked for. `open` is the way to read values with tagged
    fields, and to know what must not be told of them; None: there are none. Where the schema cannot
    be used, both are there, and raise ContractError.
    """

    def __init__(
        self,
        job_type: str,
        compiled: Callable[[], tuple[Read, Open | None]],
        *,
        text_bytes: int,
    ) -> None:
        """`compiled` may raise ContractError. It is called once, when a value is to be read.

        `text_bytes`: what the schema's text takes in memory.
        """
        self.job_type = job_type
        self.text_bytes = text_bytes
        self._compiled = compiled

    @property
    def read(self) -> Read:
        """Value to payload."""
        return self._made[0]

    @property
    def open(self) -> Open | None:
        """Value to payload, and what must not be told of it."""
        return self._made[1]

    @cached_property
    def _made(self) -> tuple[Read, Open | None]:
        try:
            return self._compiled()
        except ContractError as fault:
            message, hint = fault.message[:FAULT_CHARACTERS_MAX], fault.hint

            def refuse(_: bytes) -> Any:
                raise ContractError(message, hint=hint)

            return refuse, refuse


def body_reader(
    schema_id: int, writer: dict[str, Any], reader: dict[str, Any] | None, *, bytes_max: int
) -> Read:
    """Make the function that reads a value of this schema id."""
    job_type: str = writer["name"]
    scale = Scale(writer, reader)
    harmless_max = min(bytes_max, scale.light_max)

    def corrupt(fault: Exception) -> ContractError:
        return ContractError(
            f"the body is no `{job_type}` as schema {schema_id} has it: truncated or corrupt"
            f" ({type(fault).__name__})"
        )

    def check_size(value: bytes) -> None:
        if len(value) > bytes_max:
            raise too_large(value, bytes_max)
        try:
            fits = scale.fits(value, PREFIX_SIZE)
        except (IndexError, ValueError) as fault:
            raise corrupt(fault) from None
        if not fits:
            raise too_heavy(job_type)

    def read_as_written(value: bytes) -> dict[str, Any]:
        body = BytesIO(value)
        body.seek(PREFIX_SIZE)
        size = len(value)
        if size > harmless_max:
            check_size(value)
        try:
            payload: dict[str, Any] = schemaless_reader(body, writer)  # type: ignore[assignment]
        except Exception as fault:  # noqa: BLE001 - a stranger's schema and bytes provoked it.
            raise corrupt(fault) from None
        if body.tell() != size:
            raise ContractError(f"{size - body.tell()} bytes follow the end of the `{job_type}`")
        return payload

    if reader is None:
        return read_as_written
    shared = {id(default) for default in _container_defaults(reader)}

    def read_resolved(value: bytes) -> dict[str, Any]:
        # fastavro skips the fields that the reader lacks without looking at them, so a truncated
        # one would pass: the body is read as written first. Only evolving records pay for it.
        read_as_written(value)
        body = BytesIO(value)
        body.seek(PREFIX_SIZE)
        try:
            payload: Any = schemaless_reader(body, writer, reader)
        except Exception:  # noqa: BLE001 - as above.
            raise ContractError(
                f"schema {schema_id} of `{job_type}` cannot be read with the local schema",
                hint="run `processor schemas check` where the producer's schema is registered",
            ) from None
        if shared:
            _unshare(payload, shared)
        return payload  # type: ignore[no-any-return]

    return read_resolved


def too_large(value: bytes, bytes_max: int) -> ContractError:
    """Say that a value is longer than is read."""
    return ContractError(f"the value has {len(value)} bytes, more than the {bytes_max} allowed")


def too_heavy(job_type: str) -> ContractError:
    """Say that a payload takes more memory than a worker gives it."""
    return ContractError(
        f"the `{job_type}` takes more than {DECODED_BYTES_MAX} bytes of memory once it is decoded",
        hint="upload the large part, and refer to it: processor.ObjectRef (docs/objects.md)",
    )


def _container_defaults(kind: Any) -> Iterator[list[Any] | dict[str, Any]]:
    if isinstance(kind, list):
        for branch in kind:
            yield from _container_defaults(branch)
    elif isinstance(kind, dict):
        for field in kind.get("fields", ()):
            if isinstance(field.get("default"), list | dict):
                yield field["default"]
            yield from _container_defaults(field["type"])
        for part in ("items", "values"):
            yield from _container_defaults(kind.get(part))


def _unshare(value: dict[str, Any] | list[Any], shared: set[int]) -> None:
    """Copy the defaults in a payload: fastavro hands out the schema's own list or map.

    A handler would change it. The rest of the payload is nobody else's.
    """
    if isinstance(value, list):
        for each in value:
            if isinstance(each, list | dict):
                _unshare(each, shared)
        return
    for name, each in value.items():
        if isinstance(each, list | dict):
            if id(each) in shared:
                value[name] = copy.deepcopy(each)
            else:
                _unshare(each, shared)
