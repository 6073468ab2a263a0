"""A new job is checked before anything of it is sent: what no worker could ever run is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from processor.contracts.avro import VALUE_BYTES_MAX
from processor.engine.submit import NewJob, Way, outgoing
from processor.errors import UsageError

NOW, DAY = 1_700_000_000.0, 86_400.0


class NoClaims:
    """A claim store that must not be asked."""

    def put(self, value: bytes) -> Any:
        raise AssertionError("nothing is to be kept")


def written(job: NewJob, *, value: bytes = b"value") -> dict[str, bytes]:
    _, record = outgoing(
        job,
        Way("mail", lambda payload: value, 1_000_000, start_within_seconds=2 * DAY),
        claims=NoClaims(),  # type: ignore[arg-type]
        source="test",
        now=NOW,
        new_id=lambda: "id",
    )
    return dict(record.headers)


def test_start_within_what_the_topic_keeps_is_written():
    assert written(NewJob("x", {}, not_before=NOW + DAY))["not-before"] == b"1700086400000"


def test_start_beyond_what_the_topic_keeps_is_refused():
    with pytest.raises(
        UsageError, match=r"lies 3\.0 days ahead; topic `mail` .* 2\.0 days"
    ) as told:
        written(NewJob("x", {}, not_before=NOW + 3 * DAY))

    assert "retry.retention" in (told.value.hint or "")


@pytest.mark.parametrize("not_before", [math.inf, math.nan, -1.0])
def test_start_that_is_no_time_is_told_as_such(not_before: float):
    with pytest.raises(UsageError, match="no time from 1970"):
        written(NewJob("x", {}, not_before=not_before))


def test_value_that_no_worker_reads_is_refused_before_it_is_kept():
    with pytest.raises(UsageError, match=f"a worker reads at most {VALUE_BYTES_MAX}") as told:
        written(NewJob("x", {}), value=bytes(VALUE_BYTES_MAX + 1))

    assert "ObjectRef" in (told.value.hint or "")
