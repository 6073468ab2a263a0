"""Judge the demo's end from what is there: the objects in S3, the effects' table, the letters."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from processor.contracts.claims import CHUNK_BYTES, ObjectStore
from processor.contracts.topics import Topic
from processor.dead import dead_letters
from processor.demo.sources import Wish
from processor.errors import ContractError
from processor.settings import Settings


@dataclass(frozen=True, slots=True)
class Order:
    """One submitted job: what was wished, where it should be, and its id."""

    wish: Wish
    target: str
    job_id: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of all jobs.

    `falsely_dead`: jobs that could have succeeded and are dead. `wrong`: objects that differ from
    their source. `faults` names each bad job, for a person to look into.
    """

    submitted: int
    succeeded: int
    retried: int
    dead: int
    lost: int
    effects_twice: int
    order_violations: int
    falsely_dead: int
    wrong: int
    faults: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, out of order or wrong, and the right jobs died."""
        bad = (self.lost, self.effects_twice, self.order_violations, self.falsely_dead, self.wrong)
        return not any(bad)


def judge(
    orders: Sequence[Order],
    *,
    settings: Settings,
    topic: Topic,
    objects: ObjectStore,
    database: Path,
) -> Verdict:
    """Compare every object with its source, and every effect with its order."""
    effects = _effects(database)
    letters = {letter.job.job_id: letter.hop for letter in dead_letters(settings, topic)}
    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda order: _same(order, objects), orders))
    place = {order.job_id: at for at, order in enumerate(orders)}
    counts = Counter(job_id for job_id, _, _ in effects)
    lost = [
        order
        for at, order in enumerate(orders)
        if order.job_id not in letters and (not same[at] or order.job_id not in counts)
    ]
    dead = [each for each in orders if each.wish.path is not None and each.job_id in letters]
    wrong = [each for at, each in enumerate(orders) if each.job_id in counts and not same[at]]
    faults = [f"lost: job {each.job_id}, {each.wish.uri}" for each in lost]
    faults += [
        f"falsely dead: job {each.job_id}, {each.wish.uri}:"
        f" {letters[each.job_id].error_class}: {letters[each.job_id].error_message}"
        for each in dead
    ]
    faults += [f"wrong: job {each.job_id}, {each.target}" for each in wrong]
    return Verdict(
        submitted=len(orders),
        succeeded=len(counts),
        retried=sum(attempt > 1 for _, _, attempt in effects),
        dead=len(letters),
        lost=len(lost),
        effects_twice=sum(count - 1 for count in counts.values()),
        order_violations=_violations(effects, place),
        falsely_dead=len(dead),
        wrong=len(wrong),
        faults=tuple(faults),
    )


def _effects(database: Path) -> list[tuple[str, str, int]]:
    """Read (job id, key, attempt) of every effect, in the order in which they were committed."""
    connection = sqlite3.connect(database)
    try:
        return connection.execute(
            "SELECT job_id, job_key, attempt FROM effect ORDER BY place"
        ).fetchall()
    finally:
        connection.close()


def _violations(effects: Sequence[tuple[str, str, int]], place: dict[str, int]) -> int:
    """Count the effects that came after one of a later job of their key."""
    latest: dict[str, int] = {}
    violations = 0
    for job_id, key, _ in effects:
        violations += place[job_id] < latest.get(key, -1)
        latest[key] = max(place[job_id], latest.get(key, -1))
    return violations


def _same(order: Order, objects: ObjectStore) -> bool:
    """Tell whether the target holds exactly the source's bytes."""
    if order.wish.path is None:
        return False
    digest = hashlib.sha256()
    try:
        with objects.open(order.target) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    except ContractError:
        return False
    return digest.hexdigest() == hashlib.sha256(order.wish.path.read_bytes()).hexdigest()
