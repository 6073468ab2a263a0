from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.contracts import headers
from processor.contracts.headers import (
    ERROR_MESSAGE_BYTES_MAX,
    HOP_PREFIX,
    ID_BYTES_MAX,
    fingerprint,
    first_hop,
    read_hop,
    read_job,
    write_hop,
    write_job,
)
from processor.errors import ContractError
from processor.model import Failure, Headers, Hop, JobHeaders, Position, Record

ORIGIN = Position("t", 3, 41)
HOP = Hop(ORIGIN, 1_700_000_000_000)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FULL = Hop(
    origin=ORIGIN,
    origin_timestamp_ms=1_700_000_000_000,
    attempt=2,
    not_before_ms=1_700_000_005_000,
    first_failure_ms=1_700_000_001_000,
    last_failure_ms=1_700_000_002_000,
    error_class="OSError",
    error_message="no answer",
    fingerprint="a1b2c3d4e5f6",
    epoch=7,
    copy="7-3",
    trace=TRACEPARENT,
)


def record_of(written: Headers, *, topic: str = "t", value: bytes | None = b"v") -> Record:
    return Record(topic, 3, 41, b"k", value, written, 1_700_000_000_000)


# A job's own headers.


def test_new_job_s_headers_are_read_as_they_were_written():
    written = write_job(
        job_id="0198-x",
        job_type="object.copy",
        source="/submit",
        time="2026-01-02T03:04:05.678+00:00",
        idempotency_key="order-7",
        not_before_ms=1_700_000_000_001,
        deadline_ms=1_700_000_000_002,
        claim=b"file:///c;9;ab",
    )

    job = read_job(record_of(written), HOP)

    assert job == JobHeaders(
        job_id="0198-x",
        job_type="object.copy",
        idempotency_key="order-7",
        time="2026-01-02T03:04:05.678+00:00",
        not_before_ms=1_700_000_000_001,
        deadline_ms=1_700_000_000_002,
        claim=b"file:///c;9;ab",
    )
    assert ("ce_specversion", b"1.0") in written
    assert ("ce_source", b"/submit") in written


def test_what_a_new_job_does_not_ask_for_is_not_written():
    written = write_job(job_id="x", job_type="a.b", source="/s", time="now")

    assert [name for name, _ in written] == [
        "ce_id", "ce_type", "ce_source", "ce_time", "ce_specversion",
    ]  # fmt: skip


def test_job_without_headers_is_named_by_its_origin():
    job = read_job(record_of([]), Hop(Position("other", 1, 2), 1_700_000_000_000))

    assert job == JobHeaders("other-1-2", None, origin_timestamp_ms=1_700_000_000_000)
    assert job.identity("a.b") == "job:other-1-2@1700000000000"


def test_identity_is_the_idempotency_key_of_a_job_type_or_the_job_id():
    by_key = read_job(record_of([("ce_id", b"x"), ("idempotency-key", b"order-7")]), HOP)
    by_id = read_job(record_of([("ce_id", b"x")]), HOP)

    assert by_key.identity("a.b") == "key:a.b:order-7"
    assert by_id.identity("a.b") == "job:x"


def test_last_of_a_repeated_header_counts():
    job = read_job(record_of([("ce_id", b"one"), ("ce_id", b"two")]), HOP)

    assert job.job_id == "two"


def test_headers_without_a_value_count_as_absent():
    written: Headers = [("ce_id", None), ("deadline", None)]  # type: ignore[list-item]

    assert read_job(record_of(written), HOP) == headers.nameless_job(HOP)


def test_our_own_headers_are_never_a_job_s():
    job = read_job(record_of([(headers.HOP_ATTEMPT, b"\xff"), ("ce_id", b"x")]), HOP)

    assert job.job_id == "x"


@pytest.mark.parametrize("name", ["ce_id", "ce_type", "idempotency-key"])
@pytest.mark.parametrize("size", [1, ID_BYTES_MAX])
def test_ids_at_their_bounds_are_taken(name: str, size: int):
    read_job(record_of([(name, b"x" * size)]), HOP)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([("ce_id", b"")], "header `ce_id` has 0 bytes"),
        ([("ce_id", b"x" * (ID_BYTES_MAX + 1))], "header `ce_id` has 257 bytes"),
        ([("ce_type", b"x" * 257)], "header `ce_type` has 257 bytes"),
        ([("idempotency-key", b"x" * 257)], "header `idempotency-key` has 257 bytes"),
        ([("ce_id", b"\xff\xfe")], "header `ce_id` is not UTF-8"),
        ([("ce_id", b"a\0b")], "header `ce_id` has control characters"),
        ([("ce_type", b"a\n")], "header `ce_type` has control characters"),
        (
            [("idempotency-key", "a\x85".encode())],
            "header `idempotency-key` has control characters",
        ),
        ([("deadline", b"soon")], "header `deadline` is no whole number of at most 18 digits"),
        ([("deadline", b"-1")], "header `deadline` is no whole number of at most 18 digits"),
        ([("deadline", b"1.5")], "header `deadline` is no whole number of at most 18 digits"),
        ([("not-before", b"")], "header `not-before` is no whole number of at most 18 digits"),
        ([("not-before", b"9" * 19)], "header `not-before` is no whole number of at most 18"),
        ([("not-before", "٣".encode())], "header `not-before` is no whole number"),
    ],
)
def test_malformed_header_is_named(written: Headers, message: str):
    with pytest.raises(ContractError) as caught:
        read_job(record_of(written), HOP)

    assert message in caught.value.message


def test_malformed_header_that_nothing_acts_on_is_let_pass():
    written = [("x-mine", b"\xff"), ("traceparent", b"\xff"), ("ce_id", b"x")]

    assert read_job(record_of(written), HOP).job_id == "x"


def test_trace_context_is_read_and_what_cannot_be_one_is_left_out():
    whole = [("traceparent", TRACEPARENT.encode()), ("tracestate", b"a=1"), ("ce_id", b"x")]

    assert headers.read_trace(whole) == {"traceparent": TRACEPARENT, "tracestate": "a=1"}
    for value in (b"", b"\xff", b"a\n", b"0" * 513, None):
        written: Headers = [("traceparent", value)]  # type: ignore[list-item]
        assert headers.read_trace(written) == {}


# Ours: the way so far.


def test_way_is_read_as_it_was_written():
    assert read_hop(record_of(write_hop([], FULL))) == FULL


def test_smallest_way_is_read_as_it_was_written():
    hop = first_hop(record_of([]))

    assert hop == Hop(origin=ORIGIN, origin_timestamp_ms=1_700_000_000_000)
    assert read_hop(record_of(write_hop([], hop))) == hop


@pytest.mark.parametrize("value", [b"", b"\xff", b"a\n", b"0" * 513])
def test_trace_of_a_way_that_cannot_be_one_tells_nothing(value: bytes):
    written = [(name, value if name == headers.HOP_TRACE else was) for name, was in
               write_hop([], FULL)]  # fmt: skip

    assert read_hop(record_of(written)) == FULL._replace(trace=None)


def test_failure_keeps_the_trace_that_a_worker_without_tracing_knows_nothing_of():
    failed = Failure("OSError", "no answer", permanent=False)

    assert FULL.after(failed, attempt=3, now_ms=1).trace == TRACEPARENT


def test_original_headers_are_untouched_and_ours_are_replaced():
    own: Headers = [("ce_id", b"x"), ("traceparent", TRACEPARENT.encode()),
                    ("b", b"\xff\x00"), ("a", b""), ("b", b"again")]  # fmt: skip

    once = write_hop(own, FULL)
    twice = write_hop(once, Hop(origin=ORIGIN, origin_timestamp_ms=1, attempt=3, epoch=8))

    assert [each for each in once if not each[0].startswith(HOP_PREFIX)] == own
    assert [each for each in twice if not each[0].startswith(HOP_PREFIX)] == own
    ours = dict(each for each in twice if each[0].startswith(HOP_PREFIX))
    assert ours[headers.HOP_ATTEMPT] == b"3"
    assert headers.HOP_ERROR_MESSAGE not in ours
    assert len(twice) == len(own) + len(ours)


def test_headers_do_not_grow_over_many_hops():
    written: Headers = [("ce_id", b"x")]
    sizes = set()

    for _ in range(100):
        written = write_hop(written, FULL)
        sizes.add(sum(len(name) + len(value) for name, value in written))

    assert len(sizes) == 1


def test_record_that_is_no_copy_has_no_way():
    assert read_hop(record_of([("ce_id", b"x")])) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (headers.HOP_ORIGIN_OFFSET, b"x"),
        (headers.HOP_ORIGIN_PARTITION, b""),
        (headers.HOP_ORIGIN_TOPIC, b"\xff"),
        (headers.HOP_ATTEMPT, b"many"),
        (headers.HOP_EPOCH, b"-1"),
        (headers.HOP_COPY, b"\xff"),
    ],
)
def test_malformed_way_is_a_contract_error(name: str, value: bytes):
    written = [(each, value if each == name else was) for each, was in write_hop([], FULL)]

    with pytest.raises(ContractError, match=name):
        read_hop(record_of(written))


@pytest.mark.parametrize("name", [headers.HOP_ORIGIN_TOPIC, headers.HOP_ORIGIN_PARTITION])
def test_way_without_its_whole_origin_is_a_contract_error(name: str):
    written = [each for each in write_hop([], FULL) if each[0] != name]

    with pytest.raises(ContractError, match="the copy's origin is incomplete"):
        read_hop(record_of(written))


@pytest.mark.parametrize(
    ("message", "size", "end"),
    [
        ("x" * ERROR_MESSAGE_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, "x"),
        ("x" * (ERROR_MESSAGE_BYTES_MAX + 1), ERROR_MESSAGE_BYTES_MAX, "…"),
        ("é" * ERROR_MESSAGE_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX - 1, "…"),
        ("lone \ud800 surrogate", 16, "surrogate"),
    ],
)
def test_error_message_is_cut_to_its_bound_and_stays_text(message: str, size: int, end: str):
    hop = Hop(origin=ORIGIN, origin_timestamp_ms=0, error_message=message)

    written = dict(write_hop([], hop))[headers.HOP_ERROR_MESSAGE]

    assert len(written) == size
    assert written.decode().endswith(end)


def test_next_failure_keeps_the_first_one_s_time_and_origin():
    late = Failure("OSError", "no answer", permanent=False, fingerprint="f")

    one = first_hop(record_of([])).after(late, attempt=1, now_ms=100)
    two = one.after(late, attempt=2, now_ms=200)

    assert (one.first_failure_ms, one.last_failure_ms) == (100, 100)
    assert (two.first_failure_ms, two.last_failure_ms, two.attempt) == (100, 200, 2)
    assert two.origin == ORIGIN
    assert (two.error_class, two.error_message, two.fingerprint) == ("OSError", "no answer", "f")


# Fingerprints.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("row 7 of 'x'", "row 8 of 'yy'", True),
        ("at 0x7f3a", "at 0x88bb", True),
        ("object 9f86d081884c is gone", "object 60303ae22b99 is gone", True),
        ("no answer", "no room", False),
    ],
)
def test_fingerprint_groups_like_failures(one: str, other: str, same: bool):
    first, second = (fingerprint(Failure("E", text, permanent=True)) for text in (one, other))

    assert (first == second) is same
    assert len(first) == 12


def test_fingerprint_tells_classes_apart():
    assert fingerprint(Failure("A", "x", True)) != fingerprint(Failure("B", "x", True))


HOP_NAMES = sorted(
    value
    for name, value in vars(headers).items()
    if name.startswith("HOP_") and value != "processor-"
)
VALUES = st.sampled_from([b"1", b"77", b"", b"x", b"\xff", b"1" * 20, "ä".encode(), b"t", None])


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HOP_NAMES), VALUES), max_size=14))
def test_copy_that_is_read_in_a_scan_is_the_one_that_arrives(written: list[tuple[str, bytes]]):
    origin = [(headers.HOP_ORIGIN_TOPIC, b"t"), (headers.HOP_ORIGIN_PARTITION, b"0"),
              (headers.HOP_ORIGIN_OFFSET, b"7")]  # fmt: skip
    record = Record("t.retry.1", 0, 9, b"k", b"v", [*origin[: len(written) % 5], *written], 0)
    try:
        hop = headers.read_hop(record)
    except ContractError:
        hop = None

    copy = headers.read_copy(record)

    assert copy == (None if hop is None else (hop.epoch, hop.copy))
