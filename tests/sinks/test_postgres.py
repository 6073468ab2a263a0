"""PostgreSQL alone: what its faults mean, a handler's own transaction, tables of results."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import errors

from processor.engine.ports import Owner, OwnershipLost
from processor.errors import PermanentError, Reject, SinkUnavailable, UsageError
from processor.model import Effect, Position
from processor.sinks import postgres, postgres_sink
from processor.sinks.postgres import PostgresLedger
from processor.sinks.postgres_sink import PostgresSink, columns_of
from processor.stack.postgres import Postgres

OWNER = Owner("g", "t", 3, 5)
SCHEMA = {
    "type": "record",
    "name": "report",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "n", "type": ["null", "long"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "ok", "type": "boolean"},
    ],
}
ROW = {"id": "a", "n": 1, "at": "2026-01-02T03:04:05Z", "tags": ["x"], "ok": True}


@pytest.fixture
def ledger(database: str) -> Iterator[PostgresLedger]:
    made = PostgresLedger(database)
    yield made
    made.close()


@pytest.fixture
def reader(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def effect(n: int, result: Any = None) -> Effect:
    origin = Position("t", 3, n)
    return Effect(f"job-{n}", "count", f"job:job-{n}", origin, 1, "k", result)


def kill_other_sessions(reader: psycopg.Connection[Any]) -> None:
    reader.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'processor' AND pid <> pg_backend_pid()"
    )


# Outages.


def test_killed_connection_is_an_outage_and_the_next_call_has_another(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    ledger.record(OWNER, [effect(1)])
    kill_other_sessions(reader)

    with pytest.raises(SinkUnavailable, match="does not answer"):
        ledger.record(OWNER, [effect(2)])

    assert ledger.record(OWNER, [effect(2)]) == {"job:job-2"}


@pytest.mark.parametrize("with_effects", [False, True])
def test_server_killed_in_the_middle_leaves_nothing_and_is_asked_again(
    ledger: PostgresLedger,
    reader: psycopg.Connection[Any],
    with_effects: bool,
):
    reader.execute("CREATE TABLE report (n bigint)")

    def write(connection: psycopg.Connection[Any], effects: Any) -> None:
        connection.execute("INSERT INTO report VALUES (1)")
        if with_effects:
            kill_other_sessions(reader)
        connection.execute("INSERT INTO report VALUES (2)")

    if not with_effects:
        ledger.lookup(["x"])
        kill_other_sessions(reader)
    with pytest.raises(SinkUnavailable):
        ledger.record(OWNER, [effect(1)], write)

    assert ledger.lookup(["job:job-1"]) == {}
    assert reader.execute("SELECT count(*) FROM report").fetchone() == (0,)


def test_server_that_is_not_there_is_an_outage():
    with pytest.raises(SinkUnavailable, match="does not answer"):
        PostgresLedger("postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.parametrize(
    "url", ["postgresql://[", "postgresql://me:p%ZZcanary@h", "host=h password='canary"]
)
def test_what_is_no_url_is_refused_and_not_told(url: str):
    with pytest.raises(UsageError, match=r"ledger\.url is no PostgreSQL URL") as refused:
        PostgresLedger(url)

    assert "canary" not in str(refused.value)


def test_read_only_server_is_an_outage(ledger: PostgresLedger, reader: psycopg.Connection[Any]):
    ledger._connection().execute("SET default_transaction_read_only = on")

    with pytest.raises(SinkUnavailable, match="read-only"):
        ledger.record(OWNER, [effect(1)])


def test_missing_table_of_results_is_an_outage_and_not_the_job_s_fault(ledger: PostgresLedger):
    with pytest.raises(SinkUnavailable, match="not ready for results"):
        ledger.record(OWNER, [effect(1, {"n": 1})], PostgresSink("nowhere").write_in)


def test_deadlock_is_repeated_within_the_call(
    ledger: PostgresLedger, reader: psycopg.Connection[Any], database: str
):
    reader.execute("CREATE TABLE account (id bigint PRIMARY KEY, n bigint)")
    reader.execute("INSERT INTO account VALUES (1, 0), (2, 0)")
    both = threading.Barrier(2, timeout=20)
    tries = []

    def writing(first: int, second: int) -> Any:
        def write(connection: psycopg.Connection[Any], effects: Any) -> None:
            tries.append(first)
            connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", [first])
            if tries.count(first) == 1:
                both.wait()
            connection.execute("UPDATE account SET n = n + 1 WHERE id = %s", [second])

        return write

    def other() -> None:
        mine = PostgresLedger(database)
        mine.record(OWNER._replace(partition=4), [effect(2)], writing(2, 1))
        mine.close()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    ledger.record(OWNER, [effect(1)], writing(1, 2))
    thread.join(30)

    assert len(tries) == 3
    assert reader.execute("SELECT n FROM account").fetchall() == [(2,), (2,)]


# Owners.


def test_takeover_waits_for_a_write_under_way_and_refuses_the_next(
    ledger: PostgresLedger, database: str, reader: psycopg.Connection[Any]
):
    ledger.raise_owner(OWNER)
    newer = PostgresLedger(database)
    raised = threading.Thread(target=newer.raise_owner, args=[OWNER._replace(epoch=6)], daemon=True)

    def write(connection: psycopg.Connection[Any], effects: Any) -> None:
        raised.start()
        while not reader.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            time.sleep(0.01)

    assert ledger.record(OWNER, [effect(1)], write) == {"job:job-1"}
    raised.join(20)
    with pytest.raises(OwnershipLost):
        ledger.record(OWNER, [effect(2)])
    newer.close()


def test_older_owner_that_comes_at_the_same_time_does_not_lower_the_epoch(
    ledger: PostgresLedger, database: str, reader: psycopg.Connection[Any]
):
    older = threading.Thread(target=_refused, args=[database, OWNER], daemon=True)
    with psycopg.connect(database) as newer:
        newer.execute("INSERT INTO processor_owner VALUES ('g', 't', 3, 6)")
        older.start()
        while not reader.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            time.sleep(0.01)
    older.join(20)

    assert reader.execute("SELECT epoch FROM processor_owner").fetchall() == [(6,)]
    with pytest.raises(OwnershipLost):
        ledger.record(OWNER, [effect(1)])


def _refused(database: str, owner: Owner) -> None:
    mine = PostgresLedger(database)
    with suppress(OwnershipLost):
        mine.raise_owner(owner)
    mine.close()


def test_writer_stopped_in_the_middle_does_not_keep_the_next_owner_away(
    database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres, "IDLE_SECONDS_MAX", 0.3)
    stopped, newer = PostgresLedger(database), PostgresLedger(database)
    stopped.raise_owner(OWNER)

    def stop(connection: psycopg.Connection[Any], effects: Any) -> None:
        newer.raise_owner(OWNER._replace(epoch=6))  # Waits until the server ends our transaction.
        connection.execute("SELECT 1")

    with pytest.raises(SinkUnavailable):
        stopped.record(OWNER, [effect(1)], stop)

    assert newer.lookup(["job:job-1"]) == {}
    with pytest.raises(OwnershipLost):
        stopped.record(OWNER, [effect(1)])
    stopped.close()
    newer.close()


# A handler's own transaction.


def test_handler_s_statements_commit_with_the_row_or_not_at_all(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    reader.execute("CREATE TABLE report (n bigint)")
    ledger.raise_owner(OWNER)

    kept = ledger.begin_handler(60)
    kept.connection.execute("INSERT INTO report VALUES (1)")
    new = kept.record(OWNER, [effect(1)])
    kept.commit()
    kept.rollback()
    undone = ledger.begin_handler(60)
    undone.connection.execute("INSERT INTO report VALUES (2)")
    undone.record(OWNER, [effect(2)])
    undone.rollback()
    late = ledger.begin_handler(60)
    late.connection.execute("INSERT INTO report VALUES (3)")
    with pytest.raises(OwnershipLost):
        late.record(OWNER._replace(epoch=4), [effect(3)])
    late.rollback()

    assert new == {"job:job-1"}
    assert set(ledger.lookup(["job:job-1", "job:job-2", "job:job-3"])) == {"job:job-1"}
    assert reader.execute("SELECT n FROM report").fetchall() == [(1,)]


def test_handler_may_not_end_its_transaction(ledger: PostgresLedger):
    transaction = ledger.begin_handler(60)

    with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
        transaction.connection.commit()

    transaction.rollback()


def test_handler_s_broken_transaction_is_told_from_its_own_fault(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    mine = ledger.begin_handler(60)
    with pytest.raises(psycopg.Error) as own:
        mine.connection.execute("SELECT nothing")
    not_broken = mine.broken_by(own.value)
    mine.rollback()
    killed = ledger.begin_handler(60)
    kill_other_sessions(reader)
    with pytest.raises(psycopg.Error) as theirs:
        killed.connection.execute("SELECT 1")

    assert not not_broken
    assert killed.broken_by(theirs.value)
    killed.rollback()


@pytest.mark.parametrize("wrapped", [False, True])
def test_row_that_another_transaction_locks_for_too_long_breaks_a_handler_s_transaction(
    database: str,
    reader: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    wrapped: bool,
):
    monkeypatch.setattr(postgres, "LOCK_SECONDS_MAX", 0.1)
    ledger = PostgresLedger(database)
    reader.execute("CREATE TABLE account (id bigint PRIMARY KEY); INSERT INTO account VALUES (1)")
    stopped, waiting = ledger.begin_handler(60), PostgresLedger(database)
    stopped.connection.execute("DELETE FROM account")
    mine = waiting.begin_handler(60)

    with pytest.raises(Exception) as caught:
        try:
            mine.connection.execute("DELETE FROM account")
        except psycopg.Error as fault:
            if wrapped:
                raise RuntimeError("cannot pay") from fault
            raise

    assert mine.broken_by(caught.value)
    mine.rollback()
    stopped.rollback()
    ledger.close()
    waiting.close()


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (errors.QueryCanceled(), True),
        (errors.AdminShutdown(), True),
        (errors.DiskFull(), True),
        (errors.ReadOnlySqlTransaction(), True),
        (psycopg.OperationalError("the connection is lost"), True),
        (errors.UniqueViolation(), False),
        (errors.ProgramLimitExceeded(), False),
        (ValueError("mine"), False),
    ],
    ids=repr,
)
def test_what_breaks_a_handler_s_transaction_is_told_from_what_the_handler_is_to_blame_for(
    ledger: PostgresLedger, error: Exception, broken: bool
):
    mine = ledger.begin_handler(60)

    assert mine.broken_by(error) is broken
    mine.rollback()


def test_what_a_handler_makes_of_a_lock_on_purpose_is_its_own_word(ledger: PostgresLedger):
    mine = ledger.begin_handler(60)
    verdict = Reject("sold")
    verdict.__cause__ = errors.LockNotAvailable()

    assert not mine.broken_by(verdict)
    mine.rollback()


def test_worker_stopped_between_a_handler_s_row_and_its_commit_keeps_no_owner_away(
    database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres, "IDLE_SECONDS_MAX", 0.3)
    stopped, newer = PostgresLedger(database), PostgresLedger(database)
    stopped.raise_owner(OWNER)
    transaction = stopped.begin_handler(300)
    transaction.record(OWNER, [effect(1)])

    newer.raise_owner(OWNER._replace(epoch=6))
    with pytest.raises(SinkUnavailable):
        transaction.commit()

    assert newer.lookup(["job:job-1"]) == {}
    stopped.close()
    newer.close()


# Tables of results.


def test_table_is_made_from_the_avro_schema_and_checked_after(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    sink = PostgresSink("report", keys=["id"], schema=SCHEMA, create=True)

    ledger.prepare([sink])
    ledger.prepare([sink, PostgresSink("report", keys=["id"])])
    ledger.record(OWNER, [effect(1, ROW)], sink.write_in)

    found = reader.execute("SELECT id, n, extract(epoch FROM at), tags, ok FROM report").fetchall()
    assert found == [("a", 1, 1767323045, ["x"], True)]


def test_row_with_the_same_keys_replaces_the_earlier_one(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    sink = PostgresSink("report", keys=["id"], schema=SCHEMA, create=True)
    ledger.prepare([sink])
    rows = [ROW, ROW | {"n": 2}, ROW | {"id": "b"}, {"id": "b", "n": None, **_rest(ROW)}]

    ledger.record(OWNER, [effect(1, rows[:2]), effect(2, rows[2:])], sink.write_in)

    assert reader.execute("SELECT id, n FROM report ORDER BY id").fetchall() == [
        ("a", 2),
        ("b", None),
    ]


def test_more_rows_than_one_statement_takes_are_all_there(
    ledger: PostgresLedger, reader: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres_sink, "PARAMETERS_MAX", 4)
    reader.execute("CREATE TABLE seen (id bigint PRIMARY KEY, n bigint)")
    sink = PostgresSink("seen", keys=["id"])
    rows = [{"id": n % 5, "n": n} for n in range(13)]

    ledger.record(OWNER, [effect(1, rows)], sink.write_in)

    found = reader.execute("SELECT id, n FROM seen ORDER BY id").fetchall()
    assert found == [(0, 10), (1, 11), (2, 12), (3, 8), (4, 9)]


def test_writer_stopped_after_many_rows_does_not_keep_the_next_owner_away(
    database: str, reader: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres, "IDLE_SECONDS_MAX", 0.3)
    reader.execute("CREATE TABLE seen (id bigint)")
    stopped, newer = PostgresLedger(database), PostgresLedger(database)
    stopped.raise_owner(OWNER)
    sink = PostgresSink("seen")

    def stop(connection: psycopg.Connection[Any], effects: Any) -> None:
        sink.write_in(connection, effects)
        newer.raise_owner(OWNER._replace(epoch=6))
        connection.execute("SELECT 1")

    with pytest.raises(SinkUnavailable, match="idle"):
        stopped.record(OWNER, [effect(1, [{"id": n} for n in range(5)])], stop)

    assert reader.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    stopped.close()
    newer.close()


def test_union_of_several_types_is_kept_as_json(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    fields = [{"name": "n", "type": "long"}, {"name": "any", "type": ["null", "string", "long"]}]
    schema = {"type": "record", "name": "r", "fields": fields}
    sink = PostgresSink("report", schema=schema, create=True)
    ledger.prepare([sink])
    values = ["text", 5, None, True, {"a": [1]}]

    rows = [{"n": n, "any": value} for n, value in enumerate(values)]
    ledger.record(OWNER, [effect(1, rows)], sink.write_in)

    found = reader.execute('SELECT "any" FROM report ORDER BY n').fetchall()
    assert [value for (value,) in found] == values


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE report DROP COLUMN tags", "ALTER TABLE report DROP CONSTRAINT report_pkey"],
)
def test_table_that_no_longer_fits_its_schema_is_an_outage(
    ledger: PostgresLedger, reader: psycopg.Connection[Any], change: str
):
    sink = PostgresSink("report", keys=["id"], schema=SCHEMA, create=True)
    ledger.prepare([sink])
    reader.execute(change)  # type: ignore[arg-type]

    with pytest.raises(SinkUnavailable):
        ledger.record(OWNER, [effect(1, ROW)], sink.write_in)

    assert ledger.lookup(["job:job-1"]) == {}


def test_column_that_a_table_without_a_schema_lacks_is_the_result_s_fault(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    reader.execute("CREATE TABLE report (id text)")

    with pytest.raises(PermanentError, match="nothing"):
        ledger.record(OWNER, [effect(1, {"nothing": 1})], PostgresSink("report").write_in)


def _rest(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("id", "n")}


def test_table_of_keys_alone_keeps_the_first(
    ledger: PostgresLedger, reader: psycopg.Connection[Any]
):
    reader.execute("CREATE TABLE seen (id text PRIMARY KEY)")
    sink = PostgresSink("seen", keys=["id"])
    ledger.prepare([sink])

    ledger.record(OWNER, [effect(1, {"id": "a"}), effect(2, {"id": "a"})], sink.write_in)

    assert reader.execute("SELECT id FROM seen").fetchall() == [("a",)]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ROW | {"size": 1}, "has no column `size`"),
        (ROW | {"id": None}, "lacks its key `id`"),
        (ROW | {"n": "many"}, "invalid input syntax"),
        (ROW | {"n": 2**70}, "out of range"),
        (ROW | {"ok": None}, "not-null constraint"),
        ({}, "it is empty"),
        ("text", "it is a str"),
        (None, "it is a NoneType"),
    ],
    ids=str,
)
def test_result_that_the_table_does_not_take_is_refused_for_good(
    ledger: PostgresLedger, reader: psycopg.Connection[Any], result: Any, message: str
):
    sink = PostgresSink("report", keys=["id"], schema=SCHEMA, create=True)
    ledger.prepare([sink])

    with pytest.raises(PermanentError, match=message):
        ledger.record(OWNER, [effect(1, ROW), effect(2, result)], sink.write_in)

    assert ledger.lookup(["job:job-1", "job:job-2"]) == {}
    assert ledger.record(OWNER, [effect(1, ROW)], sink.write_in) == {"job:job-1"}


@pytest.mark.parametrize(
    ("table", "sink", "message"),
    [
        (None, PostgresSink("report"), "there is no table `report`"),
        ("id text", PostgresSink("report", keys=["id"]), r"no unique index on \(id\)"),
        ("id text", PostgresSink("report", keys=["other"]), "no column `other`"),
        ("id bigint", PostgresSink("report", schema=SCHEMA), "`id` of table `report` is bigint"),
        ("id text", PostgresSink("report", schema=SCHEMA), "no column `n`"),
    ],
)
def test_table_that_does_not_fit_is_told_before_a_job_runs(
    ledger: PostgresLedger,
    reader: psycopg.Connection[Any],
    table: str | None,
    sink: PostgresSink,
    message: str,
):
    if table is not None:
        reader.execute(f"CREATE TABLE report ({table})")  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=message):
        ledger.prepare([sink])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"table": "a b"}, "`a b` is no name"),
        ({"table": "a", "create": True}, "cannot be created without a schema"),
        ({"table": "a", "keys": ["x"], "schema": SCHEMA}, "no field `x` of `keys`"),
        ({"table": "a", "schema": "/none.avsc"}, "cannot be read"),
        ({"table": "a", "schema": {"type": "string"}}, "must be an Avro record"),
    ],
)
def test_mistaken_sink_is_told_where_it_is_made(more: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        PostgresSink(**more)


def test_columns_follow_the_schema():
    assert columns_of(SCHEMA) == {
        "id": ("text", False),
        "n": ("bigint", True),
        "at": ("timestamp with time zone", False),
        "tags": ("jsonb", False),
        "ok": ("boolean", False),
    }


# Beside the suite.


def test_key_with_a_nul_is_kept(ledger: PostgresLedger):
    ledger.record(OWNER, [effect(1)._replace(key="a\0b")])

    assert set(ledger.lookup(["job:job-1"])) == {"job:job-1"}


def test_what_the_database_cannot_hold_is_no_outage(ledger: PostgresLedger):
    with pytest.raises(PermanentError, match="cannot hold"):
        ledger.lookup(["job:a\0b"])
    with pytest.raises(PermanentError, match="cannot hold"):
        ledger.record(OWNER, [effect(1)._replace(job_id="a\0b")])

    assert ledger.lookup(["job:job-1"]) == {}


def test_ledgers_that_are_opened_at_once_make_their_tables_once(database: str):
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: PostgresLedger(database), range(8)))
    for each in opened:
        each.close()


def test_role_without_the_right_to_create_tables_can_use_them(
    ledger: PostgresLedger, reader: psycopg.Connection[Any], database: str, postgres: Postgres
):
    schema = database.rpartition("%3D")[2]
    role = f"r{schema}"
    reader.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA {schema} TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    )  # type: ignore[arg-type]
    url = database.replace(f"postgres:{postgres.url.split(':')[2].split('@')[0]}", f"{role}:x")

    worker = PostgresLedger(url)
    worker.raise_owner(OWNER)
    worker.record(OWNER, [effect(1)])
    worker.close()
    reader.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")  # type: ignore[arg-type]

    assert set(ledger.lookup(["job:job-1"])) == {"job:job-1"}
