"""Records of one partition in offset order, as the client gave them: nothing of them is read yet.

Most records need no more than to be run and settled, so they are carried in columns, and an entry
(core/lane.py) is made only of one that needs more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from processor.model import Message


class Stretch:
    """Messages and their offsets, side by side. It is not changed once it is made.

    >>> stretch = Stretch(["a", "b", "c"], [4, 5, 9])
    >>> stretch.without({5}).offsets, stretch.split(1)[1].messages
    ([4, 9], ['b', 'c'])
    """

    __slots__ = ("messages", "offsets")

    def __init__(self, messages: list[Message], offsets: list[int]) -> None:
        assert len(messages) == len(offsets)
        self.messages = messages
        self.offsets = offsets

    @staticmethod
    def rising(messages: Sequence[Message], start: int) -> Stretch:
        """Those from `start` on, without any that comes again behind a later one."""
        offsets: list[int] = [each.offset() for each in messages]  # type: ignore[misc]
        if offsets and offsets[0] >= start:
            # Without gaps, as they nearly always come: compared at once.
            one_by_one = offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            if one_by_one or offsets == sorted(set(offsets)):
                return Stretch(list(messages), offsets)
        kept: list[Message] = []
        for message, offset in zip(messages, offsets, strict=True):
            if offset >= start:
                kept.append(message)
                start = offset + 1
        return Stretch(kept, [each.offset() or 0 for each in kept])

    def __len__(self) -> int:
        return len(self.offsets)

    def split(self, count: int) -> tuple[Stretch, Stretch]:
        """The first `count` records, and the rest."""
        first = Stretch(self.messages[:count], self.offsets[:count])
        return first, Stretch(self.messages[count:], self.offsets[count:])

    def joined(self, later: Stretch) -> Stretch:
        """These records and others, which come later but for those that were set aside."""
        messages, offsets = self.messages + later.messages, self.offsets + later.offsets
        if self.offsets[-1] > later.offsets[0]:
            order = sorted(range(len(offsets)), key=offsets.__getitem__)
            messages, offsets = [messages[at] for at in order], [offsets[at] for at in order]
        return Stretch(messages, offsets)

    def without(self, offsets: Collection[int]) -> Stretch:
        """The records but those at these offsets."""
        left = [at for at, offset in enumerate(self.offsets) if offset not in offsets]
        return Stretch([self.messages[at] for at in left], [self.offsets[at] for at in left])
