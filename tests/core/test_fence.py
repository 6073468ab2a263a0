from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.fence import Fence

K = b"k"


def fence_of(*copies: tuple[bytes | None, int, str]) -> Fence:
    fence = Fence()
    for key, tier, copy in copies:
        fence.add(key, tier=tier, copy=copy)
    return fence


@pytest.mark.parametrize(
    ("copies", "tier", "ahead"),
    [
        ([], 0, None),
        ([(K, 1, "x")], 0, 1),
        ([(K, 1, "x")], 1, None),
        ([(K, 2, "x")], 0, 2),
        ([(K, 2, "x")], 1, 2),
        ([(K, 2, "x")], 2, None),
        # The nearest: in the farthest it would pass the one that waits in between.
        ([(K, 3, "x"), (K, 1, "y"), (K, 2, "z")], 0, 1),
        ([(K, 3, "x"), (K, 1, "y")], 1, 3),
        ([(b"other", 1, "x")], 0, None),
    ],
)
def test_nearest_tier_ahead(
    copies: list[tuple[bytes | None, int, str]], tier: int, ahead: int | None
):
    fence = fence_of(*copies)

    assert fence.tier_ahead(K, tier=tier) == ahead


def test_key_is_free_when_its_last_copy_is_removed():
    fence = fence_of((K, 1, "x"), (K, 1, "y"))

    fence.remove(K, copy="x")
    one_left = fence.tier_ahead(K, tier=0)
    fence.remove(K, copy="y")

    assert one_left == 1
    assert fence.tier_ahead(K, tier=0) is None
    assert (fence.held, fence.keys) == (0, 0)


def test_removing_an_absent_copy_does_nothing():
    fence = fence_of((K, 1, "x"))

    fence.remove(K, copy="y")
    fence.remove(b"other", copy="x")
    fence.remove(None, copy="x")

    assert (fence.held, fence.tier_ahead(K, tier=0)) == (1, 1)


def test_copy_added_twice_counts_once():
    fence = fence_of((K, 1, "x"), (K, 1, "x"))

    held = fence.held
    fence.remove(K, copy="x")

    assert held == 1
    assert fence.tier_ahead(K, tier=0) is None


def test_no_key_holds_nothing():
    fence = fence_of((None, 1, "x"))

    assert fence.tier_ahead(None, tier=0) is None
    assert (fence.held, fence.keys) == (0, 0)


@pytest.mark.parametrize(("tier", "copy"), [(0, "x"), (1, "")])
def test_copy_has_a_tier_and_a_name(tier: int, copy: str):
    fence = Fence()

    with pytest.raises(AssertionError):
        fence.add(K, tier=tier, copy=copy)

    assert fence.held == 0


@settings(derandomize=True, database=None, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([b"a", b"b"]), st.integers(1, 3),
                  st.sampled_from("xyz")),
        max_size=40,
    )
)  # fmt: skip
def test_fence_agrees_with_a_plain_set(steps: list[tuple[bool, bytes, int, str]]):
    fence = Fence()
    plain: dict[tuple[bytes, str], int] = {}

    for add, key, tier, copy in steps:
        if add:
            fence.add(key, tier=tier, copy=copy)
            plain[key, copy] = tier
        else:
            fence.remove(key, copy=copy)
            plain.pop((key, copy), None)

    assert fence.held == len(plain)
    assert fence.keys == len(Counter(key for key, _ in plain))
    for key in (b"a", b"b"):
        for at in range(4):
            ahead = [tier for (other, _), tier in plain.items() if other == key and tier > at]
            assert fence.tier_ahead(key, tier=at) == min(ahead, default=None)
