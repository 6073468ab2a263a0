from __future__ import annotations

import hashlib
import io
from typing import Any

import pytest

from processor.errors import ContractError, JobTimeout, Reject
from processor.jobs import ObjectChecksum, app, checksum
from processor.model import ObjectRef
from tests.adapters.objects.conformance import LARGE
from tests.adapters.objects.memory import MemoryStore
from tests.jobs.context import JobContext

URI = "mem://in/a"
SHA256 = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture
def ctx() -> JobContext:
    store = MemoryStore()
    store.put(URI, io.BytesIO(LARGE), create_only=True)
    return JobContext(store)


@pytest.mark.parametrize("source", [ObjectRef(URI), ObjectRef(URI, size=len(LARGE), sha256=SHA256)])
def test_true_size_and_checksum_are_told(ctx: JobContext, source: ObjectRef) -> None:
    result = checksum(ObjectChecksum(source), ctx)

    assert result == {"uri": URI, "size": len(LARGE), "sha256": SHA256}
    assert ctx.seen[-1][0] == len(LARGE)


def test_another_checksum_is_told_beside_it(ctx: JobContext) -> None:
    result = checksum(ObjectChecksum(ObjectRef(URI), algorithm="md5"), ctx)

    assert result["md5"] == hashlib.md5(LARGE).hexdigest()
    assert result["sha256"] == SHA256


@pytest.mark.parametrize("source", [ObjectRef(URI, size=1), ObjectRef(URI, sha256=SHA256[::-1])])
def test_object_that_is_not_what_its_reference_says_is_rejected(
    ctx: JobContext, source: ObjectRef
) -> None:
    with pytest.raises(Reject, match="expected"):
        checksum(ObjectChecksum(source), ctx)


@pytest.mark.parametrize("algorithm", ["", "crc32", "shake_128", "../sha256"])
def test_unknown_algorithm_is_rejected_and_nothing_is_read(ctx: JobContext, algorithm: str) -> None:
    with pytest.raises(Reject, match="is not known") as refused:
        checksum(ObjectChecksum(ObjectRef(URI), algorithm=algorithm), ctx)

    assert "sha256" in (refused.value.hint or "")
    assert ctx.seen == []


def test_missing_object_is_permanent(ctx: JobContext) -> None:
    with pytest.raises(ContractError, match="does not exist"):
        checksum(ObjectChecksum(ObjectRef("mem://none")), ctx)


def test_cancelled_checksum_stops_between_two_reads(ctx: JobContext) -> None:
    ctx.cancel_after = 2

    with pytest.raises(JobTimeout):
        checksum(ObjectChecksum(ObjectRef(URI)), ctx)

    assert len(ctx.seen) == 2


def test_both_jobs_are_registered_for_the_topic_that_accepts_them() -> None:
    assert {name: spec.topic for name, spec in app.jobs.items()} == {
        "object.copy": "copy",
        "object.checksum": "copy",
    }


@pytest.mark.parametrize("source", [{"size": 1}, {"sha256": SHA256[::-1]}, {}])
def test_signed_link_is_told_without_its_signature(source: dict[str, Any]) -> None:
    link = "https://files.example/a?X-Amz-Signature=s3cret"
    store = MemoryStore()
    store.put(link, io.BytesIO(LARGE), create_only=True)

    try:
        told = str(checksum(ObjectChecksum(ObjectRef(link, **source)), JobContext(store)))
    except Reject as refused:
        told = str(refused)

    assert "https://files.example/a" in told
    assert "s3cret" not in told
