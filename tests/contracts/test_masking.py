"""What masking finds, and what a text may cost."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from processor.contracts.masking import Plaintexts, hiding, masked


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < 8


@pytest.mark.parametrize(
    ("value", "text"),
    [("istanbul", "to İSTANBUL!"), ("İstanbul", "to istanbul!"), ("İSTANBUL", "to i̇stanbul!"),
     ("i̇zmir", "to İzmir!"), ("ilker", "to İLKER!"), ("DIYAR", "to d\u0131yar!")],
)  # fmt: skip
def test_turkish_letters_are_masked_in_any_case(value: str, text: str) -> None:
    assert Plaintexts([value]).mask(text) == "to ***!"
    assert Plaintexts([value]).mask(f"İ i̇ {text} ẞ") == "İ i̇ to ***! ẞ"


def test_many_values_that_begin_alike_cost_a_text_no_more_than_few() -> None:
    values = [f"https://crm.example.com/customers/{n:06d}" for n in range(20_000)]

    told = Plaintexts(values).mask(f"cannot reach {values}")

    assert told == f"cannot reach {['***'] * 20_000}"


def test_values_of_many_lengths_that_begin_alike_are_found() -> None:
    start = "https://crm.example.com/customers/"
    values = [start + "x" * n for n in range(0, 300, 2)]

    told = Plaintexts(values).mask(f"to {start}{'x' * 150}, {start}{'x' * 151} and {start[:-1]}")

    assert told == f"to ***, ***x and {start[:-1]}"


@pytest.mark.parametrize(
    "values",
    [["a" * 400_000 + "b" + "a" * 400_000], ["a" * n for n in range(300, 900)],
     ["aaaa" + "b" * n for n in range(600)]],
)  # fmt: skip
def test_text_that_costs_too_much_is_masked_as_a_whole(values: list[str]) -> None:
    assert Plaintexts(values).mask("bad value " + "a" * 1_600_000) == "***"


def test_values_without_number_cost_a_text_nothing_and_tell_nothing() -> None:
    plaintexts = Plaintexts(f"value {n}" for n in range(400_000))
    tracemalloc.start()
    try:
        told = [plaintexts.mask(text) for text in ("no such thing", "value 7", "")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert told == ["***", "***", ""]
    assert peak < 5_000_000


def test_as_many_values_as_are_spelled_hide_nothing_else() -> None:
    plaintexts = Plaintexts(f"value {n}" for n in range(20_000))

    assert plaintexts.mask("no such thing, and value 19999") == "no such thing, and ***"


def test_short_word_is_found_where_a_longer_one_is_none() -> None:
    assert Plaintexts(["jo "]).mask("jo bob") == "*** bob"


def test_beginning_of_a_text_is_masked_with_the_values_that_begin_in_it() -> None:
    value = "Ada Lovelace €" * 100
    text = f"{value}, {value}, {value}"

    with hiding(Plaintexts([value])):
        assert masked(text, length_max=10) == "***"
        assert masked(text, length_max=len(value)) == "***"
        assert masked(text, length_max=len(value) + 1) == "***,"
        assert masked(text, length_max=len(value) + 3) == "***, ***"
        assert masked(f"so: {text}", length_max=3) == "so:"
        assert masked("so", length_max=3) == "so"
        assert masked(repr(text * 10), length_max=2) == "'***"


def test_what_is_found_is_what_a_plain_search_finds() -> None:
    chance = random.Random(7)
    letters = "ab é\n'"

    for _ in range(3000):
        values = ["".join(chance.choices(letters, k=chance.randint(4, 50))) for _ in range(4)]
        ends = ["".join(chance.choices(letters, k=5)) for _ in range(3)]
        parts = [chance.choice([*values, *ends, values[0][:20]]) for _ in range(4)]
        text = "".join(parts)
        starts = [at for at in range(len(text)) if text.startswith(tuple(values), at)]

        told = Plaintexts(values).mask(text)

        assert ("***" in told) >= bool(starts)
        assert not any(value in told for value in values)
