from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.watermark import Watermark


def begun(start: int, *offsets: int) -> Watermark:
    mark = Watermark(start=start)
    for offset in offsets:
        mark.begin(offset)
    return mark


@pytest.mark.parametrize(
    ("start", "offsets", "settled", "committable", "unsettled"),
    [
        (0, [], [], 0, 0),
        (40, [], [], 40, 0),
        (40, [40], [], 40, 1),
        (40, [40], [40], 41, 0),
        (40, [40, 41, 42], [41, 42], 40, 1),
        (40, [40, 41, 42], [42, 40], 41, 1),
        (40, [40, 41, 42], [42, 40, 41], 43, 0),
        # Gaps: what was never begun is not waited for.
        (40, [45], [], 45, 1),
        (40, [45], [45], 46, 0),
        (40, [40, 50, 60], [40], 50, 2),
        (40, [40, 50, 60], [50, 40], 60, 1),
    ],
)
def test_watermark_is_the_first_unsettled_offset(
    start: int, offsets: list[int], settled: list[int], committable: int, unsettled: int
):
    mark = begun(start, *offsets)

    for offset in settled:
        mark.settle(offset)

    assert (mark.committable, mark.unsettled) == (committable, unsettled)
    assert mark.next_offset == (offsets[-1] + 1 if offsets else start)


@pytest.mark.parametrize("offset", [39, 40, 42])
def test_offset_begins_once_and_in_order(offset: int):
    mark = begun(40, 40, 42)

    with pytest.raises(AssertionError, match="came again or late"):
        mark.begin(offset)

    assert (mark.committable, mark.unsettled, mark.next_offset) == (40, 2, 43)


@pytest.mark.parametrize("offset", [39, 40, 41, 43, 44])
def test_offset_settles_once_and_only_when_begun(offset: int):
    mark = begun(40, 40, 42, 43)
    mark.settle(40)
    mark.settle(43)

    with pytest.raises(AssertionError):
        mark.settle(offset)

    assert (mark.committable, mark.unsettled) == (42, 1)


class Naive:
    """The same, as one would say it: no order kept, everything looked through each time."""

    def __init__(self, start: int) -> None:
        self.next = start
        self.begun: set[int] = set()

    @property
    def committable(self) -> int:
        return min(self.begun, default=self.next)


@settings(derandomize=True, database=None, deadline=None)
@given(
    start=st.integers(0, 1000),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=60),
)
def test_watermark_agrees_with_a_naive_one_and_never_moves_back(
    start: int, steps: list[tuple[bool, int]]
):
    mark, naive = Watermark(start=start), Naive(start)
    before = mark.committable

    for begin, number in steps:
        if begin:
            offset = naive.next + number % 4  # Every other time with a gap.
            mark.begin(offset)
            naive.begun.add(offset)
            naive.next = offset + 1
        elif naive.begun:
            offset = sorted(naive.begun)[number % len(naive.begun)]
            mark.settle(offset)
            naive.begun.remove(offset)

        assert mark.committable == naive.committable >= before
        assert mark.unsettled == len(naive.begun)
        assert mark.next_offset == naive.next
        before = mark.committable


@given(order=st.permutations(range(8)), size=st.integers(1, 8))
def test_records_settled_together_move_it_as_one_by_one(order: list[int], size: int):
    together, each = begun(40, *range(40, 48)), begun(40, *range(40, 48))

    for at in range(0, 8, size):
        offsets = sorted(40 + number for number in order[at : at + size])
        together.settle_all(offsets)
        for offset in offsets:
            each.settle(offset)

        assert together.committable == each.committable
        assert (together.unsettled, together.settled_records) == (
            each.unsettled, each.settled_records,
        )  # fmt: skip


@pytest.mark.parametrize("offsets", [[41, 42], [40, 41], [42, 43], [39, 40]])
def test_records_settled_together_are_settled_once_and_after_they_begin(offsets: list[int]):
    mark = begun(40, 40, 41, 42)
    mark.settle_all([41])

    with pytest.raises(AssertionError):
        mark.settle_all(offsets)
