from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.checker import Job, Verdict, fails, judge, must_die, rejects

A0, A1, A2, B0 = Job("a", 0), Job("a", 1), Job("a", 2), Job("b", 0)
GOOD = Verdict([], [], [], [], [], [], dead=1)


def judged(
    effects: list[Job], letters: tuple[Job, ...] = (A1,), unanswered: tuple[Job, ...] = ()
) -> Verdict:
    return judge(
        accepted=[A0, A1, A2, B0],
        unanswered=unanswered,
        effects=effects,
        letters=letters,
        dies=lambda job: job == A1,
    )


def test_good_run_is_good():
    verdict = judged([B0, A0, A2])

    assert verdict == GOOD
    assert verdict.good


@pytest.mark.parametrize(
    ("effects", "letters", "told"),
    [
        ([A0, A2], (A1,), {"lost": [B0]}),
        ([A0, A2, B0], (), {"lost": [A1], "dead": 0}),
        ([A0, A2, B0, A2], (A1,), {"effects_twice": [A2]}),
        ([A2, A0, B0], (A1,), {"order_violations": ["a"]}),
        ([A0, A2, B0], (A1, A2), {"false_dead": [A2], "dead": 2}),
        ([A0, A2], (A1, B0), {"false_dead": [B0], "dead": 2}),
        ([A0, A1, A2, B0], (), {"alive": [A1], "dead": 0}),
        ([A0, A2, B0, Job("c", 5)], (A1,), {"unknown": [Job("c", 5)]}),
    ],
)
def test_each_kind_of_fault_is_seen(
    effects: list[Job], letters: tuple[Job, ...], told: dict[str, object]
):
    verdict = judged(effects, letters)

    assert verdict == replace(GOOD, **told)
    assert not verdict.good


def test_job_whose_submission_was_not_answered_may_be_there_or_not():
    assert judged([A0, A2, B0], unanswered=(Job("a", 3),)).good
    assert judged([A0, A2, B0, Job("a", 3)], unanswered=(Job("a", 3),)).good


def test_jobs_fail_as_often_as_they_should():
    jobs = [Job(f"k{n % 50}", n // 50) for n in range(20_000)]

    assert 0.09 < sum(fails(1, job, 1) for job in jobs) / len(jobs) < 0.11
    assert 5 < sum(rejects(1, job) for job in jobs) < 50
    assert sum(must_die(1, job) for job in jobs) >= sum(rejects(1, job) for job in jobs)
    assert fails(1, jobs[0], 1) == fails(1, jobs[0], 1)
