"""When rows of the ledger are forgotten."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from processor.contracts.topic import Topic
from processor.errors import PermanentError, ProcessorError, SinkUnavailable
from processor.pruning import STEP_ROWS_MAX, STEPS_MAX, Pruner, too_short

DAY = 86_400.0


class Rows:
    """A ledger with so many rows to forget; tells what it was asked."""

    def __init__(self, left: int = 0) -> None:
        self.left = left
        self.asked: list[tuple[str, float, bool]] = []

    def prune(self, topic: str, before: float, count_max: int, *, with_letters: bool) -> int:
        self.asked.append((topic, before, with_letters))
        gone = min(self.left, count_max)
        self.left -= gone
        return gone


def topic(name: str = "t", **more: Any) -> Topic:
    return Topic(name=name, jobs=("a.b",), partitions=1, **more)


def pruner(rows: Rows, *topics: Topic, retention_seconds: float = 10 * DAY) -> Pruner:
    return Pruner(
        rows, topics, retention_seconds=retention_seconds, now=lambda: 100 * DAY,
        pruned=lambda _: None, logger=None,
    )  # fmt: skip


def test_rows_of_jobs_with_letters_stay_as_long_as_the_letters():
    rows = Rows()

    pruner(
        rows,
        topic(dead_letter={"retention": "40d"}),
        topic("u", dead_letter={"retention": "1d"}),
        topic("v", dead_letter={"policy": "hold"}, ordering="key"),
    ).step()

    assert rows.asked == [
        ("t", 90 * DAY, False),
        ("t", 60 * DAY, True),
        ("u", 90 * DAY, False),
        ("u", 90 * DAY, True),
        ("v", 90 * DAY, False),
    ]


def test_one_go_is_bounded():
    rows = Rows(left=10 * STEPS_MAX * STEP_ROWS_MAX)

    gone = pruner(rows, topic(dead_letter={"policy": "hold"}, ordering="key")).step()

    assert gone == STEPS_MAX * STEP_ROWS_MAX


@pytest.mark.parametrize("fault", [SinkUnavailable("no answer"), PermanentError("refused")])
def test_pruning_goes_on_after_whatever_the_ledger_tells(
    fault: ProcessorError, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("processor.pruning.EVERY_SECONDS", 0.001)
    pruned_after = threading.Event()

    class Failing(Rows):
        def prune(self, *given: Any, **more: Any) -> int:
            if len(self.asked) == 0:
                self.asked.append(("t", 0.0, False))
                raise fault
            pruned_after.set()
            return 0

    logger = Telling()
    made = Pruner(
        Failing(), [topic()], retention_seconds=DAY, now=lambda: 100 * DAY,
        pruned=lambda _: None, logger=logger,
    )  # fmt: skip
    made.start()
    went_on = pruned_after.wait(20)
    made.stop()

    assert went_on
    assert logger.told == [fault.message]


class Telling:
    """A log that keeps why something did not go well."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def warning(self, _: str, *, why: str) -> None:
        self.told.append(why)


@pytest.mark.parametrize(
    ("seconds", "more", "told"),
    [
        (7 * DAY, {}, False),
        (6 * DAY, {}, True),
        (7 * DAY, {"retry": {"retention": "9d"}}, True),
        (9 * DAY, {"retention": "9d"}, False),
    ],
)
def test_retention_shorter_than_a_job_can_come_again_is_warned_of(
    seconds: float, more: dict[str, Any], told: bool
):
    warning = too_short(seconds, [topic(**more)])

    assert (warning is not None) == told
    assert warning is None or "takes effect twice" in warning


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({}, None),
        ({"t": 7 * DAY}, None),
        ({"t.dlt": 90 * DAY}, None),
        ({"t": 31 * DAY}, "for 2678400 s"),
        ({"t.retry.1": None}, "for ever"),
    ],
)
def test_what_the_cluster_keeps_longer_than_declared_counts(kept: Any, told: str | None):
    warning = too_short(30 * DAY, [topic()], kept=kept)

    assert (warning is not None) == (told is not None)
    assert told is None or f"keeps its records {told}:" in (warning or "")
