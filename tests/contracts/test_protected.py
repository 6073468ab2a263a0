"""Fields tagged PII: where they are, how they are sealed, opened, compared and hidden."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any
from urllib.parse import quote

import pytest

from processor.contracts import sealing
from processor.contracts.avro import Decoder, Encoder
from processor.contracts.masking import Plaintexts, hiding, masked
from processor.contracts.protected import Opened
from processor.contracts.sealing import (
    UNKNOWN_AGAIN_SECONDS,
    UNKNOWN_KEYS_MAX,
    UNKNOWN_SECONDS_MAX,
    DataKey,
    Keyring,
    KeyUnknown,
)
from processor.contracts.tags import TagFault, tagged_paths
from processor.errors import ContractError, KeysUnavailable, UsageError
from processor.model import Effect, JobHeaders, Position
from tests.contracts.test_avro import FakeSource, schemas, set_of

PII = {"confluent:tags": ["PII"]}
CANARY = "Ada Lovelace <ada@example.com>"


class Source:
    """Keys in memory: a data key is wrapped by being kept under its number."""

    def __init__(self) -> None:
        self.current = "one"
        self.kept: dict[tuple[str, bytes], bytes] = {}
        self.made = self.unwrapped = 0
        self.now = 1000.0
        self.spoilt = False

    def new(self, job_type: str) -> DataKey:
        self.made += 1
        key = DataKey(self.current, self.made.to_bytes(4, "big"), os.urandom(32))
        self.kept[key.key_id, key.wrapped] = key.plain
        return key

    def unwrap(self, key_id: str, wrapped: bytes, job_type: str) -> bytes:
        self.unwrapped += 1
        if self.spoilt:
            raise ContractError("no key opens it")
        if (key_id, wrapped) not in self.kept:
            raise KeyUnknown(f"no key {key_id}")
        return self.kept[key_id, wrapped]

    def keyring(self) -> Keyring:
        return Keyring(self, clock=lambda: self.now)


def job(*fields: dict[str, Any]) -> Any:
    return schemas({"type": "record", "name": "a.job", "fields": list(fields)}).get("a.job")


PERSON = {"type": "record", "name": "a.person", "fields": [
    {"name": "name", "type": "string", **PII}, {"name": "age", "type": "int"}]}  # fmt: skip
RICH = job(
    {"name": "to", "type": "string", **PII},
    {"name": "photo", "type": "bytes", **PII},
    {"name": "nick", "type": ["null", "string"], "default": None, **PII},
    {"name": "greeting", "type": "string", "default": "dear", **PII},
    {"name": "phones", "type": {"type": "array", "items": "string"}, "default": [], **PII},
    {"name": "answers", "type": {"type": "map", "values": "string"}, "default": {}, **PII},
    {"name": "inner", "type": {"type": "string", **PII}, "default": ""},
    {"name": "person", "type": ["null", PERSON], "default": None},
    {"name": "others", "type": {"type": "array", "items": "a.person"}, "default": []},
    {"name": "plain", "type": "string"},
)
FULL = {
    "to": CANARY, "photo": b"\x00\xff" + CANARY.encode(), "nick": "Äda", "greeting": "my dear",
    "phones": ["+44 1", "+44 2"], "answers": {"q": "a secret"}, "inner": "x",
    "person": {"name": "Byron", "age": 36}, "others": [{"name": "Annabella", "age": 60}],
    "plain": "seen",
}  # fmt: skip


def test_tagged_fields_are_found_wherever_they_are() -> None:
    assert tagged_paths(RICH.parsed) == [
        "to", "photo", "nick", "greeting", "phones[]", "answers{}", "inner", "person.name",
        "others[].name",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("int", "of type int"),
        ({"type": "long", "logicalType": "timestamp-millis"}, "of type timestamp-millis"),
        ({"type": "string", "logicalType": "uuid"}, "of type uuid"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, "of type decimal"),
        (PERSON, "of type record"),
        ({"type": "array", "items": "int"}, "of type int"),
        (["null", "string", "bytes"], "union of several types"),
        ({"type": "enum", "name": "a.e", "symbols": ["x"]}, "of type enum"),
    ],
)
def test_tag_that_cannot_be_kept_to_is_refused(kind: Any, told: str) -> None:
    field = {"name": "x", "type": kind, "doc": "d", **PII}

    with pytest.raises(TagFault, match=told):
        tagged_paths({"type": "record", "name": "a.job", "fields": [field]})
    with pytest.raises(UsageError, match=told):
        document = {"type": "record", "name": "a.job", "doc": "d", "fields": [field]}
        schemas(document, lint=True)


def test_tagged_values_are_sealed_and_opened_and_all_others_stay() -> None:
    keys = Source().keyring()

    value = Encoder(RICH, 7, keys).encode(FULL)
    decoded = Decoder(FakeSource(id7=RICH.text), keys=keys).decode(value)

    assert decoded.payload == FULL
    for secret in (b"Ada", b"dear", b"+44", b"a secret", b"Byron", b"Annabella", "Äda".encode()):
        assert secret not in value
    assert b"seen" in value
    assert decoded.opened is not None
    assert decoded.opened.plaintexts.mask("Annabella wrote to Byron") == "*** wrote to ***"


def test_default_of_a_tagged_field_is_sealed_too() -> None:
    keys = Source().keyring()

    value = Encoder(RICH, 7, keys).encode({"to": "a", "photo": b"", "plain": "b"})

    assert b"dear" not in value
    decoded = Decoder(FakeSource(id7=RICH.text), keys=keys).decode(value)
    assert (decoded.payload["greeting"], decoded.payload["nick"]) == ("dear", None)


def test_payload_without_tags_pays_nothing() -> None:
    schema = job({"name": "x", "type": "string"})

    reading = Decoder(FakeSource(id1=schema.text)).reading(Encoder(schema, 1).encode({"x": "a"}))

    assert reading.open is None
    assert not Encoder(schema, 1).protects


def test_tagged_field_without_a_key_is_refused_and_read_later() -> None:
    source = Source()
    value = Encoder(RICH, 7, source.keyring()).encode(FULL)

    with pytest.raises(UsageError, match=r"`to` of `a\.job` is tagged PII, and there is no key"):
        Encoder(RICH, 7)
    with pytest.raises(KeysUnavailable, match=r"`to` of `a\.job` is tagged PII"):
        Decoder(FakeSource(id7=RICH.text)).decode(value)
    source.kept.clear()
    with pytest.raises(KeysUnavailable, match="no key one"):
        Decoder(FakeSource(id7=RICH.text), keys=source.keyring()).decode(value)


ONE = job({"name": "to", "type": "string", **PII}, {"name": "from_", "type": "string", **PII})


def decoded_with(keys: Keyring, **sealed: str) -> Any:
    plain = {**json.loads(ONE.text)}
    for field in plain["fields"]:
        del field["confluent:tags"]
    value = Encoder(schemas(plain).get("a.job"), 7).encode(sealed)
    return Decoder(FakeSource(id7=ONE.text), keys=keys).decode(value).payload


def waits(keys: Keyring, sealed: str) -> bool:
    """Whether its key, which nobody knows, is waited for."""
    try:
        keys.open("a.job", "to", sealed)
    except KeyUnknown:
        return True
    except ContractError as fault:
        assert "no key" in fault.message
        return False
    raise AssertionError("it was opened")


def forged(sealed: str, key_id: str, n: int = 0) -> str:
    """The same under another key id, with a data key of its own."""
    prefix, _, _, body = sealed.split(".")
    return ".".join((prefix, key_id, f"AAA{n}", body))


def test_key_that_nobody_knows_is_waited_for_an_hour_a_day() -> None:
    source = Source()
    keys = source.keyring()
    good = keys.seal("a.job", "to", b"Ada")

    told = []
    for seconds in (0, UNKNOWN_SECONDS_MAX - 1, 1, UNKNOWN_AGAIN_SECONDS - UNKNOWN_SECONDS_MAX):
        source.now += seconds
        told.append(waits(keys, forged(good, "no", len(told))))

    assert told == [True, True, False, True]
    assert keys.open("a.job", "to", good)[0] == b"Ada"


def test_forged_keys_in_any_number_hold_a_partition_no_longer_than_the_bound() -> None:
    source = Source()
    keys = source.keyring()
    good = keys.seal("a.job", "to", b"Ada")

    held = []
    for _ in range(3):
        start, held_seconds = source.now, 0
        for n in range(2000):  # One behind the other, as on a partition.
            while waits(keys, forged(good, f"no{n}")):
                source.now += 60
                held_seconds += 60
        held.append(held_seconds)
        source.now = start + UNKNOWN_AGAIN_SECONDS

    assert held[0] == UNKNOWN_KEYS_MAX * UNKNOWN_SECONDS_MAX
    assert max(held) <= held[0]


def test_worker_that_is_late_with_each_key_of_a_day_waits_for_each() -> None:
    source, away = Source(), Source()
    keys, good = source.keyring(), source.keyring().seal("a.job", "to", b"x")
    assert waits(keys, forged(good, "forged"))

    for current in ("two", "three", "four", "five"):
        away.current = current
        sealed = away.keyring().seal("a.job", "to", current.encode())
        assert waits(keys, sealed)
        source.now += 60
        source.kept |= away.kept
        assert keys.open("a.job", "to", sealed)[0] == current.encode()
        source.now += 3 * 3600


def test_data_key_that_opens_gives_no_time_back_for_another_of_its_key() -> None:
    source = Source()
    keys = source.keyring()
    good = keys.seal("a.job", "to", b"Ada")

    assert waits(keys, forged(good, "one"))
    source.now += UNKNOWN_SECONDS_MAX
    keys.open("a.job", "to", good)

    assert not waits(keys, forged(good, "one"))


def test_key_that_comes_within_the_hour_opens_what_waits_for_it() -> None:
    source, away = Source(), Source()
    sealed = away.keyring().seal("a.job", "to", b"Ada")
    keys = source.keyring()
    with pytest.raises(KeyUnknown):
        keys.open("a.job", "to", sealed)

    source.kept = away.kept

    assert keys.open("a.job", "to", sealed)[0] == b"Ada"


def test_ciphertext_of_another_field_job_or_key_opens_nothing() -> None:
    source = Source()
    keys = source.keyring()
    good, other = keys.seal("a.job", "to", b"Ada"), keys.seal("a.job", "from_", b"Bea")
    assert decoded_with(keys, to=good, from_=other) == {"to": "Ada", "from_": "Bea"}

    start, _, body = good.rpartition(".")
    flipped = ("B" if body[20] == "A" else "A").join((body[:20], body[21:]))
    for wrong in (other, keys.seal("b.job", "to", b"Ada"), f"{start}.{flipped}", f"{start}.AAAA"):
        with pytest.raises(ContractError, match="cannot be decrypted") as refused:
            decoded_with(keys, to=wrong, from_=other)
        assert "Ada" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["Ada", "", "pii1.", "pii1.k.AA", "pii1.k k.AA.AA", "pii1.k.AA.A."]
)
def test_tagged_field_that_is_not_encrypted_is_refused_and_not_told(text: str) -> None:
    keys = Source().keyring()

    with pytest.raises(ContractError, match="tagged PII and is not encrypted") as refused:
        decoded_with(keys, to=text, from_=keys.seal("a.job", "from_", b"x"))

    assert "Ada" not in str(refused.value)


@pytest.mark.parametrize("tags", [5, True, {"PII": 1}, [["PII"]], ["a", None]])
def test_tags_that_cannot_be_read_are_refused_for_they_might_have_said_pii(tags: Any) -> None:
    field = {"name": "x", "type": "string", "doc": "d", "confluent:tags": tags}
    document = {"type": "record", "name": "a.job", "doc": "d", "fields": [field]}

    with pytest.raises(TagFault, match="of field `x` are no list of texts"):
        tagged_paths(document)
    with pytest.raises(UsageError, match="of field `x` are no list of texts"):
        schemas(document, lint=True)


@pytest.mark.parametrize("tags", [None, [], ["public"]])
def test_tags_that_say_nothing_of_pii_are_none(tags: Any) -> None:
    field = {"name": "x", "type": "string", "confluent:tags": tags}

    assert tagged_paths({"type": "record", "name": "a.job", "fields": [field]}) == []


def test_types_without_tags_are_walked_once_however_often_they_are_used() -> None:
    kind: Any = {"type": "record", "name": "a.r0", "fields": [{"name": "s", "type": "string"}]}
    for level in range(1, 60):  # 2⁶⁰ ways lead to the text.
        kind = {"type": "record", "name": f"a.r{level}", "fields": [
            {"name": "a", "type": kind}, {"name": "b", "type": kind["name"]}]}  # fmt: skip

    assert tagged_paths(kind) == []


def test_schema_with_a_tag_that_cannot_be_kept_to_is_a_contract_fault() -> None:
    text = json.dumps({"type": "record", "name": "a.job", "fields": [
        {"name": "x", "type": "int", **PII}]})  # fmt: skip

    with pytest.raises(ContractError, match="of type int"):
        Decoder(FakeSource(id1=text)).decode(b"\x00\x00\x00\x00\x01\x02")


def test_evolved_schema_is_read_after_decryption() -> None:
    keys = Source().keyring()
    old = job({"name": "to", "type": "string", **PII}, {"name": "gone", "type": "string", **PII})
    new = job({"name": "to", "type": "bytes"}, {"name": "more", "type": "int", "default": 3})
    value = Encoder(old, 1, keys).encode({"to": "Ada", "gone": "x"})

    decoded = Decoder(FakeSource(id1=old.text), set_of(new), keys=keys).decode(value)

    assert decoded.payload == {"to": b"Ada", "more": 3}


def test_job_of_before_the_tag_is_read_as_it_is_and_hidden() -> None:
    old, new = job({"name": "to", "type": "string"}), job({"name": "to", "type": "string", **PII})
    value = Encoder(old, 1).encode({"to": "Ada Lovelace"})

    decoded = Decoder(FakeSource(id1=old.text), set_of(new)).decode(value)

    assert decoded.payload == {"to": "Ada Lovelace"}
    assert decoded.opened is not None
    assert not decoded.opened.sealed
    assert decoded.opened.plaintexts.mask("to Ada Lovelace!") == "to ***!"


def test_data_key_serves_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "USES_MAX", 3)
    source = Source()
    keys = source.keyring()

    for _ in range(4):
        keys.seal("a.job", "to", b"x")
    by_uses = source.made
    source.now += sealing.SECONDS_MAX
    keys.seal("a.job", "to", b"x")

    assert (by_uses, source.made) == (2, 3)


def test_unwrapped_key_is_asked_for_once_within_its_time() -> None:
    source = Source()
    keys = source.keyring()
    sealed = keys.seal("a.job", "to", b"x")
    for _ in range(3):
        keys.open("a.job", "to", sealed)
    asked = source.unwrapped

    source.kept.clear()
    source.now += sealing.OPENED_SECONDS_MAX

    assert asked == 1
    with pytest.raises(KeysUnavailable):  # It was withdrawn meanwhile.
        keys.open("a.job", "to", sealed)


def test_rotated_key_seals_and_the_old_one_still_opens() -> None:
    source = Source()
    old = source.keyring().seal("a.job", "to", b"x")
    source.current = "two"
    keys = source.keyring()

    new = keys.seal("a.job", "to", b"y")

    assert (old.split(".")[1], new.split(".")[1]) == ("one", "two")
    assert (keys.open("a.job", "to", old)[0], keys.open("a.job", "to", new)[0]) == (b"x", b"y")


def opened_of(keys: Keyring, payload: dict[str, Any]) -> Opened:
    value = Encoder(RICH, 7, keys).encode(payload)
    opened = Decoder(FakeSource(id7=RICH.text), keys=keys).decode(value).opened
    assert opened is not None
    return opened


def test_equal_payloads_are_told_from_others_by_a_digest_that_needs_the_key() -> None:
    source = Source()
    keys = source.keyring()
    first, again = opened_of(keys, FULL), opened_of(source.keyring(), FULL)
    other = opened_of(keys, {**FULL, "to": "Bea"})

    kept = first.digest()

    assert again.is_as(kept)
    assert not other.is_as(kept)
    assert kept != again.digest()  # Of another data key: nobody can look a digest up.
    assert "Ada" not in kept


def test_payload_is_not_told_from_one_whose_key_was_withdrawn_or_that_no_key_opens() -> None:
    source, later = Source(), Source()
    kept = opened_of(source.keyring(), FULL).digest()
    later.current = "two"
    again = opened_of(later.keyring(), FULL)

    for _ in range(2):
        assert again.is_as(kept) is None
        later.now += 10 * UNKNOWN_AGAIN_SECONDS
    later.spoilt = True

    assert again.is_as(kept) is None


@pytest.mark.parametrize(
    "text",
    [
        CANARY, f"KeyError: {CANARY!r}", f"to={CANARY.upper()}", json.dumps({"to": CANARY}),
        "https://x/?to=Ada%20Lovelace%20%3Cada%40example.com%3E",
        "to=Ada+Lovelace+%3Cada%40example.com%3E",
        f"{CANARY}{CANARY}",
    ],
)  # fmt: skip
def test_value_is_masked_as_texts_write_it(text: str) -> None:
    with hiding(Plaintexts([CANARY])):
        told = masked(text)

    assert "ovelace" not in told.lower()
    assert "***" in told
    assert masked(text) == text  # Nothing is hidden any more.


@pytest.mark.parametrize("value", ["a\nb\tc d'\"e", "Ödön\u2028von", b"\x00binary\xff"])
def test_value_with_odd_characters_is_masked_as_python_and_json_write_it(value: Any) -> None:
    hidden = Plaintexts([value])

    for text in (repr(value), ascii(value), *(
        () if isinstance(value, bytes) else (json.dumps(value), value, " ".join(value.split()))
    )):  # fmt: skip
        assert hidden.mask(f"got {text}!").strip("got !'\"b") == "***", text


def test_short_value_is_masked_as_a_word_only() -> None:
    assert (
        Plaintexts(["Jo"]).mask("Jo enjoys Johannesburg, (jo)") == "*** enjoys Johannesburg, (***)"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [("Straße 7", "to STRASSE 7!"), ("Y\u0131ld\u0131z", "to YILDIZ!"), ("ΓΙΏΡΓΟΣ", "to γιώργος!"),
     ("İpek Ada", "to i̇pek ada!")],
)  # fmt: skip
def test_value_is_masked_in_any_case_of_letters_that_grow_with_it(value: str, text: str) -> None:
    assert Plaintexts([value]).mask(text) == "to ***!"
    assert Plaintexts([value]).mask(f"ẞ {text}") == "ẞ to ***!"


def test_values_that_overlap_are_masked_together() -> None:
    hidden = Plaintexts(["Ada Lovelace", "Lovelace King", "Ada"])

    assert hidden.mask("is Ada Lovelace King, née Ada") == "is ***, née ***"


def test_long_value_is_masked_in_texts_that_have_room_for_it() -> None:
    value = f"{CANARY}\n" * 100
    hidden = Plaintexts([value, "Bea Long"])

    assert hidden.mask("a line for Bea Long") == "a line for ***"
    assert hidden.mask(f"a line for {value}!") == "a line for ***!"
    assert hidden.mask(f"got {json.dumps(value)}") == 'got "***"'
    assert hidden.mask(f"got {' '.join(value.split())}") == "got ***"


def test_masking_costs_little_and_keeps_nothing_in_the_cache_of_patterns() -> None:
    started = time.process_time()
    many = [f"user{n}@example.com" for n in range(3000)]

    for value in ("long-canary \n" * 100_000, b"long-canary\xff" * 50_000):
        assert Plaintexts([value]).mask("a log line") == "a log line"
    told = Plaintexts(many).mask_within({"sent": many})
    Plaintexts(["long-canary"]).mask("a log line")

    assert told == {"sent": ["***"] * 3000}
    assert time.process_time() - started < 5  # With a pattern it was more than a minute.
    assert "long-canary" not in str(list(re._cache))  # type: ignore[attr-defined]


def test_result_is_masked_within() -> None:
    hidden = Plaintexts(["Ada Lovelace", "4711"])
    result = {"sent": "to Ada Lovelace", "Ada Lovelace": [1, True, None, 4711, 2.5], "n": 1}

    assert hidden.mask_within(result) == {
        "sent": "to ***", "***": [1, True, None, "***", 2.5], "n": 1,
    }  # fmt: skip


def test_name_that_tells_a_value_is_noticed() -> None:
    hidden = Plaintexts(["ada@example.com", "7"])

    assert hidden.named_by("ada@example.com")
    assert hidden.named_by("mail:ada@example.com")
    assert hidden.named_by("7")
    assert not hidden.named_by("order-7")


@pytest.mark.parametrize("value", ["Ada@Example.com", b"Ada@Example.com", "ada+new@example.com"])
@pytest.mark.parametrize("name", ["{}", "mail:{}"])
def test_name_that_tells_a_value_in_another_case_or_quoted_is_noticed(
    value: str | bytes, name: str
) -> None:
    hidden = Plaintexts([value])
    text = value if isinstance(value, str) else value.decode()

    for told in (text.lower(), text.upper(), quote(text), quote(text).lower()):
        assert hidden.named_by(name.format(told)), told


def test_effect_keeps_the_masked_result_beside_the_true_one() -> None:
    place = Position("t", 0, 1)
    effect = Effect("j", "a.job", "job:j", place, 1, None, {"to": "Ada"}, masked='{"to": "***"}')

    assert effect.result == {"to": "Ada"}
    assert effect.result_text == '{"to": "***"}'
    assert effect._replace(masked=None).result_text == '{"to": "Ada"}'
    assert JobHeaders("j", "a.job").idempotency_key is None


def test_keeper_that_is_away_is_not_asked_by_each_thread_in_turn() -> None:
    class Away(Source):
        away = True

        def new(self, job_type: str) -> DataKey:
            if self.away:
                self.made += 1
                raise KeysUnavailable("no answer")
            return super().new(job_type)

    source = Away()
    keys = source.keyring()

    for _ in range(8):
        with pytest.raises(KeysUnavailable, match="no answer"):
            keys.seal("a.job", "to", b"x")
    asked = source.made
    source.away = False
    source.now += sealing.AWAY_SECONDS

    assert asked == 1
    assert keys.seal("a.job", "to", b"x").startswith("pii1.one.")
