"""Values that must not be told: wherever one turns up in a text, it is shown as `***`.

While a job with decrypted values is in hand, `hiding` names them; what describes an error or writes
a log line in that time asks `masked`. A value is found as it is, and as repr, JSON and URLs write
it, in any case of its letters. What a handler makes of it otherwise nobody can know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
WORD_LENGTH_MAX: Final = 3  # Shorter values are masked only as whole words.
NAME_LENGTH_MIN: Final = 8  # A name (key, id) may hold a shorter value by chance.


class Plaintexts:
    """Decrypted values. Falsy where there are none; the search is compiled when first needed."""

    __slots__ = ("_search", "_values")

    def __init__(self, values: Iterable[str | bytes]) -> None:
        self._values = tuple(value for value in values if value)
        self._search: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._values)

    def __add__(self, other: Plaintexts) -> Plaintexts:
        return Plaintexts(self._values + other._values)

    def mask(self, text: str) -> str:
        """Give the text with `***` for each value in it."""
        if not self._values:
            return text
        if self._search is None:
            self._search = _search(self._values)
        return self._search.sub(MASK, text)

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
        texts = [_text(value) for value in self._values]
        return any(
            text and (text == name or (len(text) >= NAME_LENGTH_MIN and text in name))
            for text in texts
        )


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


def masked(text: str) -> str:
    """Give the text with `***` for each value that is hidden now."""
    return _hidden.get().mask(text)


def _search(values: Iterable[str | bytes]) -> re.Pattern[str]:
    found = {way for value in values for way in _ways(value) if way}
    patterns = [
        re.escape(way) if len(way) > WORD_LENGTH_MAX else rf"(?<!\w){re.escape(way)}(?!\w)"
        for way in sorted(found, key=len, reverse=True)
    ]
    return re.compile("|".join(patterns), re.IGNORECASE)


def _ways(value: str | bytes) -> Iterable[str]:
    """Name the ways in which a value is written."""
    if isinstance(value, bytes):
        yield repr(value)[2:-1]
        yield value.hex()
    text = _text(value)
    yield text
    yield " ".join(text.split())
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield quote(text, safe="")
    yield quote(text)
    yield quote_plus(text)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="ignore")
