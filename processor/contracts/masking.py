"""Values that must not be told: wherever one turns up in a text, it is shown as `***`.

While a job with decrypted values is in hand, `hiding` names them; what describes an error or writes
a log line in that time asks `masked`. A value is found as it is, and as repr, JSON and URLs write
it, in any case of its letters. What a handler makes of it otherwise nobody can know.

No pattern of `re` does it: compiling one for each job takes longer than most jobs, and `re` keeps
the last 512, with the values in them.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote_plus

MASK: Final = "***"
WORD_LENGTH_MAX: Final = 3  # Shorter values are masked only as whole words.
NAME_LENGTH_MIN: Final = 8  # A name (key, id) may hold a shorter value by chance.
SPELLED_LENGTH_MIN: Final = 256  # A value up to this length is spelled for any text.
WAY_GROWTH_MAX: Final = 12  # A URL writes a letter of four bytes so.
GATE_LENGTH: Final = WORD_LENGTH_MAX + 1
HEAD_LENGTH_MAX: Final = 32
TAIL_LENGTH: Final = 8
# Characters that may be compared for a text and for each of its own. Ordinary texts need few;
# "aaa…" in a longer "aaaa…" would need the product of both lengths.
EFFORT_MAX: Final = 100_000
EFFORT_PER_LETTER_MAX: Final = 512
LOOK_EFFORT: Final = 128  # What one look costs, in such characters.
# Characters of all values that are spelled; a short value takes as much as so many of them. More
# would take seconds and hundreds of MiB for one line of a log.
SPELLED_MAX: Final = 2_000_000
SPELLED_EACH: Final = 40

Span = tuple[int, int]
_Ends = tuple[set[str], set[str]]  # The last characters of texts of one length, and the texts.


class Plaintexts:
    """Decrypted values. Falsy where there are none; they are spelled when first needed."""

    __slots__ = ("_spellings", "_values")

    def __init__(self, values: Iterable[str | bytes]) -> None:
        self._values = frozenset(value for value in values if value)
        self._spellings: _Spellings | None = None

    def __bool__(self) -> bool:
        return bool(self._values)

    def __add__(self, other: Plaintexts) -> Plaintexts:
        return Plaintexts(self._values | other._values)

    def mask(self, text: str, *, length_max: int = sys.maxsize) -> str:
        """Give the text with `***` for each value in it.

        Of a text longer than `length_max`, what stands in so many of its characters is given.
        """
        if len(text) > length_max:  # A value that begins in them is seen as a whole.
            text = text[: length_max + WAY_GROWTH_MAX * max(map(len, self._values), default=0)]
        told, at = "", 0
        for start, end in self._spans(text):
            if start >= length_max:
                break
            if start >= at:  # Else it overlaps the one before: one mask is for both.
                told += text[at:start] + MASK
            at = max(at, end)
        return told + text[at:length_max]

    def mask_within(self, value: Any) -> Any:
        """Do so in every text of a JSON-able value; an equal number is masked, too."""
        if not self._values or value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, int | float):
            return MASK if str(value) in self._values else value
        if isinstance(value, dict):
            return {self.mask_within(k): self.mask_within(each) for k, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask_within(each) for each in value]
        return value

    def named_by(self, name: str) -> bool:
        """Whether a name, such as an ordering key, tells one of the values."""
        names = {_folded(name), _folded(unquote_plus(name))}
        values = [_folded(_text(value)) for value in self._values]
        return any(
            value and (value == each or (len(value) >= NAME_LENGTH_MIN and value in each))
            for value in values
            for each in names
        )

    def _spans(self, text: str) -> list[Span]:
        if not self._values:
            return []
        folded = _folded(text)
        spans = sorted(self._spelled(len(folded)).spans(folded))
        if not spans or text.isascii():
            return spans
        origins = [at for at, letter in enumerate(text) for _ in _folded(letter)]
        return [(origins[start], origins[end - 1] + 1) for start, end in spans]

    def _spelled(self, length: int) -> _Spellings:
        """Spell the values that a text of this length has room for: a long one costs much."""
        spellings = self._spellings
        if spellings is None or spellings.length_max < length:
            # With room for twice as much, for texts that grow: each spells anew.
            length_max = max(SPELLED_LENGTH_MIN, 2 * length)
            self._spellings = spellings = _Spellings(self._values, length_max)
        return spellings


class _Spellings:
    """All ways in which values are written, for one look at each place of a text.

    What begins at a place is looked up by four characters, then by up to 32, then, for each length
    that so begins, as a whole: a thousand values cost a text no more than one does. A text that
    costs too much all the same is masked as a whole, and each text where values are too many.
    """

    __slots__ = ("_gates", "_heads", "_sizes", "_too_many", "length_max")

    def __init__(self, values: Collection[str | bytes], length_max: int) -> None:
        near: list[str | bytes] = []
        left = SPELLED_MAX
        for value in values:
            if len(_on_one_line(_text(value))) <= length_max:
                near.append(value)
                left -= SPELLED_EACH + len(value)
                if left < 0:
                    break
        self._too_many = left < 0
        if self._too_many:
            self.length_max = sys.maxsize
            return
        self.length_max = length_max if len(near) < len(values) else sys.maxsize
        ways = {_folded(way) for value in near for way in _ways(value)} - {""}
        heads: dict[str, dict[int, _Ends]] = defaultdict(dict)
        gates: dict[str, dict[int, None]] = defaultdict(dict)
        for way in sorted(ways, key=len, reverse=True):
            head = way[:HEAD_LENGTH_MAX]
            tails, wholes = heads[head].setdefault(len(way), (set(), set()))
            tails.add(way[-TAIL_LENGTH:])
            wholes.add(way)
            gates[way[:GATE_LENGTH]][len(head)] = None
        self._heads = dict(heads)
        self._gates = {gate: tuple(longest_first) for gate, longest_first in gates.items()}
        self._sizes = {len(gate) for gate in gates}

    def spans(self, text: str) -> list[Span]:
        """Where values stand in a folded text; at each place the longest that begins there."""
        if self._too_many:
            return [(0, len(text))] if text else []
        found = []
        effort_left = EFFORT_MAX + EFFORT_PER_LETTER_MAX * len(text)
        for size in self._sizes:
            for start in range(len(text) - size + 1):
                lengths = self._gates.get(text[start : start + size])
                if lengths is not None:
                    end, effort = self._end(text, start, lengths)
                    if end:
                        found.append((start, end))
                    effort_left -= effort
                    if effort_left < 0:
                        return [(0, len(text))]
        return found

    def _end(self, text: str, start: int, lengths: Sequence[int]) -> tuple[int, int]:
        """Where a value ends that begins here (0: none does), and what it took to know."""
        effort = 0
        for head_length in lengths:
            effort += LOOK_EFFORT
            ends_by_length = self._heads.get(text[start : start + head_length])
            if ends_by_length is None:
                continue
            for length, (tails, wholes) in ends_by_length.items():  # Longest first.
                end = start + length
                effort += LOOK_EFFORT
                if text[max(start, end - TAIL_LENGTH) : end] not in tails:
                    continue
                effort += length
                if text[start:end] in wholes and (
                    length > WORD_LENGTH_MAX or _is_word(text, start, end)
                ):
                    return end, effort
        return 0, effort


NOTHING: Final = Plaintexts(())
_hidden: ContextVar[Plaintexts] = ContextVar("processor_hidden", default=NOTHING)


class hiding:  # noqa: N801 - it is used like a function.
    """`with hiding(plaintexts):` whatever this thread or task tells is masked."""

    __slots__ = ("_plaintexts", "_token")

    def __init__(self, plaintexts: Plaintexts) -> None:
        self._plaintexts = plaintexts
        self._token: Token[Plaintexts] | None = None

    def __enter__(self) -> None:
        if self._plaintexts:
            self._token = _hidden.set(self._plaintexts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _hidden.reset(self._token)


def masked(text: str, *, length_max: int = sys.maxsize) -> str:
    """Give the text, or so many characters of it, with `***` for each value hidden now."""
    return _hidden.get().mask(text, length_max=length_max)


def hidden_now() -> Plaintexts:
    """Give what is hidden now, for one who has many texts to mask."""
    return _hidden.get()


def _ways(value: str | bytes) -> Iterable[str]:
    """Name the ways in which a value is written."""
    if isinstance(value, bytes):
        yield repr(value)[2:-1]
        yield value.hex()
    text = _text(value)
    yield text
    yield _on_one_line(text)
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield quote(text, safe="")
    yield quote(text)
    yield quote_plus(text)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="ignore")


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _folded(text: str) -> str:
    """Give a text without the case of its letters; each letter is folded by itself."""
    folded = text.casefold()
    if folded.isascii():
        return folded
    # Without its dot or with two, an i has the capital I in some languages; and casefold() writes
    # the second dot as a letter of its own.
    return folded.replace("\N{LATIN SMALL LETTER DOTLESS I}", "i").replace(
        "\N{COMBINING DOT ABOVE}", ""
    )


def _is_word(text: str, start: int, end: int) -> bool:
    around = text[start - 1 : start] + text[end : end + 1] if start else text[end : end + 1]
    return not any(letter.isalnum() or letter == "_" for letter in around)
