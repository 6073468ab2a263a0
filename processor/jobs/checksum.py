"""`object.checksum`: read an object for its size and checksum, and compare with what is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from processor.contracts.uris import shown
from processor.errors import Reject
from processor.jobs.copy import Context, measure
from processor.model import ObjectRef

# Those whose digest has one length, on every machine.
ALGORITHMS = sorted(name for name in hashlib.algorithms_guaranteed if not name.startswith("shake"))


@dataclass(frozen=True, slots=True)
class ObjectChecksum:
    """What `object.checksum` is asked: the object, with the size and SHA-256 it should have."""

    source: ObjectRef
    algorithm: str = "sha256"


def checksum(payload: ObjectChecksum, ctx: Context) -> dict[str, Any]:
    """Give the object's true `uri`, `size` and `sha256`, and another checksum under its own name.

    Reject: the reference says otherwise, or the algorithm is not known.
    """
    source, algorithm = payload.source, payload.algorithm
    if algorithm not in ALGORITHMS:
        raise Reject(
            f"the checksum algorithm {algorithm!r} is not known",
            hint="one of " + ", ".join(ALGORITHMS),
        )
    name = shown(source.uri)
    size, sums = measure(source.uri, ctx, total=source.size, algorithms={"sha256", algorithm})
    if source.size is not None and size != source.size:
        raise Reject(f"{name} has {size} bytes, expected {source.size}")
    if source.sha256 is not None and sums["sha256"] != source.sha256:
        raise Reject(f"{name} has sha256 {sums['sha256']}, expected {source.sha256}")
    return {"uri": name, "size": size, **sums}
