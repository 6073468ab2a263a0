from __future__ import annotations

from processor.core.floor import Floor


def test_marker_raises_the_floor_only_for_what_lies_behind_it():
    floor = Floor(start=0, epoch=1)

    floor.raise_at(5, epoch=3)

    assert [floor.at(4), floor.at(5), floor.at(6)] == [1, 1, 3]


def test_marker_below_the_floor_means_nothing():
    floor = Floor(start=0, epoch=4)

    floor.raise_at(5, epoch=2)

    assert floor.epoch == floor.at(9) == 4


def test_floor_survives_forgetting_what_was_committed():
    floor = Floor(start=0, epoch=1)
    floor.raise_at(2, epoch=2)
    floor.raise_at(6, epoch=3)

    floor.forget(5)

    assert [floor.at(5), floor.at(6), floor.at(7)] == [2, 2, 3]
