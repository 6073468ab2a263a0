"""How a job ended is told on the status topic, once its end is settled and before its offset is."""

from __future__ import annotations

from typing import Any

import pytest

from processor.errors import Reject
from tests.engine.bench import Bench


def test_status_of_a_job_that_is_done(bench: Bench):
    bench.submit(1)

    bench.member(publish_status=True).go()

    assert bench.statuses() == [
        {
            "job_id": "job-1",
            "state": "succeeded",
            "attempts": 1,
            "result": '{"n": 1}',
            "error_class": None,
            "error_message": None,
        }
    ]
    assert [record.key for record in bench.broker.records("t.status")] == [b"job-1"]


def test_status_of_a_job_that_is_dead(bench: Bench):
    bench.submit(1)
    bench.fail(1, fault=Reject("no such customer"))

    bench.member(publish_status=True).go()

    (status,) = bench.statuses()
    assert (status["job_id"], status["state"], status["attempts"]) == ("job-1", "dead", 1)
    assert (status["error_class"], status["error_message"]) == ("Reject", "no such customer")
    assert status["result"] is None


def test_status_of_a_record_that_cannot_be_decoded_names_its_place(bench: Bench):
    bench.append(b"\xff", written=[])

    bench.member(publish_status=True).go()

    (status,) = bench.statuses()
    assert (status["job_id"], status["state"]) == ("t-0-0", "dead")


def test_job_that_will_be_retried_has_no_status_yet(bench: Bench):
    bench.submit(1)
    bench.fail(1)

    bench.member(publish_status=True).go()

    assert bench.statuses() == []


def test_offset_waits_for_the_status_to_be_acknowledged(bench: Bench):
    bench.submit(1)
    member = bench.member(publish_status=True)
    member.log.answers_held = True

    member.go()
    before = (len(bench.statuses()), bench.committed())
    member.log.answers_held = False
    member.go()

    assert before == (1, 0)
    assert bench.committed() == 1


@pytest.mark.parametrize("fault", [None, Reject("never")])
def test_topic_that_does_not_publish_has_no_statuses(bench: Bench, fault: Any):
    bench.submit(1)
    if fault is not None:
        bench.fail(1, fault=fault)

    bench.member().go()

    assert bench.statuses() == []
    assert bench.committed() == 1
