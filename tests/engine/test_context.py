"""What a handler is given."""

from __future__ import annotations

import io

import pytest

from processor.engine.context import JobContext
from processor.errors import ContractError
from processor.model import ObjectRef
from tests.adapters.objects.memory import MemoryStore

LINK = "https://files.example/a?X-Amz-Signature=s3cret"


def test_object_that_is_not_what_its_reference_says_is_told_without_its_signature():
    objects = MemoryStore()
    objects.put(LINK, io.BytesIO(b"abc"), create_only=True)
    context = JobContext(
        job_id="a", job_type="t", key=None, attempt=1, deadline=None, objects=objects,
        bind_log=lambda: None,
    )  # fmt: skip

    with (
        pytest.raises(ContractError, match=r"https://files.example/a is longer") as refused,
        context.open(ObjectRef(LINK, size=2)) as stream,
    ):
        stream.read()

    assert "s3cret" not in str(refused.value)
