"""A handler's own statements, through the whole engine, on a real PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from processor.engine.context import JobContext
from processor.engine.ports import Owner
from processor.errors import PermanentError, Reject, SinkUnavailable
from processor.model import Effect
from processor.sinks import postgres
from processor.sinks.postgres import PostgresLedger
from tests.engine.bench import LETTERS, Bench
from tests.engine.conftest import on_postgres

pytestmark = [pytest.mark.postgres]


@pytest.fixture
def bench(tables: str) -> Iterator[Bench]:
    for made in on_postgres(tables):
        made.ledger = made.ledger._ledger  # Not watched: handlers may write in it.
        made.sinks = ()
        yield made


@pytest.fixture
def reader(tables: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(tables, autocommit=True) as connection:
        yield connection


def insert(n: int, *then: Any) -> Any:
    """What a run does: write n, then raise or call something."""

    def step(context: JobContext) -> None:
        context.transaction.execute("INSERT INTO effect (n) VALUES (%s)", [n])
        for each in then:
            if isinstance(each, BaseException):
                raise each
            each(context)

    return step


def kill(reader: psycopg.Connection[Any]) -> Any:
    def step(context: JobContext) -> None:
        pid = context.transaction.info.backend_pid
        reader.execute("SELECT pg_terminate_backend(%s)", [pid])
        context.transaction.execute("SELECT 1")

    return step


def test_handler_s_statements_take_effect_once_with_the_row(bench: Bench):
    bench.script = {1: [insert(1)], 2: [insert(2), insert(2)]}
    bench.submit(1)
    bench.submit(2)
    bench.submit(2)

    bench.member().go()

    assert bench.effects() == [1, 2]
    assert bench.committed() == 3


def test_handler_that_fails_leaves_nothing_and_its_next_run_does(bench: Bench):
    bench.script = {1: [insert(1, OSError("no answer")), insert(1)]}
    bench.submit(1)
    member = bench.member()

    member.go()
    before = bench.effects()
    bench.clock.advance(60.0)
    member.go()

    assert (before, bench.effects()) == ([], [1])
    assert bench.attempts == [(1, 1), (1, 2)]


def test_what_ran_before_in_the_slice_is_written_first(bench: Bench):
    seen: list[Any] = []
    bench.script = {2: [insert(2, lambda _: seen.append(bench.ledger.lookup(["job:job-1"])))]}
    for n in (1, 2, 3):
        bench.submit(n)

    bench.member().go()

    assert [list(each) for each in seen] == [["job:job-1"]]
    assert bench.runs == [1, 2, 3]
    assert bench.committed() == 3


def test_connection_killed_in_the_middle_counts_no_attempt(
    bench: Bench, reader: psycopg.Connection[Any]
):
    bench.script = {1: [insert(1, kill(reader)), insert(1)]}
    bench.submit(1)
    member = bench.member()

    member.go()
    bench.clock.advance(60.0)
    member.go()

    assert bench.effects() == [1]
    assert bench.attempts == [(1, 1), (1, 1)]


def test_commit_that_the_server_breaks_off_is_run_again(
    bench: Bench, reader: psycopg.Connection[Any]
):
    def kill_later(context: JobContext) -> None:
        reader.execute("SELECT pg_terminate_backend(%s)", [context.transaction.info.backend_pid])

    bench.script = {1: [insert(1, kill_later), insert(1)]}
    bench.submit(1)
    member = bench.member()

    member.go()
    bench.clock.advance(60.0)
    member.go()

    assert bench.effects() == [1]
    assert bench.committed() == 1


def test_statement_that_is_wrong_is_the_handler_s_own_fault(bench: Bench):
    def wrong(context: JobContext) -> None:
        context.transaction.execute("SELECT nothing")

    bench.script = {1: [insert(1, wrong)] * 3, 2: [insert(2)]}
    bench.submit(1)
    bench.submit(2, key="other")
    member = bench.member(attempts_max=1, tiers=0)

    member.go()

    assert bench.numbers(LETTERS) == [1]
    assert bench.effects() == [2]


def test_handler_of_a_worker_that_lost_its_partition_leaves_nothing(bench: Bench):
    def lose(_: JobContext) -> None:
        bench.ledger.raise_owner(Owner("g", "t", 0, 99))

    bench.script = {1: [insert(1, lose)]}
    bench.submit(1)

    bench.member().go(2)

    assert bench.effects() == []
    assert bench.ledger.lookup(["job:job-1"]) == {}


def test_handler_that_swallows_its_fault_commits_nothing_of_the_broken_transaction(bench: Bench):
    def swallow(context: JobContext) -> None:
        with contextlib.suppress(psycopg.Error):
            context.transaction.execute("SELECT nothing")

    bench.script = {1: [insert(1, swallow), insert(1)]}
    bench.submit(1)
    member = bench.member()

    member.go()
    bench.clock.advance(60.0)
    member.go()

    assert bench.effects() == [1]
    assert bench.attempts == [(1, 1), (1, 2)]


# What ctx.transaction itself meets.


def test_connection_closed_while_idle_is_replaced_and_nothing_waits(
    bench: Bench, reader: psycopg.Connection[Any]
):
    bench.script = {1: [insert(1)], 2: [insert(2)]}
    bench.submit(1)
    member = bench.member(tiers=0, attempts_max=1)
    member.go()
    idle = bench.ledger._connections.mine("for_handlers")
    reader.execute("SELECT pg_terminate_backend(%s)", [idle.info.backend_pid])
    _until_ended(reader, idle.info.backend_pid)

    bench.submit(2)
    member.go()

    assert bench.effects() == [1, 2]
    assert bench.attempts == [(1, 1), (2, 1)]


def _until_ended(reader: psycopg.Connection[Any], pid: int) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    while reader.execute(asked, [pid]).fetchone() != (0,):
        pass


def let_out(context: JobContext) -> None:
    context.transaction.execute("SELECT 1")


def swallow(context: JobContext) -> None:
    with contextlib.suppress(Exception):
        context.transaction.execute("SELECT 1")


def swallow_twice(context: JobContext) -> None:
    swallow(context)
    swallow(context)


def tell_otherwise(context: JobContext) -> None:
    try:
        context.transaction.execute("SELECT 1")
    except Exception as fault:
        raise Reject("the database is away") from fault


HANDLERS = [let_out, swallow, swallow_twice, tell_otherwise]


@pytest.mark.parametrize("handler", HANDLERS)
def test_server_that_is_away_when_a_handler_asks_counts_no_attempt(
    bench: Bench, handler: Any, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: Any, **__: Any) -> Any:
        raise psycopg.OperationalError("connection refused")

    with monkeypatch.context() as away:

        def go_away(context: JobContext) -> None:
            away.setattr(postgres, "connect", refused)
            handler(context)

        bench.script = {1: [go_away, insert(1)]}
        bench.submit(1)
        bench.submit(2)
        member = bench.member(tiers=0, attempts_max=1)
        member.go()
    bench.clock.advance(60.0)
    member.go()

    assert bench.numbers(LETTERS) == []
    assert bench.attempts == [(1, 1), (1, 1), (2, 1)]
    assert bench.effects() == [1]
    assert bench.committed() == 2


class Sink:
    """Meets a fault with the first write of job 1, and keeps the order of all others."""

    def __init__(self, fault: Exception) -> None:
        self.faults = [fault]
        self.wrote: list[int] = []

    def write(self, effects: Sequence[Effect]) -> list[str]:
        numbers = [each.result["n"] for each in effects]
        if 1 in numbers and self.faults:
            raise self.faults.pop()
        self.wrote += numbers
        return ["" for _ in effects]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(
    ("fault", "wrote", "letters"),
    [(SinkUnavailable("away"), [1, 2], []), (PermanentError("refused"), [], [1, 2])],
)
def test_handler_cannot_pass_what_ran_before_it_and_is_not_written(
    bench: Bench, handler: Any, fault: Exception, wrote: list[int], letters: list[int]
):
    sink = Sink(fault)
    bench.sinks = (sink,)
    bench.script = {2: [handler]}
    bench.submit(1)
    bench.submit(2)
    member = bench.member(hold=True)

    member.go()
    bench.clock.advance(60.0)
    member.go()

    assert sink.wrote == wrote
    assert bench.numbers(LETTERS) == letters
    assert bench.committed() == 2


def test_ledger_elsewhere_has_no_transaction_for_handlers(tmp_path: Any):
    from tests.engine.conftest import on_sqlite

    (bench,) = [next(on_sqlite(tmp_path / "l.db"))]
    bench.script = {1: [insert(1)]}
    bench.submit(1)

    bench.member(attempts_max=1, tiers=0).go()

    (hop,) = bench.hops(LETTERS)
    assert hop.error_message is not None
    assert "needs a ledger in PostgreSQL" in hop.error_message
    bench.ledger.close()


def test_row_that_a_stopped_worker_keeps_locked_is_waited_for_and_counts_no_attempt(
    bench: Bench,
    tables: str,
    reader: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(postgres, "LOCK_SECONDS_MAX", 0.1)
    reader.execute("INSERT INTO effect (n) VALUES (0)")
    stopped = PostgresLedger(tables)
    kept = stopped.begin_handler(300)
    kept.connection.execute("UPDATE effect SET n = 7")

    def add(context: JobContext) -> None:
        context.transaction.execute("UPDATE effect SET n = n + 1")

    bench.script = {1: [add] * 9}
    bench.submit(1)
    member = bench.member(tiers=0, attempts_max=1)
    member.go()
    waited = (bench.numbers(LETTERS), bench.committed(), bench.effects())
    kept.rollback()
    stopped.close()
    bench.clock.advance(60)
    member.go()

    assert waited == ([], 0, [0])
    assert {attempt for _, attempt in bench.attempts} == {1}
    assert (bench.numbers(LETTERS), bench.committed(), bench.effects()) == ([], 1, [1])
