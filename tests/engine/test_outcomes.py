"""What a run's exception becomes, in what travels and in what is told."""

from __future__ import annotations

from processor.contracts.masking import Plaintexts, hiding
from processor.engine.outcomes import failure_of
from processor.errors import Reject
from processor.model import key_hash
from tests.engine.bench import TIER_1, Bench

CANARY = "Ada Lovelace"


def fallen(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as fault:  # noqa: BLE001
        return fault


def test_failure_tells_where_it_was_raised_and_from_what():
    failure = failure_of(fallen(OSError("no answer"), ValueError("no such host")))

    assert failure.raised is not None
    assert failure.raised.at[0].endswith(" fallen")
    assert failure.raised.cause == "ValueError: no such host"


def test_failure_raised_on_purpose_tells_no_place():
    assert failure_of(fallen(Reject("no such mailbox"))).raised is None


def test_failure_is_the_same_wherever_it_was_raised():
    assert failure_of(fallen(OSError("no answer"))) == failure_of(OSError("no answer"))


def test_cause_is_masked_while_its_job_is_in_hand():
    with hiding(Plaintexts([CANARY])):
        failure = failure_of(fallen(OSError("no answer"), ValueError(f"{CANARY} is unknown")))

    assert failure.raised is not None
    assert failure.raised.cause == "ValueError: *** is unknown"


def test_class_that_a_job_calls_permanent_is():
    assert failure_of(KeyError("x"), permanent=(LookupError,)).permanent
    assert not failure_of(OSError("x"), permanent=(LookupError,)).permanent


def test_line_of_a_failed_job_tells_its_key_and_place(bench: Bench):
    bench.submit(1)
    bench.fail(1)

    member = bench.member()
    member.go()

    (line,) = bench.logger.told("job will be retried")
    assert (line["error_class"], line["error"]) == ("OSError", "no answer")
    assert line["key_hash"] == key_hash(bench.copies(TIER_1)[0].key)
    assert "bench.py" in line["at"][0]
    assert len([level for level, *_ in bench.logger.events if level == "warning"]) == 1


def test_hash_of_a_key_is_stable_and_does_not_tell_it():
    assert key_hash(b"customer-7") == "eb9d5a2840afd0ca"
    assert key_hash(b"customer-7") != key_hash(b"customer-8")
    assert key_hash(None) == "-" != key_hash(b"")
