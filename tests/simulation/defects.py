"""Planted defects: each switches one rule off, and the simulator must notice.

A checker that cannot go red shows nothing. Each defect names what it breaks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from processor.core.assignment import Assignment
from processor.core.fence import Fence
from processor.core.floor import Floor
from processor.core.holds import Closed, Holds
from processor.core.lane import Entry, Lane
from processor.core.stretch import Stretch
from processor.core.watermark import Watermark
from processor.engine import journey, takeover
from processor.engine.intake import Intake
from processor.engine.journey import Copy, EndReplay, Hold, Run
from processor.engine.parking import Parking
from processor.engine.ports import Death, Owner
from processor.engine.settlement import Settlement
from processor.engine.slices import Slice
from processor.engine.takeover import Takeover
from processor.model import Outgoing, Partition
from processor.testing.memory_ledger import MemoryLedger


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put another thing in the place of a method while a world runs."""
    kept = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def commit_highest_seen() -> Iterator[None]:
    """Commit what was seen, not what is settled."""
    with replaced(Watermark, "committable", property(lambda mark: mark._next)):
        yield


@contextmanager
def no_fence() -> Iterator[None]:
    """Let a later record pass whatever waits."""
    with replaced(Fence, "tier_ahead", lambda fence, key, *, tier: None):
        yield


@contextmanager
def farthest_tier() -> Iterator[None]:
    """Join the farthest tier ahead instead of the nearest."""

    def farthest(fence: Fence, key: bytes | None, *, tier: int) -> int | None:
        tiers = fence.tiers(key) if key is not None else ()
        return max((ahead for ahead in tiers if ahead > tier), default=None)

    with replaced(Fence, "tier_ahead", farthest):
        yield


@contextmanager
def ask_on_arrival() -> Iterator[None]:
    """Ask the fence when a record arrives and not at the head of the lane."""
    admit, arrive = journey.admit, journey.arrive
    answers: dict[int, Run | Hold] = {}

    def early(lane: Lane, record: Any, assignment: Assignment) -> Any:
        entry = arrive(lane, record, assignment)
        if isinstance(entry, Entry):
            answers[id(entry)] = admit(entry, assignment, 0.0)
        return entry

    journey.arrive = early
    journey.admit = lambda entry, assignment, now: answers.get(id(entry), Run())
    try:
        yield
    finally:
        journey.arrive, journey.admit = arrive, admit


@contextmanager
def no_scan() -> Iterator[None]:
    """Admit records before it is known what waits in the tiers."""
    with replaced(Takeover, "_scan", lambda takeover, looked_at: {}):
        yield


@contextmanager
def forget_the_dead() -> Iterator[None]:
    """Keep no memory of deaths."""

    def dying(ledger: MemoryLedger, owner: Owner, deaths: Sequence[Death]) -> set[str]:
        return set()

    with replaced(MemoryLedger, "dying", dying):
        yield


@contextmanager
def turn_does_not_wait_for_the_death_note() -> Iterator[None]:
    """Let the next job of a key run before the death of the one before it is durable."""
    put_back, let_go = Lane.put_back, Lane.let_go

    def put_back_any(lane: Lane, entries: Iterable[Entry]) -> None:
        for entry in reversed(list(entries)):  # Its turn may be neither busy nor suspended.
            lane._suspended[entry.turn] += 1
            put_back(lane, [entry])
            let_go(lane, entry.turn)

    with (
        replaced(Lane, "suspend", lambda lane, turn: None),
        replaced(Lane, "let_go", lambda lane, turn: None),
        replaced(Lane, "put_back", put_back_any),
    ):
        yield


@contextmanager
def land_over_a_gap() -> Iterator[None]:
    """Put a copy that has landed into its lane though what lies before it is not there yet."""
    land = journey.land

    def jump(copy: Copy, offset: int, assignment: Assignment, now: float) -> None:
        tier = assignment.tier_of(copy.outgoing.topic)
        if tier is not None:
            mark = assignment.lanes[tier].watermark
            mark._next = max(mark._next, offset)
        land(copy, offset, assignment, now)

    with replaced(journey, "land", jump):
        yield


@contextmanager
def settle_before_the_ack() -> Iterator[None]:
    """Settle a record when its copy is sent, not when it is acknowledged."""
    advance = Settlement._advance

    def early(settlement: Settlement, settling: Any) -> None:
        if settling.steps and all(isinstance(step, Copy | Outgoing) for step in settling.steps):
            for step in settling.steps:
                sent = step.outgoing if isinstance(step, Copy) else step
                settlement._log.send(sent, _Nobody())
            settling.steps.clear()
        advance(settlement, settling)

    with replaced(Settlement, "_advance", early):
        yield


class _Nobody:
    """The token of an answer that nobody waits for."""

    append = None

    class assignment:  # noqa: N801 - stands for an attribute.
        dropped = True


@contextmanager
def same_tier_again() -> Iterator[None]:
    """Append a failed job to the tail of its own tier."""
    judge = journey.after_failure

    def again(failure: Any, *, tier: int, **more: Any) -> Any:
        verdict = judge(failure, tier=tier, **more)
        if tier > 0 and hasattr(verdict, "tier"):
            return type(verdict)(tier=tier, not_before=verdict.not_before, failure=failure)
        return verdict

    journey.after_failure = again
    try:
        yield
    finally:
        journey.after_failure = judge


@contextmanager
def leak_fence_entries() -> Iterator[None]:
    """Never remove a key from the fence."""
    with replaced(Fence, "remove", lambda fence, key, *, copy: None):
        yield


@contextmanager
def skip_the_marker() -> Iterator[None]:
    """Take a partition over without closing its tiers to older owners."""

    def unmarked(takeover: Takeover, assignments: Any) -> dict[Partition, int]:
        each = [p for a in assignments for p in a.positions[1:]]
        return {p: end for p, (_, end) in takeover.log.bounds(each).items()}

    with (
        replaced(Takeover, "_mark", unmarked),
        replaced(takeover._Sight, "pass_by", lambda sight, partition: None),
    ):
        yield


@contextmanager
def accept_a_late_epoch() -> Iterator[None]:
    """Run copies whose writer had lost the partition."""
    with (
        replaced(Floor, "raise_at", lambda floor, offset, *, epoch: None),
        replaced(Floor, "epoch", property(lambda floor: 0)),
    ):
        yield


@contextmanager
def no_epoch_in_the_ledger() -> Iterator[None]:
    """Let a worker that lost its partition write effects."""
    with replaced(MemoryLedger, "_check", lambda ledger, owner: None):
        yield


@contextmanager
def hold_before_the_fence() -> Iterator[None]:
    """Ask whether the key is held before asking what waits in the tiers."""
    admit = journey.admit

    def early(entry: Entry, assignment: Assignment, now: float) -> Any:
        hop, key = entry.hop, entry.record.key
        held = assignment.holds.held(key, replay=hop.replay, offset=hop.origin.offset)
        return Hold() if held and not hop.ends_replay else admit(entry, assignment, now)

    journey.admit = early
    try:
        yield
    finally:
        journey.admit = admit


@contextmanager
def replayed_death_closes_nothing() -> Iterator[None]:
    """Let a replay go on behind a job that died in it."""
    close, keep = Holds.close, MemoryLedger._close

    def close_first(holds: Holds, key: bytes | None, closed: Closed) -> None:
        if closed.replay == 0:
            close(holds, key, closed)

    def keep_first(ledger: MemoryLedger, owner: Owner, death: Death) -> None:
        if death.replay == 0:
            keep(ledger, owner, death)

    with replaced(Holds, "close", close_first), replaced(MemoryLedger, "_close", keep_first):
        yield


@contextmanager
def open_at_once() -> Iterator[None]:
    """Let an end record open its key whatever is held behind it."""

    def end_replay(ledger: MemoryLedger, owner: Owner, key: bytes, replay: int) -> bool:
        ledger.closed.get(owner[:3], {}).pop(key, None)
        return True

    with replaced(MemoryLedger, "end_replay", end_replay):
        yield


@contextmanager
def end_passes_the_fence() -> Iterator[None]:
    """Let an end record pass its replay's retries."""
    admit = journey.admit

    def early(entry: Entry, assignment: Assignment, now: float) -> Any:
        return EndReplay() if entry.hop.ends_replay else admit(entry, assignment, now)

    journey.admit = early
    try:
        yield
    finally:
        journey.admit = admit


@contextmanager
def forget_the_letter() -> Iterator[None]:
    """Settle a dead job without its letter."""
    begin = Settlement._begin

    def without(
        settlement: Settlement, entry: Any, assignment: Any, steps: Any, death: Any
    ) -> None:
        kept = [s for s in steps if not (isinstance(s, Copy) and s.outgoing.topic == "t.dlt")]
        begin(settlement, entry, assignment, deque(kept), death)

    with replaced(Settlement, "_begin", without):
        yield


@contextmanager
def never_pause() -> Iterator[None]:
    """Take in more than there is room for."""
    with replaced(Intake, "regulate", lambda intake, lanes: None):
        yield


@contextmanager
def pass_a_failed_key() -> Iterator[None]:
    """Let a slice go on with the key of a job that failed in it."""
    with replaced(Slice, "skips", lambda work, key: False):
        yield


@contextmanager
def stretch_passes_the_fence() -> Iterator[None]:
    """Admit a stretch without asking the fence for its keys."""
    behind = journey.behind
    journey.behind = lambda stretch, assignment: Stretch([], [])
    try:
        yield
    finally:
        journey.behind = behind


@contextmanager
def come_back_last() -> Iterator[None]:
    """Let what was set aside come back behind what came later."""

    def take_back(lane: Lane, key: bytes) -> None:
        _, failed, messages = lane.aside.pop(key)
        if failed is not None:
            lane._tried[failed.record.offset] = failed
            messages.insert(0, failed.message)
        lane.waiting += len(messages)
        if messages:
            lane._fresh.append(Stretch(messages, [each.offset() or 0 for each in messages]))

    def joined(stretch: Stretch, later: Stretch) -> Stretch:
        return Stretch(stretch.messages + later.messages, stretch.offsets + later.offsets)

    def settle_all(mark: Watermark, offsets: Sequence[int]) -> None:
        for offset in offsets:
            mark.settle(offset)

    with (
        replaced(Lane, "take_back", take_back),
        replaced(Stretch, "joined", joined),
        replaced(Watermark, "settle_all", settle_all),
    ):
        yield


@contextmanager
def park_before_what_is_aside() -> Iterator[None]:
    """Park a record though older ones of its key are set aside, which are parked later."""
    park = Parking._park_aside

    def later(parking: Parking, key: bytes, assignment: Assignment, now: float) -> None:
        if key in assignment.lanes[0].aside.overdue(parking._clock.monotonic()):
            park(parking, key, assignment, now)

    with replaced(Parking, "_park_aside", later):
        yield


@contextmanager
def park_the_failed_last() -> Iterator[None]:
    """Park the records behind a failed job before it."""

    def park_aside(parking: Parking, key: bytes, assignment: Assignment, now: float) -> None:
        lane = assignment.lanes[0]
        _, failed, records = lane.aside.pop(key)
        for message in records:
            parking._park(lane.entry_of(message), assignment, now)
        if failed is not None:
            parking._settlement.park_failed(failed, assignment)

    with replaced(Parking, "_park_aside", park_aside):
        yield


@contextmanager
def pass_copies_by() -> Iterator[None]:
    """Begin behind our marker whatever stands before it."""
    pass_by = takeover._Sight.pass_by

    def always(sight: Any, partition: Partition) -> None:
        sight.copies = False
        pass_by(sight, partition)

    with replaced(takeover._Sight, "pass_by", always):
        yield


# Name -> (how it is planted, which checkers must notice).
DEFECTS: Mapping[str, tuple[Callable[[], Any], frozenset[str]]] = {
    "commit highest seen": (
        commit_highest_seen,
        frozenset({"nothing_is_lost", "commits_stay_below_the_watermark"}),
    ),
    "no fence": (no_fence, frozenset({"keys_keep_their_order"})),
    "farthest tier": (farthest_tier, frozenset({"keys_keep_their_order"})),
    "ask the fence on arrival": (ask_on_arrival, frozenset({"keys_keep_their_order"})),
    "no scan": (no_scan, frozenset({"keys_keep_their_order"})),
    "forget the dead": (forget_the_dead, frozenset({"no_letter_is_false"})),
    "turn does not wait for the note": (
        turn_does_not_wait_for_the_death_note,
        frozenset({"keys_keep_their_order"}),
    ),
    "settle before the ack": (settle_before_the_ack, frozenset({"nothing_is_lost"})),
    "land over a gap": (land_over_a_gap, frozenset({"nothing_is_lost"})),
    "same tier again": (same_tier_again, frozenset({"keys_keep_their_order"})),
    "skip the marker": (skip_the_marker, frozenset({"effects_happen_once"})),
    "accept a late epoch": (accept_a_late_epoch, frozenset({"effects_happen_once"})),
    "no epoch in the ledger": (no_epoch_in_the_ledger, frozenset({"effects_happen_once"})),
    "hold before the fence": (hold_before_the_fence, frozenset({"keys_keep_their_order"})),
    "replayed death closes nothing": (
        replayed_death_closes_nothing,
        frozenset({"keys_keep_their_order"}),
    ),
    "end record opens at once": (open_at_once, frozenset({"keys_keep_their_order"})),
    "end record passes the fence": (end_passes_the_fence, frozenset({"keys_keep_their_order"})),
    "forget the letter": (forget_the_letter, frozenset({"nothing_is_lost"})),
    "pass a failed key": (pass_a_failed_key, frozenset({"keys_keep_their_order"})),
    "stretch passes the fence": (stretch_passes_the_fence, frozenset({"keys_keep_their_order"})),
    "come back last": (come_back_last, frozenset({"keys_keep_their_order"})),
    "park before what is aside": (
        park_before_what_is_aside,
        frozenset({"keys_keep_their_order"}),
    ),
    "park the failed last": (park_the_failed_last, frozenset({"keys_keep_their_order"})),
    "pass copies by": (pass_copies_by, frozenset({"nothing_is_lost"})),
    "never pause": (never_pause, frozenset({"bounds_hold"})),
    "leak fence entries": (leak_fence_entries, frozenset({"work_ends"})),
}
