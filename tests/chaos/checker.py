"""The judge: what was submitted, the sink's rows and the letters are all that it looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import NamedTuple

ATTEMPTS_MAX = 4


class Job(NamedTuple):
    key: str
    seq: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`dead` is not a fault: what fails for good must die. All the others are."""

    lost: list[Job]
    effects_twice: list[Job]
    order_violations: list[str]  # Keys.
    false_dead: list[Job]  # Dead, and took effect; or dead, and would have lived.
    alive: list[Job]  # Took effect, and should have died.
    unknown: list[Job]  # Effects of jobs that nobody submitted.
    dead: int

    @property
    def good(self) -> bool:
        return not any((self.lost, self.effects_twice, self.order_violations, self.false_dead,
                        self.alive, self.unknown))  # fmt: skip


def chance(seed: int, *parts: object) -> int:
    """A number from 0 to 9,999 that depends on nothing else."""
    digest = md5(":".join(map(str, (seed, *parts))).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 10_000


def rejects(seed: int, job: Job) -> bool:
    """One job in a thousand is refused for good."""
    return chance(seed, job.key, job.seq) < 10


def fails(seed: int, job: Job, attempt: int) -> bool:
    """One attempt in ten fails."""
    return chance(seed, job.key, job.seq, attempt) < 1000


def must_die(seed: int, job: Job) -> bool:
    tries = range(1, ATTEMPTS_MAX + 1)
    return rejects(seed, job) or all(fails(seed, job, attempt) for attempt in tries)


def judge(
    *,
    accepted: Collection[Job],
    unanswered: Collection[Job] = (),
    effects: Sequence[Job],
    letters: Collection[Job],
    dies: Callable[[Job], bool],
) -> Verdict:
    """Compare them. `unanswered` were sent and neither accepted nor refused: they may be there."""
    counts = Counter(effects)
    known = {*accepted, *unanswered}
    dead = set(letters)
    latest: dict[str, int] = {}
    disordered: set[str] = set()
    for key, seq in effects:
        if seq < latest.get(key, -1):
            disordered.add(key)
        latest[key] = max(seq, latest.get(key, -1))
    return Verdict(
        lost=[job for job in accepted if job not in counts and job not in dead],
        effects_twice=[job for job, count in counts.items() if count > 1],
        order_violations=sorted(disordered),
        false_dead=sorted(job for job in dead if job in counts or not dies(job)),
        alive=sorted(job for job in counts if dies(job)),
        unknown=sorted({*counts, *dead} - known),
        dead=len(dead),
    )
