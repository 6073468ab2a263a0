"""A job type as the engine knows it: its handler and how to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from processor.engine.ports import Sink, TransactionalSink


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One registered handler.

    `call(payload, context)` runs it whatever its signature; `convert` turns the decoded Avro record
    into what the handler asks for and raises ContractError when it cannot. `simple` runs it with
    the decoded record, where it asks for no more than that.

    With `batch_max` the handler is given so many jobs at once: `call` and `simple` take a list of
    payloads, `call` a list of contexts too, and a batch waits `linger_seconds` to become full.
    """

    job_type: str
    topic: str | None
    call: Callable[[Any, Any], Any]
    convert: Callable[[Any], Any]
    is_async: bool
    timeout_seconds: float | None
    permanent: tuple[type[BaseException], ...]
    sinks: tuple[Sink | TransactionalSink, ...] = ()  # In the order of their writes.
    simple: Callable[[Any], Any] | None = None
    batch_max: int | None = None
    linger_seconds: float = 0.0
