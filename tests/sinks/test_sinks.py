"""What a job rests on in a sink: the same tests on every one, on real servers."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import fastavro
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from processor.adapters.objects.stores import Objects
from processor.contracts import headers
from processor.engine.effects import Unwritten, write
from processor.engine.job import JobSpec
from processor.engine.ports import (
    Owner,
    OwnershipLost,
    Prepared,
    PreparingLedger,
    Sink,
    TransactionalSink,
)
from processor.errors import PermanentError, SinkUnavailable, UsageError
from processor.model import Effect, Hop, Position, Record
from processor.sinks.kafka import KafkaSink
from processor.sinks.objects import ObjectSink
from processor.sinks.postgres import PostgresLedger
from processor.sinks.postgres_sink import PostgresSink
from processor.sinks.sql import SqlLedger
from processor.sinks.sqlite import SqliteLedger, SqliteSink
from tests.acceptance.project import Project
from tests.adapters.objects.conformance import read
from tests.adapters.objects.s3_server import S3Server, fresh_base, settings_for

OWNER = Owner("g", "t", 0, 1)


class Place(Protocol):
    """A sink with its ledger, and what a reader sees of it: the rows, once each, in order."""

    ledger: SqlLedger
    sink: Sink | TransactionalSink

    def rows(self, names: Sequence[str]) -> list[Any]: ...


class OnSqlite:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger: SqlLedger = SqliteLedger(path)
        create = "CREATE TABLE IF NOT EXISTS report (n INTEGER CHECK (typeof(n) = 'integer'))"
        self.sink = SqliteSink("report", create=create)

    def rows(self, names: Sequence[str]) -> list[Any]:
        connection = sqlite3.connect(self.path)
        try:
            return [row[0] for row in connection.execute("SELECT n FROM report ORDER BY rowid")]
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()


class OnPostgres:
    def __init__(self, url: str) -> None:
        self.url = url
        made = PostgresLedger(url)
        self.ledger: SqlLedger = made
        fields = [{"name": "n", "type": "long"}]
        schema = {"type": "record", "name": "report", "fields": fields}
        self.sink = PostgresSink("report", schema=schema, create=True)
        made.prepare([self.sink])

    def rows(self, names: Sequence[str]) -> list[Any]:
        with psycopg.connect(self.url) as connection:
            return [row[0] for row in connection.execute("SELECT n FROM report ORDER BY ctid")]


class OnS3:
    def __init__(self, path: Path, server: S3Server) -> None:
        self.ledger: SqlLedger = SqliteLedger(path)
        self.objects = Objects(settings_for(server))
        self.sink = ObjectSink(self.objects, fresh_base(server))

    def rows(self, names: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for name in names:
            identity = name if ":" in name else f"job:{name}"
            uri = self.sink.uri(effect(0)._replace(identity=identity))
            if self.objects.stat(uri) is not None:
                result = json.loads(read(self.objects, uri))["result"]
                found += [row["n"] for row in (result if isinstance(result, list) else [result])]
        return found


class OnKafka:
    SCHEMA = fastavro.parse_schema(
        {"type": "record", "name": "test.report", "fields": [{"name": "n", "type": "long"}]}
    )

    def __init__(self, path: Path, project: Project) -> None:
        self.ledger: SqlLedger = SqliteLedger(path)
        self.servers = project.settings().kafka["bootstrap.servers"]
        project.add_schema("test.report", [{"name": "n", "type": "long"}])
        self.topic = project.add_topic("report", ["test.report"], partitions=1)
        project.provision()
        self.sink = KafkaSink(self.topic, schema="test.report", settings=project.settings())

    def rows(self, names: Sequence[str]) -> list[Any]:
        reader = Consumer({"bootstrap.servers": self.servers, "group.id": "r", "log_level": 0})
        end = reader.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=20)[1]
        reader.assign([TopicPartition(self.topic, 0, 0)])
        seen: dict[str, Any] = {}  # By id: what a reader does who wants each once.
        at = 0
        while at < end:
            for each in reader.consume(100, 1.0):
                at = (each.offset() or 0) + 1
                record = Record("t", 0, 0, None, None, each.headers() or [], 0)
                job_id = headers.read_job(record, headers.first_hop(record)).job_id
                body = io.BytesIO((each.value() or b"")[5:])
                row: Any = fastavro.schemaless_reader(body, self.SCHEMA)  # type: ignore[call-arg]
                seen.setdefault(job_id, row["n"])
        reader.close()
        return list(seen.values())


@pytest.fixture(params=["sqlite", "postgres", "s3", "kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made: Any
    match request.param:
        case "sqlite":
            made = OnSqlite(tmp_path / "l.db")
        case "postgres":
            made = OnPostgres(request.getfixturevalue("database"))
        case "s3":
            made = OnS3(tmp_path / "l.db", request.getfixturevalue("s3"))
        case _:
            made = OnKafka(tmp_path / "l.db", request.getfixturevalue("project"))
    yield made
    made.ledger.close()


def effect(n: int, result: Any = None) -> Effect:
    result = {"n": n} if result is None else result
    return Effect(f"job-{n}", "test.make", f"job:job-{n}", Position("t", 0, n), 1, "k", result)


class Stub:
    """An entry as far as writing looks at it."""

    def __init__(self, n: int) -> None:
        self.hop = Hop(Position("t", 0, n), 0)
        self.job = headers.read_job(
            Record("t", 0, n, None, None, [("ce_id", f"job-{n}".encode())], 0), self.hop
        )
        self.record = Record("t", 0, n, None, None, [], 0)


def written(place: Place, *effects: Effect, owner: Owner = OWNER) -> list[str]:
    spec = JobSpec("test.make", None, print, print, False, None, (), (place.sink,))
    runs = [Unwritten(Stub(each.origin.offset), each, spec, 0.1) for each in effects]  # type: ignore[arg-type]
    return [type(outcome).__name__ for _, outcome in write(place.ledger, owner, runs)]


def test_results_are_there_in_the_order_of_their_jobs(place: Place):
    outcomes = written(place, effect(3), effect(1), effect(2))

    assert outcomes == ["Succeeded"] * 3
    assert place.rows(["job-3", "job-1", "job-2"]) == [3, 1, 2]


def test_list_of_results_is_all_there(place: Place):
    written(place, effect(1, [{"n": 10}, {"n": 11}, {"n": 12}]), effect(2))

    assert place.rows(["job-1", "job-2"]) == [10, 11, 12, 2]


def test_job_that_is_written_again_changes_nothing(place: Place):
    written(place, effect(1))

    written(place, effect(1), effect(2))

    assert place.rows(["job-1", "job-2"]) == [1, 2]


def test_jobs_of_one_idempotency_key_that_ran_side_by_side_leave_one_result(place: Place):
    first, second = (effect(n)._replace(identity="key:test.make:order-7") for n in (1, 2))
    other = effect(3)._replace(identity="key:test.make:order-8")

    assert written(place, first) == ["Succeeded"]
    assert written(place, second, other) == ["Duplicate", "Succeeded"]

    assert place.rows([first.identity, "job-2", other.identity]) == [1, 3]


@pytest.mark.parametrize("step", ["before the sink", "after the sink", "before the row"])
def test_crash_between_any_two_steps_leaves_each_result_once(
    place: Place, step: str, monkeypatch: pytest.MonkeyPatch
):
    sink: Any = place.sink
    way = "write_in" if isinstance(sink, TransactionalSink) else "write"
    real = getattr(sink, way)

    def crashing(*given: Any) -> Any:
        if step == "before the sink":
            raise _Crash
        answer = real(*given)
        if step == "after the sink":
            raise _Crash
        return answer

    def crash(*given: Any) -> Any:
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(sink, way, crashing)
        if step == "before the row":
            patch.setattr(type(place.ledger), "_insert", crash)
        with pytest.raises(_Crash):
            written(place, effect(1), effect(2))

    assert place.ledger.lookup(["job:job-1", "job:job-2"]) == {}
    assert written(place, effect(1), effect(2)) == ["Succeeded"] * 2
    assert place.rows(["job-1", "job-2"]) == [1, 2]


def test_result_that_does_not_fit_is_refused_for_good_and_the_others_can_be_written(place: Place):
    if isinstance(place, OnS3):
        bad: Any = {"n": float("nan")}
    else:
        bad = {"n": "one"}

    with pytest.raises(PermanentError):
        written(place, effect(1), effect(2, bad))
    written(place, effect(1))

    assert place.rows(["job-1"]) == [1]
    assert place.ledger.lookup(["job:job-2"]) == {}


with_a_table = pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)


@with_a_table
def test_sink_with_a_table_is_ready_before_a_job_runs(place: Place):
    assert isinstance(place.ledger, PreparingLedger)
    assert isinstance(place.sink, Prepared)

    place.ledger.prepare([place.sink])
    place.ledger.prepare([place.sink])

    assert place.rows([]) == []


@with_a_table
def test_table_that_is_not_there_is_told_before_a_job_runs_and_later_as_an_outage(place: Place):
    sinks = {OnSqlite: SqliteSink("nowhere"), OnPostgres: PostgresSink("nowhere")}
    sink = sinks[type(place)]
    assert isinstance(place.ledger, PreparingLedger)
    place.sink = sink

    with pytest.raises(UsageError, match="there is no table `nowhere`"):
        place.ledger.prepare([sink])
    with pytest.raises(SinkUnavailable, match="not ready for results"):
        written(place, effect(1))

    assert place.ledger.lookup(["job:job-1"]) == {}


@with_a_table
def test_ledger_in_a_database_of_another_kind_is_told_before_a_job_runs(place: Place):
    sinks = {OnSqlite: PostgresSink("report"), OnPostgres: SqliteSink("report")}
    sink = sinks[type(place)]
    assert isinstance(place.ledger, PreparingLedger)

    with pytest.raises(UsageError, match="the ledger is"):
        place.ledger.prepare([sink])


def test_older_owner_writes_no_row(place: Place):
    place.ledger.raise_owner(OWNER._replace(epoch=2))

    with pytest.raises(OwnershipLost):
        written(place, effect(1))

    assert place.ledger.lookup(["job:job-1"]) == {}
    assert written(place, effect(1), owner=OWNER._replace(epoch=2)) == ["Succeeded"]
    assert place.rows(["job-1"]) == [1]


def test_second_job_of_an_idempotency_key_leaves_the_first_one_s_result(place: Place):
    first, second = (effect(n)._replace(identity="key:test.make:k") for n in (1, 2))
    written(place, first)

    written(place, second)

    assert place.ledger.lookup([first.identity])[first.identity].job_id == "job-1"
    assert place.rows([first.identity])[:1] == [1]


def test_nothing_to_write_is_nothing(place: Place):
    assert written(place) == []
    assert place.rows([]) == []


class _Crash(BaseException):
    pass
