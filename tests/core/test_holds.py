from __future__ import annotations

from processor.core.holds import Closed, Holds

A, B = b"a", b"b"


def test_nothing_is_held_before_a_death():
    assert not Holds({}).held(A, replay=0, offset=1)


def test_death_closes_its_key_alone():
    holds = Holds({})

    holds.close(A, Closed(replay=0, offset=7))

    assert holds.held(A, replay=0, offset=8)
    assert not holds.held(B, replay=0, offset=8)
    assert not holds.held(None, replay=0, offset=8)
    assert holds.behind(A) == 7


def test_dead_job_itself_is_not_held():
    holds = Holds({A: Closed(replay=0, offset=7)})

    assert not holds.held(A, replay=0, offset=7)


def test_newer_replay_passes_and_an_older_one_does_not():
    holds = Holds({A: Closed(replay=3, offset=7)})

    assert holds.held(A, replay=3, offset=8)
    assert not holds.held(A, replay=4, offset=8)


def test_late_death_of_an_older_replay_changes_nothing():
    holds = Holds({A: Closed(replay=3, offset=7)})

    holds.close(A, Closed(replay=2, offset=5))

    assert holds.behind(A) == 7
    assert holds.held(A, replay=3, offset=8)


def test_opened_key_holds_no_more():
    holds = Holds({A: Closed(replay=0, offset=7)})

    holds.open(A)
    holds.open(A)

    assert not holds.held(A, replay=0, offset=8)
    assert len(holds) == 0


def test_job_without_a_key_closes_nothing():
    holds = Holds({})

    holds.close(None, Closed(replay=0, offset=7))

    assert len(holds) == 0


def test_under_the_policy_continue_nothing_is_closed():
    holds = Holds()

    holds.close(A, Closed(replay=0, offset=7))

    assert not holds.enabled
    assert not holds.held(A, replay=0, offset=8)


def test_telling_ends_with_the_last_note():
    holds = Holds({})
    holds.tell(A)
    holds.tell(A)

    holds.told(A)
    still = holds.telling(A)
    holds.told(A)

    assert still
    assert not holds.telling(A)
    assert not holds.telling(B)
