"""What a run leaves behind: conflicts of idempotency keys, checkpoints, sinks in their order."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from processor import App
from processor.engine.context import JobContext
from processor.engine.effects import SinkFailed, fault_of
from processor.engine.outcomes import known_outcome
from processor.engine.ports import LedgerRow, Owner
from processor.engine.slices import Duplicate
from processor.errors import SinkUnavailable, UsageError
from processor.model import Hop, JobHeaders, Position
from tests.contracts.test_protected import FULL, Source, opened_of
from tests.engine.bench import Bench, Crash

STOP = OSError("no answer")
KEYED = [("ce_type", b"count"), ("idempotency-key", b"a")]


# Idempotency keys.


def test_same_idempotency_key_runs_once_and_points_to_the_first_job(bench: Bench):
    bench.submit(1, idempotency_key="a")
    bench.append(b"1".rjust(12), written=[("ce_id", b"again"), ("ce_type", b"count"),
                                ("idempotency-key", b"a")])  # fmt: skip

    bench.member(publish_status=True).go()

    again = [each for each in bench.statuses() if each["job_id"] == "again"]
    assert bench.runs == [1]
    assert [(each["state"], each["error_class"], each["result"]) for each in again] == [
        ("duplicate", None, '{"n": 1}')
    ]


@pytest.mark.parametrize("same_slice", [True, False])
def test_same_idempotency_key_with_another_payload_is_told_as_a_conflict(
    bench: Bench, same_slice: bool
):
    member = bench.member(publish_status=True)
    bench.append(b"     1", written=[("ce_id", b"first"), *KEYED])
    if not same_slice:
        member.go()
    bench.append(b"     2", written=[("ce_id", b"other"), *KEYED])
    member.go()

    (told,) = [each for each in bench.statuses() if each["job_id"] == "other"]
    assert bench.runs == [1]
    assert (told["state"], told["error_class"]) == ("duplicate", "IdempotencyConflict")
    assert "job first had the same idempotency key and another payload" in told["error_message"]
    assert bench.committed() == 2


def test_schema_s_id_alone_makes_no_conflict(bench: Bench):
    bench.append(b"     1", written=[("ce_id", b"first"), *KEYED])
    bench.append(b"    \n1", written=[("ce_id", b"other"), *KEYED])

    bench.member(publish_status=True).go()

    assert [each["error_class"] for each in bench.statuses()] == [None, None]


def test_job_is_a_duplicate_of_one_whose_key_was_withdrawn_and_waits_for_nothing():
    before, now = Source(), Source()
    now.current = "two"
    digest = opened_of(before.keyring(), FULL).digest()
    row = LedgerRow("i", "first", "done", None, None, payload_hash=digest)
    job = JobHeaders("other", "a.job", idempotency_key="k")
    entry: Any = SimpleNamespace(hop=Hop(Position("t", 0, 1), 0))

    told = known_outcome(row, job, entry, lambda: opened_of(now.keyring(), FULL))

    assert told == Duplicate("first", "done", None, 0, conflict=False)


# Checkpoints.


def test_next_attempt_is_given_the_last_checkpoint(bench: Bench):
    seen: list[Any] = []

    def first(context: JobContext) -> None:
        seen.append(context.last_checkpoint)
        assert context.checkpoint({"part": 1})
        assert context.checkpoint({"part": 2})
        seen.append(context.last_checkpoint)
        raise STOP

    bench.script[1] = [first, lambda context: seen.append(context.last_checkpoint)]
    bench.submit(1)
    member = bench.member()

    member.go()
    bench.clock.advance(60.0)
    member.go()

    assert seen == [None, {"part": 2}, {"part": 2}]
    assert bench.effects() == [1]
    assert bench.ledger.lookup(["job:job-1"])["job:job-1"].progress is None


def test_next_owner_is_given_the_last_checkpoint(bench: Bench):
    seen: list[Any] = []

    def crash(context: JobContext) -> None:
        context.checkpoint([1, 2])
        bench.ledger.before = crash_at("record")

    bench.submit(1)
    bench.script[1] = [crash, lambda context: seen.append(context.last_checkpoint)]
    bench.member().go_until_crash()
    bench.ledger.before = lambda _: None

    bench.member().go()

    assert seen == [[1, 2]]
    assert bench.effects() == [1]


def test_checkpoint_of_a_worker_that_lost_the_partition_is_refused_and_ends_the_run(bench: Bench):
    after: list[int] = []

    def late(context: JobContext) -> None:
        bench.ledger.raise_owner(Owner("g", "t", 0, 99))
        context.checkpoint(1)
        after.append(1)

    bench.script[1] = [late]
    bench.submit(1)
    member = bench.member()

    member.go(2)

    assert after == []
    assert bench.effects() == []


def test_checkpoint_while_the_ledger_is_away_is_told_and_the_earlier_one_stays(bench: Bench):
    told: list[Any] = []

    def away(call: str) -> None:
        if call == "checkpoint":
            raise SinkUnavailable("no answer")

    def run(context: JobContext) -> None:
        told.append(context.checkpoint(1))
        bench.ledger.before = away
        told.append(context.checkpoint(2))
        told.append(context.last_checkpoint)

    bench.script[1] = [run]
    bench.submit(1)

    bench.member().go()

    assert told == [True, False, 1]


def test_context_without_a_worker_keeps_nothing():
    context = JobContext(
        job_id="j", job_type="t", key=None, attempt=1, deadline=None,
        objects=None, bind_log=lambda: None,  # type: ignore[arg-type]
    )  # fmt: skip

    assert context.checkpoint(1) is False
    with pytest.raises(UsageError, match="belongs to no worker"):
        _ = context.transaction


# Sinks.


class Told:
    """A plain sink that tells when it was written to."""

    def __init__(self, name: str, told: list[tuple[str, list[int]]]) -> None:
        self.name, self.told = name, told

    def write(self, effects: Any) -> list[str]:
        self.told.append((self.name, [each.result["n"] for each in effects]))
        return ["" for _ in effects]


def test_plain_sinks_are_written_in_their_order_before_the_row_and_the_transactional_ones(
    bench: Bench,
):
    told: list[tuple[str, list[int]]] = []
    inner = bench.sink

    class Inside:
        def write_in(self, transaction: Any, effects: Any) -> None:
            told.append(("inside", [each.result["n"] for each in effects]))
            inner.write_in(transaction, effects)

    bench.sinks = (Inside(), Told("one", told), Told("two", told))
    for n in (1, 2, 3):
        bench.submit(n)

    bench.member().go()

    assert told == [("one", [1, 2, 3]), ("two", [1, 2, 3]), ("inside", [1, 2, 3])]


def test_crash_between_a_plain_sink_and_the_row_writes_the_sink_again_and_the_row_once(
    bench: Bench,
):
    told: list[tuple[str, list[int]]] = []
    bench.sinks = (Told("one", told), bench.sink)

    bench.ledger.before = crash_at("record")
    bench.submit(1)
    bench.member().go_until_crash()
    bench.ledger.before = lambda _: None

    bench.member().go()

    assert told == [("one", [1]), ("one", [1])]
    assert bench.effects() == [1]


def test_generator_s_values_are_its_result():
    app = App()

    @app.job("rows.make")
    def make(payload: dict[str, Any], ctx: JobContext) -> Any:
        yield {"n": 1}
        yield {"n": 2}

    assert app.jobs["rows.make"].call({}, None) == [{"n": 1}, {"n": 2}]


def test_async_generator_s_values_are_its_result():
    import asyncio

    app = App()

    @app.job("rows.make")
    async def make(payload: dict[str, Any]) -> Any:
        yield {"n": 1}
        await asyncio.sleep(0)
        yield {"n": 2}

    assert app.jobs["rows.make"].is_async
    assert asyncio.run(app.jobs["rows.make"].call({}, None)) == [{"n": 1}, {"n": 2}]


def test_sink_s_error_that_has_no_words_fails_its_job_and_not_the_worker():
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError("code")

    failed = fault_of(Mute())

    assert isinstance(failed, SinkFailed)
    assert str(failed) == "Mute"


def test_what_is_no_sink_is_refused():
    with pytest.raises(UsageError, match=r"is no sink for `a\.b`"):
        App().job("a.b", sink=object())  # type: ignore[arg-type]


def crash_at(wanted: str) -> Callable[[str], None]:
    def crash(call: str) -> None:
        if call == wanted:
            raise Crash

    return crash
