"""What the engine rests on in a ledger: the same tests on every ledger."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from processor.core.holds import Closed
from processor.engine.operations import ClosedKey, Operation, PurgedJob
from processor.engine.ports import (
    Checkpoint,
    Death,
    HeldJob,
    Ledger,
    LedgerRow,
    Owner,
    OwnershipLost,
    row_among,
)
from processor.errors import PermanentError, SinkUnavailable
from processor.model import Effect, Failure, Position, Raised, identities_of
from processor.preflight import other_groups
from processor.sinks.no_ledger import NoLedger
from processor.sinks.postgres import PostgresLedger
from processor.sinks.postgres_sink import PostgresSink
from processor.sinks.sql import SqlLedger
from processor.sinks.sqlite import SqliteLedger, SqliteSink
from processor.testing import MemoryLedger, MemorySink

OWNER = Owner("g", "t", 3, 5)
ROW_SCHEMA = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}
NEVER = Failure(
    "Reject", "never", permanent=True, fingerprint="f", raised=Raised(["mail.py:1 send"], None)
)


def effect(n: int, *, identity: str | None = None, job_id: str | None = None) -> Effect:
    return Effect(
        job_id=job_id or f"job-{n}",
        job_type="count",
        identity=identity or f"job:{job_id or f'job-{n}'}",
        origin=Position("t", 3, n),
        attempt=1,
        key="k",
        result={"n": n},
    )


def death(n: int, *, identity: str | None = None) -> Death:
    return Death(
        identity=identity or f"job:job-{n}",
        job_id=f"job-{n}",
        job_type="count",
        origin=Position("t", 3, n),
        attempt=3,
        key=None,
        failure=NEVER,
    )


def state_of(ledger: Ledger, identity: str) -> tuple[str, str] | None:
    row = ledger.lookup([identity]).get(identity)
    return None if row is None else (row.job_id, row.state)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    made: Ledger
    match request.param:
        case "memory":
            made = MemoryLedger()
        case "sqlite":
            made = SqliteLedger(tmp_path / "l.db")
        case _:
            made = PostgresLedger(request.getfixturevalue("database"))
    yield made
    made.close()


# Owners.


def test_owner_s_epoch_can_be_raised_and_raised_again(ledger: Ledger):
    for epoch in (1, 5, 5, 9):
        ledger.raise_owner(Owner("g", "t", 3, epoch))

    with pytest.raises(OwnershipLost, match=r"t\[3\] has a newer owner than epoch 8"):
        ledger.raise_owner(Owner("g", "t", 3, 8))

    ledger.record(Owner("g", "t", 3, 9), [effect(1)])


CALLS: list[Callable[[Ledger, Owner], Any]] = [
    lambda ledger, owner: ledger.record(owner, [effect(1)]),
    lambda ledger, owner: ledger.dying(owner, [death(1)]),
    lambda ledger, owner: ledger.dead(owner, [death(7)]),
]


@pytest.mark.parametrize("call", CALLS, ids=["record", "dying", "dead"])
def test_older_owner_writes_nothing(ledger: Ledger, call: Callable[[Ledger, Owner], Any]):
    ledger.dying(OWNER, [death(7)])
    ledger.raise_owner(OWNER)

    with pytest.raises(OwnershipLost):
        call(ledger, OWNER._replace(epoch=4))

    assert state_of(ledger, "job:job-1") is None
    assert state_of(ledger, "job:job-7") == ("job-7", "dying")


def test_older_owner_neither_holds_nor_opens_anything(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])
    ledger.held(OWNER, [held(2)])
    ledger.raise_owner(OWNER)
    older = OWNER._replace(epoch=4)

    for call in (
        lambda: ledger.held(older, [held(3)]),
        lambda: ledger.unheld(older, [2]),
        lambda: ledger.end_replay(older, b"k", 1),
    ):
        with pytest.raises(OwnershipLost):
            call()

    ledger.unheld(OWNER, [3])
    assert not ledger.end_replay(OWNER, b"k", 1)
    ledger.unheld(OWNER, [2])
    assert ledger.end_replay(OWNER, b"k", 1)


@pytest.mark.parametrize(
    "other",
    [OWNER._replace(group="h"), OWNER._replace(topic="u"), OWNER._replace(partition=4)],
    ids=["group", "topic", "partition"],
)
def test_owner_of_something_else_is_not_fenced(ledger: Ledger, other: Owner):
    ledger.raise_owner(OWNER)

    assert ledger.record(other._replace(epoch=1), [effect(1)]) == {"job:job-1"}


# Effects.


def test_recorded_effects_are_new_once(ledger: Ledger):
    first = ledger.record(OWNER, [effect(1), effect(2)])
    again = ledger.record(OWNER, [effect(2), effect(3)])

    assert (first, again) == ({"job:job-1", "job:job-2"}, {"job:job-3"})
    assert ledger.lookup(["job:job-1", "job:job-9"]) == {
        "job:job-1": LedgerRow("job:job-1", "job-1", "done", '{"n": 1}', None, 1)
    }


def test_first_result_of_an_identity_is_kept(ledger: Ledger):
    ledger.record(OWNER, [effect(1, identity="key:a:k")])

    new = ledger.record(OWNER, [effect(2, identity="key:a:k")])

    assert new == set()
    assert ledger.lookup(["key:a:k"])["key:a:k"].result == '{"n": 1}'


def test_same_identity_twice_in_one_call_is_new_once(ledger: Ledger):
    seen: list[Effect] = []

    ledger.record(
        OWNER,
        [effect(1, identity="key:a:k"), effect(2, identity="key:a:k")],
        lambda _, effects: seen.extend(effects),
    )

    assert state_of(ledger, "key:a:k") == ("job-1", "done")
    assert [each.job_id for each in seen] == ["job-1"]


def test_job_without_a_result_has_none(ledger: Ledger):
    nothing = Effect("job-1", "count", "job:job-1", Position("t", 3, 1), 1, None, None)

    ledger.record(OWNER, [nothing])

    assert ledger.lookup(["job:job-1"])["job:job-1"].result is None


def test_more_identities_can_be_looked_up_than_one_statement_takes(ledger: Ledger):
    effects = [effect(n) for n in range(1200)]
    ledger.record(OWNER, effects)

    found = ledger.lookup([each.identity for each in effects] + ["job:none"])

    assert len(found) == 1200
    assert ledger.lookup([]) == {}


def test_only_new_effects_are_written_in_the_transaction(ledger: Ledger):
    ledger.record(OWNER, [effect(1)])
    seen: list[int] = []

    def write(_: Any, effects: Sequence[Effect]) -> None:
        seen.extend(each.result["n"] for each in effects)

    ledger.record(OWNER, [effect(1), effect(2)], write)

    assert seen == [2]


@pytest.mark.parametrize("fault", [PermanentError("the sink refuses"), RuntimeError("crash")])
def test_fault_between_the_rows_and_the_effects_leaves_neither(ledger: Ledger, fault: Exception):
    sink: Any = MemorySink()
    if isinstance(ledger, SqliteLedger):
        sink = SqliteSink("effect", create="CREATE TABLE IF NOT EXISTS effect (n INTEGER)")
    elif isinstance(ledger, PostgresLedger):
        sink = PostgresSink("effect", schema=ROW_SCHEMA, create=True)
        ledger.prepare([sink])

    def write(transaction: Any, effects: Sequence[Effect]) -> None:
        sink.write_in(transaction, effects)
        raise fault

    with pytest.raises(type(fault)):
        ledger.record(OWNER, [effect(1), effect(2)], write)
    left = (ledger.lookup(["job:job-1", "job:job-2"]), written_in(ledger))
    new = ledger.record(OWNER, [effect(1), effect(2)], sink.write_in)

    assert left == ({}, [])
    assert new == {"job:job-1", "job:job-2"}
    assert written_in(ledger) == [1, 2]


def written_in(ledger: Ledger) -> list[int]:
    if isinstance(ledger, MemoryLedger):
        return [each.result["n"] for each in ledger.written]
    if isinstance(ledger, PostgresLedger):
        with psycopg.connect(ledger._conninfo) as reader:
            return [row[0] for row in reader.execute("SELECT n FROM effect")]
    assert isinstance(ledger, SqliteLedger)
    with sqlite3.connect(ledger._path) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
        rows = connection.execute("SELECT n FROM effect").fetchall() if "effect" in names else []
    connection.close()
    return [row[0] for row in rows]


# Deaths.


def test_death_is_dying_then_dead(ledger: Ledger):
    done = ledger.dying(OWNER, [death(1)])
    dying = ledger.lookup(["job:job-1"])["job:job-1"]
    ledger.dead(OWNER, [death(1)])

    assert done == set()
    assert dying == LedgerRow("job:job-1", "job-1", "dying", None, NEVER, 3)
    assert dying.failure is not None and dying.failure.raised is None  # For the log alone.
    assert state_of(ledger, "job:job-1") == ("job-1", "dead")


def test_done_beats_dying(ledger: Ledger):
    ledger.record(OWNER, [effect(1)])

    done = ledger.dying(OWNER, [death(1), death(2)])
    ledger.dead(OWNER, [death(1), death(2)])

    assert done == {"job:job-1"}
    assert state_of(ledger, "job:job-1") == ("job-1", "done")
    assert state_of(ledger, "job:job-2") == ("job-2", "dead")


@pytest.mark.parametrize("dead", [False, True])
def test_job_that_is_dying_or_dead_takes_no_effect(ledger: Ledger, dead: bool):
    ledger.dying(OWNER, [death(1)])
    if dead:
        ledger.dead(OWNER, [death(1)])

    new = ledger.record(OWNER, [effect(1)])

    assert new == set()
    assert state_of(ledger, "job:job-1") == ("job-1", "dead" if dead else "dying")


def test_dying_again_changes_nothing(ledger: Ledger):
    ledger.dying(OWNER, [death(1)])
    ledger.dead(OWNER, [death(1)])

    done = ledger.dying(OWNER, [death(1)])

    assert done == set()
    assert state_of(ledger, "job:job-1") == ("job-1", "dead")


def test_dead_without_dying_is_nothing(ledger: Ledger):
    ledger.dead(OWNER, [death(1)])

    assert state_of(ledger, "job:job-1") is None


# Several jobs with one idempotency key.

KEY = "key:a:k"


def of_key(ledger: Ledger, n: int) -> tuple[str, str] | None:
    """What the ledger knows of a job with the key: which job's row counts, and its state."""
    identities = identities_of(KEY, f"job-{n}")
    row = row_among(ledger.lookup(identities), identities)
    return None if row is None else (row.job_id, row.state)


@pytest.mark.parametrize("dead", [False, True])
def test_effect_counts_before_the_death_of_another_job_with_its_key(ledger: Ledger, dead: bool):
    ledger.dying(OWNER, [death(1, identity=KEY)])
    if dead:
        ledger.dead(OWNER, [death(1, identity=KEY)])

    new = ledger.record(OWNER, [effect(2, identity=KEY)])

    assert new == {KEY}
    assert ledger.lookup([KEY])[KEY] == LedgerRow(KEY, "job-2", "done", '{"n": 2}', None, 1)
    assert of_key(ledger, 1) == ("job-2", "done")


def test_jobs_of_one_key_die_side_by_side(ledger: Ledger):
    other = OWNER._replace(partition=4)
    ledger.dying(OWNER, [death(1, identity=KEY)])
    ledger.dying(other, [death(2, identity=KEY)])

    ledger.dead(OWNER, [death(1, identity=KEY)])
    first_ended = (of_key(ledger, 1), of_key(ledger, 2))
    ledger.dead(other, [death(2, identity=KEY)])

    assert first_ended == (("job-1", "dead"), ("job-2", "dying"))
    assert of_key(ledger, 2) == ("job-2", "dead")


@pytest.mark.parametrize("dead", [False, True])
def test_job_of_a_key_that_is_dying_or_dead_takes_no_effect(ledger: Ledger, dead: bool):
    ledger.dying(OWNER, [death(1, identity=KEY)])
    if dead:
        ledger.dead(OWNER, [death(1, identity=KEY)])

    new = ledger.record(OWNER, [effect(1, identity=KEY), effect(3)])
    left = of_key(ledger, 1)
    replayed = ledger.record(OWNER, [effect(1, identity=KEY)._replace(replay=1)])

    assert new == {"job:job-3"}
    assert left == ("job-1", "dead" if dead else "dying")
    assert replayed == {KEY}
    assert of_key(ledger, 1) == ("job-1", "done")


def test_checkpoint_leaves_the_death_and_the_checkpoint_of_another_job_of_its_key(ledger: Ledger):
    ledger.dying(OWNER, [death(1, identity=KEY)])
    ledger.checkpoint(OWNER, checkpoint(2, identity=KEY))
    ledger.checkpoint(OWNER, checkpoint(3, identity=KEY))

    found = [of_key(ledger, n) for n in (1, 2, 3)]
    ledger.record(OWNER, [effect(2, identity=KEY)])
    ledger.checkpoint(OWNER, checkpoint(2, identity=KEY))

    assert found == [("job-1", "dying"), ("job-2", "running"), ("job-3", "running")]
    assert set(ledger.lookup(identities_of(KEY, "job-2"))) == {KEY}


def test_letter_of_an_earlier_death_does_not_end_the_death_in_a_replay(ledger: Ledger):
    ledger.dying(OWNER, [death(1)])
    ledger.dying(OWNER, [replace(death(1), replay=1)])

    ledger.dead(OWNER, [death(1)])

    assert state_of(ledger, "job:job-1") == ("job-1", "dying")


def test_death_never_replaces_the_effect_of_another_job(ledger: Ledger):
    ledger.record(OWNER, [effect(1, identity=KEY)])

    done = ledger.dying(OWNER, [death(2, identity=KEY)])
    ledger.dead(OWNER, [death(2, identity=KEY)])

    assert done == {KEY}
    assert of_key(ledger, 2) == ("job-1", "done")
    assert len(ledger.lookup(identities_of(KEY, "job-2"))) == 1


@pytest.mark.parametrize("ledger", ["sqlite", "postgres"], indirect=True)
def test_connection_of_a_thread_that_has_ended_is_let_go(ledger: Any):
    ledger.lookup(["job:job-1"])

    for _ in range(5):
        thread = threading.Thread(target=ledger.lookup, args=[["job:job-1"]], daemon=True)
        thread.start()
        thread.join(20)

    assert len(ledger._connections) == 2
    assert ledger.record(OWNER, [effect(1)]) == {"job:job-1"}


def test_ledger_is_closed_twice_without_harm(ledger: Ledger):
    ledger.close()
    ledger.close()


# SQLite: several threads, several processes, a file that does not answer.


def test_threads_that_race_for_one_identity_agree_on_one_winner(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "l.db")
    sink = SqliteSink("effect", create="CREATE TABLE IF NOT EXISTS effect (n INTEGER)")
    together = threading.Barrier(8)
    won: list[int] = []

    def race(n: int) -> None:
        together.wait(10)
        for number in range(20):
            mine = effect(n, identity=f"key:a:{number}")
            if ledger.record(OWNER, [mine], sink.write_in):
                won.append(number)

    threads = [threading.Thread(target=race, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(won) == list(range(20))
    assert len(written_in(ledger)) == 20
    ledger.close()


PROCESS = """
import sys
from processor.engine.ports import Owner
from processor.model import Effect, Position
from processor.sinks.postgres import PostgresLedger
from processor.sinks.postgres_sink import PostgresSink
from processor.sinks.sql import SqlLedger
from processor.sinks.sqlite import SqliteLedger, SqliteSink

ledger = SqliteLedger(sys.argv[1])
sink = SqliteSink("effect", create="CREATE TABLE IF NOT EXISTS effect (n INTEGER)")
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    effect = Effect(sys.argv[2], "count", f"key:a:{number}", Position("t", 0, 0), 1, None,
                    {"n": number})
    ledger.record(Owner("g", "t", int(sys.argv[2]), 1), [effect], sink.write_in)
"""


def test_processes_that_race_for_one_identity_agree_on_one_winner(tmp_path: Path):
    path = tmp_path / "l.db"
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in racing:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        process.communicate("go\n", timeout=60)

    ledger = SqliteLedger(path)
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert sorted(written_in(ledger)) == list(range(50))
    assert len(ledger.lookup([f"key:a:{number}" for number in range(50)])) == 50
    ledger.close()


def open_together(folder: Path, together: Any) -> None:
    for turn in range(30):
        together.wait(30)
        SqliteLedger(folder / f"{turn}.db").close()


def test_workers_that_start_together_make_one_ledger(tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(3)
    workers = [spawn.Process(target=open_together, args=(tmp_path, together)) for _ in range(3)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_commit_that_fails_leaves_a_ledger_that_works(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "l.db")
    held: list[sqlite3.Connection] = []

    def deny_commit(action: int, argument: str | None, *_: Any) -> int:
        refused = action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    def write(connection: sqlite3.Connection, _: Sequence[Effect]) -> None:
        held.append(connection)
        connection.set_authorizer(deny_commit)

    with pytest.raises(SinkUnavailable):
        ledger.record(OWNER, [effect(1)], write)
    held[0].set_authorizer(None)
    left = ledger.lookup(["job:job-1"])

    assert left == {}
    assert ledger.record(OWNER, [effect(1)]) == {"job:job-1"}
    ledger.close()


def test_locked_file_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("processor.sinks.sqlite.BUSY_SECONDS", 0.01)
    path = tmp_path / "l.db"
    ledger = SqliteLedger(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(SinkUnavailable, match=r"the ledger .* does not answer"):
        ledger.record(OWNER, [effect(1)])
    other.execute("ROLLBACK")

    assert ledger.record(OWNER, [effect(1)]) == {"job:job-1"}
    other.close()
    ledger.close()


def test_ledger_that_is_there_opens_while_another_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("processor.sinks.sqlite.BUSY_SECONDS", 0.01)
    path = tmp_path / "l.db"
    SqliteLedger(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    ledger = SqliteLedger(path)

    assert ledger.lookup(["job:job-1"]) == {}
    other.close()
    ledger.close()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"nope": 1}, "no column named nope"),
        ({"n": 1, "x; DROP TABLE effect": 2}, "is no column name"),
        ({"n": 2**70}, "cannot store"),
        ({"n": "one"}, "constraint"),
        (None, "must be a mapping of columns, or a list of them; it is a NoneType"),
        ("text", "it is a str"),
        ({}, "it is empty"),
        ([{"n": 1}, 7], "it is a int"),
    ],
    ids=str,
)
def test_result_that_the_table_does_not_take_is_refused_for_good(
    tmp_path: Path, result: Any, message: str
):
    ledger = SqliteLedger(tmp_path / "l.db")
    create = "CREATE TABLE IF NOT EXISTS effect (n INTEGER CHECK (typeof(n) = 'integer'))"
    sink = SqliteSink("effect", create=create)
    bad = Effect("job-1", "count", "job:job-1", Position("t", 3, 1), 1, None, result)

    with pytest.raises(PermanentError, match=message):
        ledger.record(OWNER, [bad], sink.write_in)

    assert ledger.lookup(["job:job-1"]) == {}
    # The table, made in the transaction that was undone, is made again.
    assert ledger.record(OWNER, [effect(2)], sink.write_in) == {"job:job-2"}
    assert written_in(ledger) == [2]
    ledger.close()


def test_list_of_results_is_a_row_each(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "l.db")
    sink = SqliteSink("effect", create="CREATE TABLE IF NOT EXISTS effect (n INTEGER)")
    both = Effect("1", "count", "job:1", Position("t", 3, 1), 1, None, [{"n": 1}, {"n": 2}])

    ledger.record(OWNER, [both], sink.write_in)

    assert written_in(ledger) == [1, 2]
    ledger.close()


# Replays and held keys.


def closing(n: int, *, replay: int = 0, key: bytes = b"k") -> Death:
    return replace(death(n), key=key, replay=replay, closes=True)


def held(n: int, key: bytes = b"k") -> HeldJob:
    return HeldJob(f"job:job-{n}", f"job-{n}", key, n)


def test_newer_replay_replaces_a_death_and_an_older_one_does_not(ledger: Ledger):
    ledger.dying(OWNER, [replace(death(1), replay=2)])

    older = ledger.record(OWNER, [effect(1)._replace(replay=2)])
    newer = ledger.record(OWNER, [effect(1)._replace(replay=3)])

    assert (older, newer) == (set(), {"job:job-1"})
    assert ledger.lookup(["job:job-1"])["job:job-1"].replay == 3


def test_effect_beats_every_replay(ledger: Ledger):
    ledger.record(OWNER, [effect(1)])

    new = ledger.record(OWNER, [effect(1)._replace(replay=3)])
    done = ledger.dying(OWNER, [replace(closing(1), replay=4)])

    assert new == set()
    assert done == {"job:job-1"}
    assert ledger.holds(OWNER) == {}


def test_death_closes_its_key_where_it_is_asked_to(ledger: Ledger):
    ledger.dying(OWNER, [replace(death(1), key=b"a"), closing(2, key=b"\x00\xff")])

    assert ledger.holds(OWNER) == {b"\x00\xff": Closed(replay=0, offset=2)}
    assert ledger.holds(Owner("g", "t", 4, 5)) == {}


def test_death_in_a_newer_replay_takes_the_place_of_the_first(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])
    ledger.dying(OWNER, [closing(2, replay=2)])

    ledger.dying(OWNER, [closing(3, replay=1)])

    assert ledger.holds(OWNER) == {b"k": Closed(replay=2, offset=2)}


def test_replay_s_end_opens_the_key(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])

    opened = ledger.end_replay(OWNER, b"k", 1)
    again = ledger.end_replay(OWNER, b"k", 1)

    assert (opened, again) == (True, True)
    assert ledger.holds(OWNER) == {}


def test_held_job_keeps_its_key_closed_until_it_was_run(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])
    ledger.held(OWNER, [held(2), held(2), held(3)])

    ledger.unheld(OWNER, [2])
    one_left = ledger.end_replay(OWNER, b"k", 1)
    ledger.unheld(OWNER, [3, 99])
    none_left = ledger.end_replay(OWNER, b"k", 1)

    assert (one_left, none_left) == (False, True)


def test_held_job_of_another_key_does_not_matter(ledger: Ledger):
    ledger.dying(OWNER, [closing(1), closing(5, key=b"other")])
    ledger.held(OWNER, [held(6, b"other")])

    assert ledger.end_replay(OWNER, b"k", 1)
    assert list(ledger.holds(OWNER)) == [b"other"]


def test_death_in_the_replay_that_ends_keeps_the_key_closed(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])
    ledger.dying(OWNER, [closing(2, replay=1)])

    assert not ledger.end_replay(OWNER, b"k", 1)
    assert ledger.end_replay(OWNER, b"k", 2)


def test_held_job_that_dies_in_a_replay_is_held_no_more(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])
    ledger.held(OWNER, [held(2)])

    ledger.dying(OWNER, [closing(2, replay=1)])

    assert ledger.end_replay(OWNER, b"k", 2)


def test_job_that_is_done_is_not_held(ledger: Ledger):
    ledger.dying(OWNER, [closing(1)])
    ledger.record(OWNER, [effect(2)])

    ledger.held(OWNER, [held(2)])

    assert ledger.end_replay(OWNER, b"k", 1)


# What operators ask of the embedded ledger.


@pytest.fixture(params=["sqlite", "postgres"])
def operated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlLedger]:
    made: SqlLedger
    if request.param == "sqlite":
        made = SqliteLedger(tmp_path / "l.db", clock=lambda: 7.0)
    else:
        made = PostgresLedger(request.getfixturevalue("database"), clock=lambda: 7.0)
    yield made
    made.close()


def test_closed_keys_are_told_with_what_is_held_behind_them(operated: SqlLedger):
    operated.dying(OWNER, [closing(1), closing(2, key=b"b")])
    operated.held(OWNER, [held(3), held(4)])

    assert operated.closed_keys("g", "t") == [
        ClosedKey(3, b"b", 2, 0, 7.0, 0), ClosedKey(3, b"k", 1, 0, 7.0, 2),
    ]  # fmt: skip
    assert operated.closed_keys("g", "u") == []


def test_groups_that_have_owned_a_topic_s_partitions_are_known(operated: SqlLedger):
    owners = [Owner("b", "t", 0, 1), Owner("a", "t", 0, 1), Owner("a", "t", 1, 2)]
    for owner in (*owners, Owner("c", "other", 0, 1)):
        operated.raise_owner(owner)

    topics: Any = [SimpleNamespace(name=each) for each in ("t", "other", "new")]
    warning = other_groups(operated, "a", topics)

    assert operated.groups("t") == ["a", "b"]
    assert operated.groups("new") == []
    assert warning is not None
    assert "group `b` has worked topic `t`" in warning
    assert other_groups(operated, "c", topics[1:]) is None
    assert other_groups(NoLedger(), "a", topics) is None


def test_operations_have_growing_numbers_and_an_end(operated: SqlLedger):
    first = operated.begin("replay", group="g", topic="t", who="me", filters={"key": "k"})
    second = operated.begin("purge", group="g", topic="t", who="me", filters={})
    operated.end(first, "ended", jobs=3, keys=1)

    newest, oldest = operated.operations(5)

    assert first < second
    assert (newest.number, newest.state) == (second, "begun")
    assert oldest == Operation(
        first, "replay", "g", "t", "me", {"key": "k"}, "ended", 3, 1, 7.0, 7.0
    )
    assert operated.operations(1) == [newest]


def test_purged_job_is_held_no_more_and_no_replay_runs_it(operated: SqlLedger):
    operated.dying(OWNER, [closing(1)])
    operated.held(OWNER, [held(2)])
    operated.record(OWNER, [effect(3)])
    purged = [
        PurgedJob(f"job:job-{n}", f"job-{n}", "count", b"k", 0, Position("t", 3, n))
        for n in (1, 2, 3)
    ]

    operated.purge("g", purged)

    assert [state_of(operated, f"job:job-{n}") for n in (1, 2, 3)] == [
        ("job-1", "purged"), ("job-2", "purged"), ("job-3", "done"),
    ]  # fmt: skip
    assert operated.record(OWNER, [effect(2)._replace(replay=99)]) == set()
    assert operated.end_replay(OWNER, b"k", 1)


def test_purged_job_of_a_key_leaves_the_others_of_it(operated: SqlLedger):
    operated.dying(OWNER, [death(1, identity=KEY), death(2, identity=KEY)])

    operated.purge("g", [PurgedJob(KEY, "job-1", "count", b"k", 0, Position("t", 3, 1))])

    assert of_key(operated, 1) == ("job-1", "purged")
    assert of_key(operated, 2) == ("job-2", "dying")
    assert operated.record(OWNER, [effect(1, identity=KEY)._replace(replay=99)]) == set()


# Checkpoints.


def checkpoint(n: int, progress: str = '{"part": 1}', *, identity: str | None = None) -> Checkpoint:
    name = identity or f"job:job-{n}"
    return Checkpoint(name, f"job-{n}", "count", Position("t", 3, n), 1, progress)


def test_checkpoint_is_kept_until_the_job_ends(ledger: Ledger):
    ledger.checkpoint(OWNER, checkpoint(1))
    ledger.checkpoint(OWNER, checkpoint(1, '{"part": 2}'))
    running = ledger.lookup(["job:job-1"])["job:job-1"]
    new = ledger.record(OWNER, [effect(1)])
    ledger.checkpoint(OWNER, checkpoint(1, '{"part": 3}'))
    done = ledger.lookup(["job:job-1"])["job:job-1"]

    assert (running.state, running.progress) == ("running", '{"part": 2}')
    assert new == {"job:job-1"}
    assert (done.state, done.progress) == ("done", None)


def test_job_that_told_how_far_it_is_can_die(ledger: Ledger):
    ledger.checkpoint(OWNER, checkpoint(1))

    assert ledger.dying(OWNER, [death(1)]) == set()
    ledger.checkpoint(OWNER, checkpoint(1))
    ledger.dead(OWNER, [death(1)])

    assert state_of(ledger, "job:job-1") == ("job-1", "dead")


def test_older_owner_keeps_no_checkpoint(ledger: Ledger):
    ledger.raise_owner(OWNER)

    with pytest.raises(OwnershipLost):
        ledger.checkpoint(OWNER._replace(epoch=4), checkpoint(1))

    assert ledger.lookup(["job:job-1"]) == {}


def test_payload_s_hash_is_kept(ledger: Ledger):
    ledger.record(OWNER, [effect(1)._replace(payload_hash="abc")])

    assert ledger.lookup(["job:job-1"])["job:job-1"].payload_hash == "abc"


# Pruning.


@pytest.fixture(params=["sqlite", "postgres"])
def aging(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, list[float]]]:
    """A ledger, and its time."""
    at = [1000.0]
    made: Any
    if request.param == "sqlite":
        made = SqliteLedger(tmp_path / "l.db", clock=lambda: at[0])
    else:
        made = PostgresLedger(request.getfixturevalue("database"), clock=lambda: at[0])
    yield made, at
    made.close()


def kept(ledger: Ledger) -> set[str]:
    return set(ledger.lookup([f"job:job-{n}" for n in range(20)]))


def test_rows_are_forgotten_in_steps_the_oldest_first(aging: tuple[Any, list[float]]):
    ledger, at = aging
    for n in range(5):
        at[0] = 1000.0 + n
        ledger.record(OWNER, [effect(n)])

    steps = [ledger.prune("t", 1003.0, 2, with_letters=False) for _ in range(3)]

    assert steps == [2, 1, 0]
    assert kept(ledger) == {"job:job-3", "job:job-4"}


def test_row_of_another_topic_or_of_a_job_that_may_have_a_letter_stays(
    aging: tuple[Any, list[float]],
):
    ledger, _ = aging
    ledger.record(OWNER, [effect(1), effect(2)._replace(replay=7)])
    ledger.record(OWNER, [effect(3)._replace(origin=Position("u", 3, 3))])
    ledger.dying(OWNER, [death(4), death(5)])
    ledger.dead(OWNER, [death(4)])
    ledger.checkpoint(OWNER, checkpoint(6))

    first = ledger.prune("t", 2000.0, 100, with_letters=False)
    left = kept(ledger)
    second = ledger.prune("t", 2000.0, 100, with_letters=True)

    assert (first, second) == (2, 3)
    assert left == {f"job:job-{n}" for n in (2, 3, 4, 5)}
    assert kept(ledger) == {"job:job-3"}
