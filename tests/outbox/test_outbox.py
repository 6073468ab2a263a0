"""Jobs submitted with the user's own transactions: what commits is submitted, in order, once."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from sqlalchemy.orm import Session

from processor.adapters.appends import Appends
from processor.contracts import headers
from processor.engine.telemetry import Health
from processor.errors import BrokerUnavailable, ContractError, SinkUnavailable, UsageError
from processor.model import Record
from processor.outbox import Outbox
from processor.outbox.relay import Relay
from processor.outbox.rows import Backlog, PostgresRows, SqliteRows, open_rows
from processor.outbox.serve import _health
from processor.outbox.table import slot_of
from processor.outbox.write import Contracts
from tests.acceptance.project import Project, eventually
from tests.engine.bench import Telling

pytestmark = [pytest.mark.broker, pytest.mark.registry, pytest.mark.postgres]

PARTITIONS = 4


@pytest.fixture
def topic(project: Project) -> str:
    project.add_schema("mail.send", [{"name": "to", "type": "string"}])
    name = project.add_topic("mail", ["mail.send"], partitions=PARTITIONS)
    project.provision()
    return name


@pytest.fixture
def contracts(project: Project, topic: str) -> Contracts:
    return Contracts(project.settings())


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        made = f"sqlite:///{tmp_path / 'app.db'}".replace("sqlite:////", "sqlite:////")
    else:
        made = request.getfixturevalue("database")
    rows = open_rows(made)
    rows.create()
    rows.create()
    rows.close()
    return made


def connected(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)
    return psycopg.connect(url)


def relayed(project: Project, url: str) -> None:
    Relay(open_rows(url), project.settings().kafka, logger=Telling()).run(once=True)


def waiting(url: str) -> int:
    rows = open_rows(url)
    try:
        return rows.backlog().rows
    finally:
        rows.close()


def enlarge_last(connection: Any, url: str, size: int) -> None:
    """Give the row that was written last a payload that no codec makes smaller."""
    mark = "?" if url.startswith("sqlite") else "%s"
    connection.execute(
        f"UPDATE processor_outbox SET payload={mark} WHERE number="
        "(SELECT max(number) FROM processor_outbox)", [random.randbytes(size)],
    )  # fmt: skip


def limit_topic(project: Project, topic: str, message_bytes_max: int) -> None:
    admin = AdminClient(dict(project.settings().kafka))
    entry = ConfigEntry(
        "max.message.bytes", str(message_bytes_max), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)

    def told() -> str:
        return admin.describe_configs([resource])[resource].result(20)["max.message.bytes"].value

    eventually(lambda: told() == str(message_bytes_max))


def end_client(appends: Appends, project: Project) -> None:
    """Let the client come upon a fault after which it takes nothing any more."""
    client = appends._client
    assert client is not None
    other = project.add_topic("other", ["mail.other"])
    project.add_schema("mail.other", [])
    project.provision()
    client.produce(other, random.randbytes(2_000_000))
    with suppress(KafkaException):
        client.flush(20)


def on_topic(project: Project, topic: str) -> list[Record]:
    """Every record of a topic, each partition in order."""
    servers = project.settings().kafka["bootstrap.servers"]
    reader = Consumer({"bootstrap.servers": servers, "group.id": "reader", "log_level": 0})
    found: list[Record] = []
    for number in range(PARTITIONS):
        at, end = 0, reader.get_watermark_offsets(TopicPartition(topic, number), timeout=20)[1]
        if end:
            reader.assign([TopicPartition(topic, number, 0)])
        while at < end:
            for each in reader.consume(500, 1.0):
                assert each.error() is None
                at = (each.offset() or 0) + 1
                found.append(Record(topic, number, at - 1, each.key(), each.value(),
                                    each.headers() or [], 0))  # fmt: skip
    reader.close()
    return found


def ids(records: list[Record]) -> list[str]:
    return [headers.read_job(each, headers.first_hop(each)).job_id for each in records]


# Writing.


def test_committed_job_is_submitted_and_a_rolled_back_one_is_not(
    project: Project, topic: str, contracts: Contracts, url: str
):
    connection = connected(url)
    kept = Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")
    connection.commit()
    Outbox(connection, contracts=contracts).submit("mail.send", {"to": "b"}, key="k")
    connection.rollback()
    connection.close()

    relayed(project, url)

    (record,) = on_topic(project, topic)
    assert ids([record]) == [kept]
    assert record.key == b"k"
    rows = open_rows(url)
    assert rows.backlog().rows == 0
    rows.close()


def test_row_s_headers_are_those_of_a_job_that_is_submitted(
    project: Project, topic: str, contracts: Contracts, url: str
):
    connection = connected(url)
    Outbox(connection, contracts=contracts, source="shop").submit(
        "mail.send", {"to": "a"}, idempotency_key="i", job_id="mine", not_before=1.5, deadline=4e9
    )
    connection.commit()
    connection.close()

    relayed(project, url)

    (record,) = on_topic(project, topic)
    job = headers.read_job(record, headers.first_hop(record))
    assert (job.job_id, job.job_type, job.idempotency_key) == ("mine", "mail.send", "i")
    assert (job.not_before_ms, job.deadline_ms) == (1500, 4_000_000_000_000)
    assert dict(record.headers)["ce_source"] == b"shop"
    assert (record.value or b"")[:1] == b"\0"


def engine_of(url: str, **more: Any) -> sqlalchemy.Engine:
    if url.startswith("sqlite"):
        return sqlalchemy.create_engine(url, **more)
    return sqlalchemy.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1).partition("?")[0],
        connect_args={"options": "-csearch_path=" + url.rpartition("%3D")[2]},
        **more,
    )


def by_sqlalchemy(url: str, submit: Callable[[Any], str], *, session: bool) -> str:
    engine = engine_of(url)
    try:
        with Session(engine) if session else engine.connect() as opened:
            submit(opened)
            opened.rollback()
            kept = submit(opened)
            opened.commit()
            return kept
    finally:
        engine.dispose()


@pytest.mark.parametrize("session", [False, True], ids=["connection", "session"])
def test_sqlalchemy_s_transaction_is_the_job_s(
    project: Project, topic: str, contracts: Contracts, url: str, session: bool
):
    def submit(opened: Any) -> str:
        return Outbox(opened, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")

    kept = by_sqlalchemy(url, submit, session=session)
    relayed(project, url)

    assert ids(on_topic(project, topic)) == [kept]


def test_bad_job_leaves_nothing_and_the_transaction_goes_on(
    project: Project, topic: str, contracts: Contracts, url: str
):
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)

    with pytest.raises(ContractError, match="`to`"):
        box.submit("mail.send", {"to": 5})
    with pytest.raises(UsageError, match="sned"):
        box.submit("mail.sned", {"to": "a"})
    kept = box.submit("mail.send", {"to": "a"})
    connection.commit()
    connection.close()
    relayed(project, url)

    assert ids(on_topic(project, topic)) == [kept]


def test_connection_outside_of_a_transaction_is_refused(contracts: Contracts, url: str):
    connection = connected(url)
    if url.startswith("sqlite"):
        connection.isolation_level = None
    else:
        connection.autocommit = True

    with pytest.raises(UsageError, match="not inside a transaction"):
        Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"})

    connection.close()


@pytest.mark.parametrize("session", [False, True], ids=["connection", "session"])
def test_sqlalchemy_s_connection_that_commits_each_statement_is_refused(
    contracts: Contracts, url: str, session: bool
):
    engine = engine_of(url, isolation_level="AUTOCOMMIT")
    with Session(engine) if session else engine.connect() as opened:
        with pytest.raises(UsageError, match="not inside a transaction"):
            Outbox(opened, contracts=contracts).submit("mail.send", {"to": "a"})
        opened.commit()
    engine.dispose()

    assert waiting(url) == 0


def test_sqlalchemy_s_way_of_beginning_sqlite_s_transactions_by_hand_is_taken(
    contracts: Contracts, tmp_path: Path
):
    url = f"sqlite:///{tmp_path / 'app.db'}"
    SqliteRows(str(tmp_path / "app.db")).create()
    engine = engine_of(url)

    @sqlalchemy.event.listens_for(engine, "connect")
    def connects(made: Any, _: Any) -> None:
        made.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begins(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    with engine.connect() as opened:
        Outbox(opened, contracts=contracts).submit("mail.send", {"to": "a"})
        opened.rollback()
        Outbox(opened, contracts=contracts).submit("mail.send", {"to": "b"})
        opened.commit()
    engine.dispose()

    assert waiting(url) == 1


class CommitsByItself(sqlite3.Connection):
    """As `sqlite3.connect(…, autocommit=True)` makes one since Python 3.12."""

    autocommit = True


def test_sqlite_s_own_autocommit_is_refused(contracts: Contracts, tmp_path: Path):
    SqliteRows(str(tmp_path / "app.db")).create()
    connection = sqlite3.connect(tmp_path / "app.db", factory=CommitsByItself)

    with pytest.raises(UsageError, match="not inside a transaction"):
        Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"})

    assert waiting(f"sqlite:///{tmp_path / 'app.db'}") == 0
    connection.close()


def test_coroutines_connection_is_refused_with_what_to_do(contracts: Contracts, database: str):
    PostgresRows(database).create()

    async def submitted() -> None:
        async with await psycopg.AsyncConnection.connect(database) as connection:
            Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"})

    with pytest.raises(UsageError, match="AsyncConnection") as refused:
        asyncio.run(submitted())

    assert "asyncio.to_thread" in (refused.value.hint or "")
    assert waiting(database) == 0


def test_sqlalchemy_s_coroutines_write_by_run_sync(contracts: Contracts, database: str):
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    PostgresRows(database).create()
    made = engine_of(database)
    connect = {"options": "-csearch_path=" + database.rpartition("%3D")[2]}

    async def submitted() -> str:
        engine = create_async_engine(made.url, connect_args=connect)
        async with AsyncSession(engine) as session:
            with pytest.raises(UsageError, match="AsyncSession") as refused:
                Outbox(session, contracts=contracts)
            await session.run_sync(
                lambda each: Outbox(each, contracts=contracts).submit("mail.send", {"to": "a"})
            )
            await session.commit()
        await engine.dispose()
        return refused.value.hint or ""

    assert "run_sync" in asyncio.run(submitted())
    assert waiting(database) == 1


def test_session_is_one_also_as_a_class_of_the_application_s_own(
    contracts: Contracts, tmp_path: Path
):
    class Shop(Session):
        pass

    url = f"sqlite:///{tmp_path / 'app.db'}"
    SqliteRows(str(tmp_path / "app.db")).create()
    engine = engine_of(url)
    with Shop(engine) as session:
        box = Outbox(session, contracts=contracts)
        for _ in range(2):
            box.submit("mail.send", {"to": "a"})
            session.commit()
    engine.dispose()

    assert waiting(url) == 2


def test_other_connections_are_refused():
    with pytest.raises(UsageError, match=r"cannot write through a builtins\.object"):
        Outbox(object())


def test_missing_table_is_told_with_what_to_do(database: str, tmp_path: Path):
    for each in (database, f"sqlite:///{tmp_path / 'none.db'}"):
        rows = open_rows(each)
        with pytest.raises(UsageError, match="no table processor_outbox"):
            rows.slots()
        rows.close()


def test_relay_of_a_mistyped_path_makes_no_database(tmp_path: Path):
    path = tmp_path / "none.db"

    with pytest.raises(UsageError, match=f"there is no database at {path}"):
        open_rows(f"sqlite:///{path}", existing=True)

    assert not path.exists()


# Order.


def test_row_of_a_slow_transaction_is_neither_skipped_nor_overtaken(
    contracts: Contracts, database: str
):
    rows = PostgresRows(database)
    rows.create()
    with psycopg.connect(database) as slow, psycopg.connect(database) as fast:
        first = Outbox(slow, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")
        second = Outbox(fast, contracts=contracts).submit("mail.send", {"to": "b"}, key="k")
        fast.commit()
        before = rows.slots()
        slow.commit()
        after = [row.id for slot in rows.slots() for row in rows.read(slot, 10)]

    assert before == []
    assert after == [first, second]
    rows.close()


def test_transactions_that_wait_for_one_lock_come_in_its_order(contracts: Contracts, database: str):
    """The second one has the older transaction id, since it wrote something else before."""
    rows = PostgresRows(database)
    rows.create()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE account (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO account VALUES (1, 0), (2, 0)")
    with psycopg.connect(database) as one, psycopg.connect(database) as two:
        two.execute("UPDATE account SET n = 1 WHERE id = 2")
        one.execute("UPDATE account SET n = 1 WHERE id = 1")
        first = Outbox(one, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")
        waiting = threading.Thread(
            target=two.execute, args=["UPDATE account SET n = 2 WHERE id = 1"], daemon=True
        )
        waiting.start()
        one.commit()
        waiting.join(20)
        between = rows.slots()
        second = Outbox(two, contracts=contracts).submit("mail.send", {"to": "b"}, key="k")
        two.commit()
    found = [row.id for slot in rows.slots() for row in rows.read(slot, 10)]

    assert between == []
    assert found == [first, second]
    rows.close()


def test_older_transaction_that_waited_for_the_lock_does_not_pass_the_newer_one(
    contracts: Contracts, database: str
):
    """A third one that stays open leaves the older transaction below the horizon, alone."""
    rows = PostgresRows(database)
    rows.create()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE account (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO account VALUES (1, 0), (2, 0), (3, 0)")
    with (
        psycopg.connect(database) as older,
        psycopg.connect(database) as third,
        psycopg.connect(database) as newer,
    ):
        older.execute("UPDATE account SET n = 1 WHERE id = 2")
        third.execute("UPDATE account SET n = 1 WHERE id = 3")
        first = Outbox(newer, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")
        newer.commit()
        second = Outbox(older, contracts=contracts).submit("mail.send", {"to": "b"}, key="k")
        older.commit()
        between = [row.id for slot in rows.slots() for row in rows.read(slot, 10)]
        third.commit()
    found = [row.id for slot in rows.slots() for row in rows.read(slot, 10)]

    assert between == []
    assert found == [first, second]
    rows.close()


def test_rows_of_a_dump_from_a_cluster_that_had_counted_further_are_sent(
    contracts: Contracts, database: str
):
    rows = PostgresRows(database)
    rows.create()
    with psycopg.connect(database) as connection, psycopg.connect(database) as open_still:
        restored = Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")
        connection.execute("UPDATE processor_outbox SET xid = '900000000'")
        connection.commit()
        Outbox(open_still, contracts=contracts).submit("mail.send", {"to": "b"}, key="k")
        late = Outbox(connection, contracts=contracts).submit("mail.send", {"to": "c"}, key="k")
        connection.commit()
        found = [row.id for slot in rows.slots() for row in rows.read(slot, 10)]
        open_still.rollback()
    after = [row.id for slot in rows.slots() for row in rows.read(slot, 10)]

    assert found == [restored]
    assert after == [restored, late]
    rows.close()


def test_slot_belongs_to_one_relay_until_its_connection_ends(database: str):
    one, two = PostgresRows(database), PostgresRows(database)
    one.create()

    taken = one.take(3), two.take(3), two.take(4)
    one.close()
    eventually(lambda: two.take(3))

    assert taken == (True, False, True)
    two.close()


def test_sqlite_has_one_relay_at_a_time(tmp_path: Path):
    one, two = SqliteRows(str(tmp_path / "a.db")), SqliteRows(str(tmp_path / "a.db"))

    taken = one.take(0), two.take(0)
    one.close()

    assert taken == (True, False)
    assert two.take(0)
    two.close()


def test_all_rows_of_a_key_are_in_one_slot():
    assert len({slot_of("t", "k", str(n)) for n in range(100)}) == 1
    assert len({slot_of("t", None, str(n)) for n in range(1000)}) == 32


# The relay's own life.


def test_database_s_outage_is_waited_for(
    project: Project, topic: str, contracts: Contracts, database: str
):
    rows = PostgresRows(database)
    rows.create()
    logger = Telling()
    relay = Relay(rows, project.settings().kafka, logger=logger, poll_seconds=0.2)
    running = threading.Thread(target=relay.run, daemon=True)
    running.start()
    eventually(lambda: rows.pid is not None)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [rows.pid])
    eventually(lambda: logger.told("waiting for the outbox's database"))
    with psycopg.connect(database) as connection:
        kept = Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"})
        connection.commit()
    eventually(lambda: ids(on_topic(project, topic)) == [kept])
    relay.stop()
    running.join(20)

    assert not running.is_alive()


def test_crash_between_the_answer_and_the_delete_sends_the_same_job_again(
    project: Project, topic: str, contracts: Contracts, url: str
):
    connection = connected(url)
    kept = Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"}, key="k")
    connection.commit()
    connection.close()
    rows = open_rows(url)
    relay = Relay(rows, project.settings().kafka, logger=Telling())

    def crash(numbers: Any) -> None:
        raise SinkUnavailable("the connection is gone")

    rows.delete = crash  # type: ignore[method-assign]
    with pytest.raises(SinkUnavailable):
        relay.turn()
    rows.close()
    relayed(project, url)

    first, again = on_topic(project, topic)
    assert ids([first, again]) == [kept, kept]
    assert (first.value, first.headers) == (again.value, again.headers)


def test_row_that_kafka_does_not_take_holds_its_own_key_back_and_no_other(
    project: Project,
    topic: str,
    contracts: Contracts,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    # More rows wait behind it than are read at once, and all keys are in one slot.
    monkeypatch.setattr("processor.outbox.relay.BATCH_ROWS_MAX", 2)
    monkeypatch.setattr("processor.outbox.write.slot_of", lambda *_: 1)
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    box.submit("mail.send", {"to": "a"}, key="bad")
    for _ in range(5):
        box.submit("mail.send", {"to": "b"}, key="bad")
    kept = [box.submit("mail.send", {"to": "c"}, key=key) for key in ("good", None, "good")]
    mark = "?" if url.startswith("sqlite") else "%s"
    connection.execute(
        f"UPDATE processor_outbox SET payload={mark} WHERE number="
        "(SELECT min(number) FROM processor_outbox)", [b"x" * 18 * 1024 * 1024],
    )  # fmt: skip
    connection.commit()
    connection.close()
    logger = Telling()

    Relay(open_rows(url), project.settings().kafka, logger=logger).run(once=True)

    assert sorted(ids(on_topic(project, topic))) == sorted(kept)
    assert logger.told("row of the outbox cannot be sent; its key waits")
    rows = open_rows(url)
    assert rows.backlog().rows == 6
    rows.close()


def test_row_that_the_broker_refuses_is_passed_by_no_other_of_its_key(
    project: Project, topic: str, contracts: Contracts, url: str
):
    """It is larger than its topic takes, and not larger than the client does."""
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    before = [box.submit("mail.send", {"to": "a"}, key="bad") for _ in range(3)]
    box.submit("mail.send", {"to": "b"}, key="bad")
    enlarge_last(connection, url, 1_500_000)
    for _ in range(20):
        box.submit("mail.send", {"to": "c"}, key="bad")
    others = [box.submit("mail.send", {"to": "d"}, key=f"k{n % 7}") for n in range(100)]
    connection.commit()
    connection.close()
    logger = Telling()

    Relay(open_rows(url), project.settings().kafka, logger=logger).run(once=True)

    records = on_topic(project, topic)
    assert [each.key for each in records].count(b"bad") == len(before)
    assert set(ids(records)) == {*before, *others}
    assert waiting(url) == 21
    assert len(logger.told("row of the outbox cannot be sent; its key waits")) == 1


def test_rows_that_share_the_request_of_a_refused_one_are_sent(
    project: Project, topic: str, contracts: Contracts, url: str
):
    limit_topic(project, topic, 20_000)
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    kept = [box.submit("mail.send", {"to": "a"}, key="good") for _ in range(5)]
    box.submit("mail.send", {"to": "b"}, key="bad")
    enlarge_last(connection, url, 100_000)
    kept += [box.submit("mail.send", {"to": "c"}, key="good") for _ in range(30)]
    connection.commit()
    connection.close()

    relayed(project, url)

    assert list(dict.fromkeys(ids(on_topic(project, topic)))) == kept
    assert waiting(url) == 1


def test_row_that_stands_for_no_record_holds_its_own_key_back_and_no_other(
    project: Project, topic: str, contracts: Contracts, url: str
):
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    box.submit("mail.send", {"to": "a"}, key="bad")
    connection.execute("UPDATE processor_outbox SET payload=NULL")
    box.submit("mail.send", {"to": "b"}, key="bad")
    kept = box.submit("mail.send", {"to": "c"}, key="good")
    connection.commit()
    connection.close()
    logger = Telling()

    Relay(open_rows(url), project.settings().kafka, logger=logger).run(once=True)

    assert ids(on_topic(project, topic)) == [kept]
    (told,) = logger.told("row of the outbox cannot be sent; its key waits")
    assert "neither payload nor claim" in told["why"]
    assert waiting(url) == 2


def test_topic_that_takes_nothing_waits_whole_and_no_other_does(
    project: Project,
    topic: str,
    contracts: Contracts,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("processor.outbox.relay.BATCH_ROWS_MAX", 5)
    monkeypatch.setattr("processor.outbox.write.slot_of", lambda *_: 1)
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    for n in range(20):
        box.submit("mail.send", {"to": "a"}, key=str(n))
    connection.execute(f"UPDATE processor_outbox SET aggregatetype='{project.name}.none'")
    kept = box.submit("mail.send", {"to": "b"}, key="good")
    connection.commit()
    connection.close()
    logger = Telling()

    Relay(
        open_rows(url),
        {**project.settings().kafka, "topic.metadata.propagation.max.ms": 0},
        logger=logger,
    ).run(once=True)

    assert ids(on_topic(project, topic)) == [kept]
    assert len(logger.told("topic takes no rows of the outbox; they wait")) == 1
    assert waiting(url) == 20


def test_topic_with_too_many_held_keys_waits_whole(
    project: Project,
    topic: str,
    contracts: Contracts,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("processor.outbox.relay.HELD_KEYS_MAX", 2)
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    for n in range(5):
        box.submit("mail.send", {"to": "a"}, key=str(n))
    connection.execute("UPDATE processor_outbox SET payload=NULL")
    connection.commit()
    connection.close()
    logger = Telling()

    Relay(open_rows(url), project.settings().kafka, logger=logger).run(once=True)

    assert len(logger.told("row of the outbox cannot be sent; its key waits")) == 2
    assert len(logger.told("topic takes no rows of the outbox; they wait")) == 1
    assert waiting(url) == 5


def test_backlog_is_told_and_the_relay_not_ready_while_kafka_is_away(
    project: Project,
    topic: str,
    contracts: Contracts,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("processor.outbox.relay.BACKLOG_SECONDS", 0.0)
    monkeypatch.setattr("processor.outbox.serve.READY_SECONDS_MAX", 0.0)
    away = {**project.settings().kafka, "bootstrap.servers": "127.0.0.1:1"}
    connection = connected(url)
    Outbox(connection, contracts=contracts).submit("mail.send", {"to": "a"})
    connection.commit()
    connection.close()
    told: list[tuple[Backlog, Health]] = []

    def tell(backlog: Backlog) -> None:
        told.append((backlog, _health(relay)))
        if len(told) == 3:
            relay.stop()

    relay = Relay(open_rows(url), away, logger=Telling(), backlog=tell)
    before = _health(relay)
    relay.run()
    del told[3:]  # What it tells after it was stopped.

    assert before.ready
    assert [backlog.rows for backlog, _ in told] == [1, 1, 1]
    assert [health.ready for _, health in told] == [False] * 3
    assert all(health.ok for _, health in told)
    assert told[2][0].oldest_seconds > told[0][0].oldest_seconds


def test_client_that_has_ended_for_good_is_made_again(
    project: Project,
    topic: str,
    contracts: Contracts,
    url: str,
):
    connection = connected(url)
    box = Outbox(connection, contracts=contracts)
    kept = [box.submit("mail.send", {"to": "a"}, key="k") for _ in range(5)]
    connection.commit()
    connection.close()
    logger = Telling()
    relay = Relay(open_rows(url), project.settings().kafka, logger=logger)
    end_client(relay._appends, project)

    with pytest.raises(BrokerUnavailable):
        relay.turn()
    since = relay.waits_since
    relay.run(once=True)

    assert since is not None
    assert relay.waits_since is None
    assert ids(on_topic(project, topic)) == kept
    assert logger.told("row of the outbox cannot be sent; its key waits") == []


def test_connection_that_is_lost_while_rows_are_under_way_loses_and_mixes_none(
    project: Project,
    topic: str,
    contracts: Contracts,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("processor.outbox.relay.BACKLOG_SECONDS", 0.0)
    rows = PostgresRows(database)
    rows.create()
    with psycopg.connect(database) as connection:
        box = Outbox(connection, contracts=contracts)
        kept = [box.submit("mail.send", {"to": "a"}, key="k") for _ in range(100)]
    logger = Telling()
    ended: list[int] = []
    ask = rows.backlog

    def end_session_and_ask() -> Backlog:
        if not ended and rows.pid is not None:
            ended.append(rows.pid)
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("SELECT pg_terminate_backend(%s)", ended)
        return ask()

    rows.backlog = end_session_and_ask  # type: ignore[method-assign]
    Relay(rows, project.settings().kafka, logger=logger).run(once=True)

    assert logger.told("waiting for the outbox's database")
    assert list(dict.fromkeys(ids(on_topic(project, topic)))) == kept
    assert waiting(database) == 0


def test_slots_of_a_relay_that_was_stopped_are_another_s_after_a_while(
    contracts: Contracts, database: str
):
    stopped = PostgresRows(database, idle_seconds_max=0.5)
    other = PostgresRows(database)
    stopped.create()

    taken = stopped.take(3), other.take(3)
    eventually(lambda: other.take(3))
    with pytest.raises(SinkUnavailable):
        stopped.delete([1])

    assert taken == (True, False)
    assert stopped.take(4)
    stopped.close()
    other.close()


def test_rows_come_soon_after_their_commit_and_are_measured(
    project: Project, topic: str, contracts: Contracts, database: str
):
    project.write_settings(outbox={"url": database})
    project.run("outbox", "create").ok()
    worker = project.start("outbox", "relay", "--poll-seconds", "30", "--metrics-port", "0")
    worker.wait_for("relay starting")
    with psycopg.connect(database) as connection:
        box = Outbox(connection, contracts=contracts)
        wanted = [box.submit("mail.send", {"to": "a"}, key=str(n)) for n in range(20)]
        time.sleep(0.5)  # The relay waits by now, and would for 30 s.
        connection.commit()
        committed = time.monotonic()
        eventually(lambda: len(on_topic(project, topic)) == len(wanted))
        seconds = time.monotonic() - committed

    url = next(row["url"] for row in worker.logged() if row["event"] == "probes and metrics answer")
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert f'processor_outbox_relayed_total{{topic="{topic}"}} 20.0' in text
    assert "processor_outbox_rows" in text
    assert "processor_outbox_oldest_seconds" in text
    assert sorted(ids(on_topic(project, topic))) == sorted(wanted)
    assert seconds < 10
    asked = time.monotonic()
    assert worker.end() == 0
    assert time.monotonic() - asked < 15  # And not the 30 s that it would wait for rows.


@pytest.mark.acceptance
@pytest.mark.slow
def test_fifty_transactions_half_rolled_back_and_two_relays_one_killed(
    project: Project, topic: str, contracts: Contracts, database: str
):
    project.write_settings(outbox={"url": database})
    project.run("outbox", "create").ok()
    relays = [project.start("outbox", "relay", "--poll-seconds", "0.1") for _ in range(2)]
    for each in relays:
        each.wait_for("relay starting")
    chance = random.Random(5)
    plans = [(n, chance.random() < 0.5, chance.choice([0.0, 0.0, 0.02, 0.3]),
              chance.randrange(1, 40)) for n in range(50)]  # fmt: skip
    committed: dict[str, list[str]] = {}  # By key: the job ids, in the order of their commits.
    locks = {f"k{n}": threading.Lock() for n in range(8)}

    def transaction(plan: tuple[int, bool, float, int]) -> None:
        number, rolled_back, slow, rows = plan
        key = f"k{number % len(locks)}"
        for _ in range(4):
            with locks[key], psycopg.connect(database) as connection:  # Serialized, as by a row.
                box = Outbox(connection, contracts=contracts)
                mine = [box.submit("mail.send", {"to": key}, key=key) for _ in range(rows)]
                time.sleep(slow)
                if rolled_back:
                    connection.rollback()
                else:
                    connection.commit()
                    committed.setdefault(key, []).extend(mine)

    with ThreadPoolExecutor(50) as pool:
        running = [pool.submit(transaction, plan) for plan in plans]
        eventually(lambda: len(on_topic(project, topic)) > 100)
        relays[0].end(signal.SIGKILL)
        for each in running:
            each.result()
    rows = open_rows(database)
    eventually(lambda: rows.backlog().rows == 0, timeout=60)
    rows.close()
    assert relays[1].end() == 0

    wanted = {job for jobs in committed.values() for job in jobs}
    records = on_topic(project, topic)
    seen = list(dict.fromkeys(ids(records)))
    print(f"committed {len(wanted)}, submitted {len(seen)}, sent again {len(records) - len(seen)}")
    assert len(wanted) > 500
    assert set(seen) == wanted
    for jobs in committed.values():
        mine = set(jobs)
        assert [each for each in seen if each in mine] == jobs


def test_table_of_an_earlier_version_is_told_of_and_gets_the_column_that_traces_need(url: str):
    with connected(url) as connection:
        connection.execute("ALTER TABLE processor_outbox DROP COLUMN traceparent")
    rows = open_rows(url)

    with pytest.raises(UsageError, match="of an earlier version") as caught:
        rows.read(0, 1)
    rows.create()

    assert "processor outbox create" in (caught.value.hint or "")
    assert rows.read(0, 1) == []
    rows.close()
