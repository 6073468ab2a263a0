"""The loop: one thread that polls, owns every lane and watermark, appends and commits.

It never runs user code. Pool threads run slices of lanes and hand reports back through a queue
(runs.py); they are judged (journey.py), carried out (settlement.py), and committed as far as the
watermarks allow. Everything of a partition is one `Assignment`, dropped whole when it is revoked.

Revoke: stop intake -> drain within a budget -> commit -> unassign, per partition, inside the
callback. Lost: drop, commit nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from processor.core.assignment import Assignment
from processor.core.lane import Lane
from processor.engine import journey
from processor.engine.intake import Intake
from processor.engine.journey import Usurped
from processor.engine.outages import Outages
from processor.engine.outcomes import away
from processor.engine.ports import Clock, CommitRefused, Ledger, Log, OwnershipLost
from processor.engine.runs import Runs
from processor.engine.settlement import Settlement
from processor.engine.slices import Pool
from processor.engine.takeover import Rules, Takeover
from processor.engine.telemetry import Telemetry
from processor.engine.watch import Watch
from processor.errors import OutageError
from processor.model import Batch, JobStatus, Partition, record_of

POLL_RECORDS_MAX = 4000  # Large: every turn costs the same, and so does every change of threads.
POLL_COROUTINES_MAX = 200  # Small: while so many arrive, no coroutine that ended makes room.
POLL_SECONDS_MAX = 0.1  # Idle: how late a timer may be noticed.
COMMIT_ALL_SECONDS = 600.0
POLL_SECONDS_MIN = 0.001  # Busy: how late a report may be noticed.
HELD_BACK_SECONDS = 0.01  # How late a timer may be noticed while a full lane is waited for.


@dataclass(frozen=True, slots=True)
class Limits:
    """The worker's times and bounds, in seconds and records."""

    slice_records_max: int = 100
    commit_interval_seconds: float = 1.0
    drain_seconds: float = 20.0
    timeout_grace_seconds: float = 5.0
    takeover_again_seconds: float = 1.0
    stall_seconds: float = 600.0
    memory_max: int = 128 * 1024 * 1024  # Bytes in lanes.


class Worker:
    """One member of the group. `run` returns after `stop`, with all that was settled committed.

    `join` and `step`, one turn of the loop, are its parts for a simulator.
    """

    def __init__(
        self,
        *,
        log: Log,
        pool: Pool,
        ledger: Ledger,
        takeover: Takeover,
        rules: Mapping[str, Rules],
        encode_status: Callable[[str, JobStatus], bytes],
        clock: Clock,
        jitter: Callable[[], float],
        telemetry: Telemetry,
        logger: Any,
        limits: Limits,
        worker_id: str,
    ) -> None:
        self._log = log
        self._pool = pool
        self._takeover = takeover
        self._topics = list(rules)
        self._clock = clock
        self._telemetry = telemetry
        self._logger = logger
        self._limits = limits
        self.outages = Outages(clock, telemetry)
        self._settlement = Settlement(
            log=log,
            pool=pool,
            ledger=ledger,
            clock=clock,
            rules=rules,
            encode_status=encode_status,
            owner=takeover.owner,
            worker_id=worker_id,
            telemetry=telemetry,
            logger=logger,
            outages=self.outages,
        )
        self._runs = Runs(
            pool=pool,
            settlement=self._settlement,
            owner=takeover.owner,
            clock=clock,
            jitter=jitter,
            telemetry=telemetry,
            logger=logger,
            slice_records_max=limits.slice_records_max,
            timeout_grace_seconds=limits.timeout_grace_seconds,
        )
        self.intake = Intake(log, clock, self._runs.pace.typical_seconds, limits.memory_max)
        self.watch = Watch(
            log=log,
            pool=pool,
            rules=rules,
            outages=self.outages,
            closed=self._runs.closed,
            clock=clock,
            telemetry=telemetry,
            logger=logger,
            stall_seconds=limits.stall_seconds,
            timeout_grace_seconds=limits.timeout_grace_seconds,
        )
        self._assignments: dict[Partition, Assignment] = {}
        self._lanes: dict[Partition, tuple[Assignment, Lane]] = {}
        self._untaken: dict[Partition, float] = {}  # Ours in the group, to be taken again at.
        self._commit_at = self._refused_until = 0.0  # A refused commit is not repeated at once.
        self._commit_all_at = clock.monotonic() + COMMIT_ALL_SECONDS
        self._quiet_turns = 0
        self._stopping = self._joined = False
        self._turned_at = clock.monotonic()

    @property
    def assignments(self) -> Sequence[Assignment]:
        """What this worker owns now."""
        return list(self._assignments.values())

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def joined(self) -> bool:
        """Whether the group has told this member what it owns, and that was taken over once."""
        return self._joined

    @property
    def turned_at(self) -> float:
        """When the loop last came round (monotonic seconds). Old: it hangs."""
        return self._turned_at

    def stop(self) -> None:
        """Ask `run` to finish or hand back what runs, commit, leave. Safe in a signal handler."""
        self._stopping = True

    def join(self) -> None:
        """Join the group: the first thing that `run` does."""
        self._log.subscribe(self._topics, self)

    def run(self) -> None:
        """Serve the topics until `stop`."""
        self.join()
        while not self._stopping:
            self.step()
        self._logger.info("worker stopping", drain_seconds=self._limits.drain_seconds)
        self.revoked(list(self._assignments))
        self._log.close()
        self._pool.close()
        self._logger.info("worker stopped")

    def step(self) -> None:
        """One turn: consume, collect, admit, commit."""
        self._retake()  # Never inside a rebalance: what is being revoked must not be taken again.
        if self.intake.holds_back:
            self._pool.wait(HELD_BACK_SECONDS)  # Until a slice reports: nothing else makes room.
            batches = []
        else:
            batches = self._log.poll(self._poll_records_max(), self._poll_seconds())
        for batch in batches:
            self._arrive(batch)
            self._telemetry.consumed(batch.partition.topic, len(batch.messages))
        moved = self._turn()
        self.watch.look(self.assignments, self._untaken, self._runs.slices)
        self._quiet_turns = 0 if batches or moved else self._quiet_turns + 1

    def _poll_records_max(self) -> int:
        """How many records to take in a turn. A lane keeps the batch that fills it."""
        coroutines = any(each.is_async for each in self._assignments.values())
        records_max = POLL_COROUTINES_MAX if coroutines else POLL_RECORDS_MAX
        return min(records_max, self._takeover.lane_records_max)

    def _arrive(self, batch: Batch) -> None:
        found = self._lanes.get(batch.partition)
        if found is None:
            return  # Polled after a revoke: not ours to judge.
        assignment, lane = found
        if lane.read is not None:
            lane.arrive_all(batch.messages)
            return
        for message in batch.messages:
            if (message.offset() or 0) < lane.watermark.next_offset:
                continue  # Ours, and here since it landed; or fetched twice, around a pause.
            if isinstance(journey.arrive(lane, record_of(message), assignment), Usurped):
                self._give_up(assignment, "a newer owner has written to its tiers")
                return

    def _turn(self) -> bool:
        """Everything of a step but consuming. Returns whether anything happened."""
        self._turned_at = self._clock.monotonic()
        moved = self._collect()
        self._admit()
        self._runs.police()
        self._settlement.flush()
        self.intake.regulate(self._lanes)
        now = self._clock.monotonic()
        waits = any(self._settlement.waits_for_commit(each) for each in self.assignments)
        if now >= self._commit_at or (waits and now >= self._refused_until):
            self._commit(self.assignments)
        return moved

    def _poll_seconds(self) -> float:
        """How long to wait for records: short while an answer is awaited."""
        if not self._runs.any and all(each.settling == 0 for each in self._assignments.values()):
            wakes = [lane.wakes_at for _, lane in self._lanes.values() if lane.wakes_at is not None]
            until = min(wakes, default=float("inf")) - self._clock.now()
            return max(0.0, min(POLL_SECONDS_MAX, until, self._runs.pace.lingers_seconds))
        return min(POLL_SECONDS_MIN * (1 + self._quiet_turns), 0.02)

    # Collect: answers from the log, errands and slices.

    def _collect(self) -> bool:
        deliveries = self._log.deliveries()
        for assignment in self._settlement.delivered(deliveries):
            self._telemetry.produce_failed(assignment.partition.topic)
            self._give_up(assignment, "an append failed")
        errands = self._pool.errands_done()
        for errand, answer in errands:
            if errand is None:
                raise answer  # A bug on a pool thread: the log replays what was not committed.
            for assignment in self._settlement.noted(errand, answer):
                self._give_up(assignment, "the ledger knows a newer owner")
        reported, lost = self._runs.collect()
        for assignment in lost:
            self._give_up(assignment, "the ledger knows a newer owner")
        return bool(deliveries or errands or reported)

    # Admit: the first of the assignments is served first.

    def _admit(self) -> None:
        if self._runs.admit(list(self._assignments.values())):
            # The pool is short: let another partition be first the next time.
            first = next(iter(self._assignments))
            self._assignments[first] = self._assignments.pop(first)

    # Commit: only what the watermarks allow.

    def _commit(self, assignments: Sequence[Assignment]) -> bool:
        """Commit every watermark that has moved. Returns whether all is committed."""
        self._commit_at = self._clock.monotonic() + self._limits.commit_interval_seconds
        # Kafka forgets offsets of topics that a group has not subscribed to: repeat quiet ones.
        every = self._clock.monotonic() >= self._commit_all_at
        moved = {
            partition: self._takeover.position(each, partition)
            for each in assignments
            for partition in (each.positions if every else self._uncommitted(each))
        }
        if not moved:
            return True
        self.watch.tell_commit_age(self.assignments)  # It may hang.
        try:
            self._log.commit(moved)
        except (CommitRefused, OutageError) as fault:
            # From now on: it may have taken longer than the interval, and the loop has more to do.
            again = self._clock.monotonic() + self._limits.commit_interval_seconds
            self._commit_at = self._refused_until = again
            self._telemetry.committed("refused" if isinstance(fault, CommitRefused) else "failed")
            if isinstance(fault, OutageError):
                self.outages.heard("broker")
            self._logger.warning("commit not accepted; it will be repeated", why=fault.message)
            return False
        self._telemetry.committed("done")
        if every:
            self._commit_all_at = self._clock.monotonic() + COMMIT_ALL_SECONDS
        for each in assignments:
            for partition in each.positions:
                if partition in moved:
                    each.noted_commit(partition, moved[partition].offset or 0)
            each.forget_letters()
        self.watch.tell_commit_age(self.assignments)
        self._settlement.committed(each for each in assignments if each.partition in moved)
        return True

    def _uncommitted(self, assignment: Assignment) -> Iterable[Partition]:
        """What has moved; main too where a job waits for a commit, whichever it is."""
        moved = assignment.uncommitted()
        if self._settlement.waits_for_commit(assignment):
            moved.setdefault(assignment.partition, 0)
        return moved

    # Rebalance: called from inside `poll`.

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Take these main partitions and their satellites over."""
        self._telemetry.rebalanced("assigned")
        for partition in partitions:
            self._untaken[partition] = 0.0
        self._joined |= not self._untaken  # More members than partitions: there is nothing to take.
        self._retake()

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Drain within the budget, commit, drop, unassign."""
        self._telemetry.rebalanced("revoked")
        mine = [self._assignments[each] for each in partitions if each in self._assignments]
        started = self._clock.monotonic()
        self._drain(mine, started + self._limits.drain_seconds)
        for _ in range(3):  # A refusal in the middle of a rebalance may be answered on repeating.
            if self._commit([each for each in mine if not each.dropped]):
                break
        self._telemetry.drained(self._clock.monotonic() - started)
        self._drop(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Drop these: they may be another's already, so nothing is committed."""
        self._telemetry.rebalanced("lost")
        self._logger.warning("partitions lost", partitions=[str(each) for each in partitions])
        self._drop(partitions)

    def _drain(self, mine: Sequence[Assignment], until: float) -> None:
        for assignment in mine:
            assignment.draining = True
        self._runs.drain(mine)
        while any(not each.quiet for each in mine if not each.dropped):
            left = until - self._clock.monotonic()
            if left <= 0:
                self._logger.warning(
                    "jobs outlive the drain budget; their next owner runs them again",
                    jobs=sum(each.running for each in mine),
                )
                return
            self._pool.wait(min(left, 0.005))
            self._turn()

    def _drop(self, partitions: Sequence[Partition]) -> None:
        """Forget all of these partitions at once, whatever is still on its way."""
        gone: list[Partition] = []
        for partition in partitions:
            self._untaken.pop(partition, None)
            assignment = self._assignments.pop(partition, None)
            if assignment is None:
                continue
            assignment.dropped = True
            gone += assignment.partitions
            for each in assignment.partitions:
                del self._lanes[each]
            self.intake.forget(assignment.partitions)
            self._runs.cancel(assignment)
            self._settlement.forget(assignment)
        if gone:
            self._log.unassign(gone)

    def _give_up(self, assignment: Assignment, why: str) -> None:
        """Drop a partition that another may own, and take it again if it is still ours."""
        if assignment.dropped:
            return
        self._logger.error("partition given up", partition=str(assignment.partition), why=why)
        self._drop([assignment.partition])
        again = self._clock.monotonic() + self._limits.takeover_again_seconds
        self._untaken[assignment.partition] = again

    def _retake(self) -> None:
        """Take over what the group gave us and is not taken yet."""
        now = self._clock.monotonic()
        due = [each for each, at in self._untaken.items() if at <= now]
        # Others that leave at the same time hand their partitions to us: they go on with the next.
        if not due or self._stopping:
            return
        try:
            taken = self._takeover.take(due)
        except (CommitRefused, OwnershipLost, OutageError) as fault:
            self._logger.warning("takeover refused; it will be repeated", why=fault.message)
            for partition in due:
                self._untaken[partition] = now + self._limits.takeover_again_seconds
                if isinstance(fault, OutageError):
                    self.outages.heard(away(fault), partition)
            return
        for assignment in taken:
            del self._untaken[assignment.partition]
            self._assignments[assignment.partition] = assignment
            for partition, lane in zip(assignment.partitions, assignment.lanes, strict=True):
                self._lanes[partition] = (assignment, lane)
            self._logger.info(
                "partition taken over", partition=str(assignment.partition), epoch=assignment.epoch
            )
        lanes = [each for a in taken for each in zip(a.partitions, a.lanes, strict=True)]
        self._log.assign({partition: lane.watermark.next_offset for partition, lane in lanes})
        self._joined |= not self._untaken
