from __future__ import annotations

import base64
import gc
import json
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from processor.adapters import logins
from processor.adapters.broker import Heard, made
from processor.adapters.logins import Renewal, token_source
from processor.errors import UsageError
from processor.sources import FromFile

REFUSED = KafkaError(KafkaError._AUTHENTICATION)
NOWHERE = "127.0.0.1:9"


class Client:
    """Notes what it is told to log in with."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def set_sasl_credentials(self, user: str, password: str) -> None:
        self.told.append((user, password))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("first\n")
    return path


def taken(renewal: Renewal) -> list[tuple[str, str]]:
    client = Client()
    renewal.take(client)
    renewal.take(client)
    return client.told


def test_refused_password_is_replaced_by_the_one_that_its_file_holds_now(secret: Path):
    heard = Heard()
    renewal = Renewal("ann", FromFile.read(secret), heard)
    secret.write_text("second\n")

    renewal(REFUSED)
    renewal(REFUSED)  # Another connection, with the old one.

    assert taken(renewal) == [("ann", "second")]
    assert heard.refusal is None


def test_refusal_is_told_where_the_file_holds_no_other_password(secret: Path):
    heard = Heard()
    renewal = Renewal("ann", FromFile.read(secret), heard)

    renewal(REFUSED)

    assert taken(renewal) == []
    assert heard.refusal is REFUSED


def test_refusal_of_the_new_password_is_told_too(secret: Path, monkeypatch: pytest.MonkeyPatch):
    heard = Heard()
    renewal = Renewal("ann", FromFile.read(secret), heard)
    monkeypatch.setattr(logins, "OLD_REFUSALS_SECONDS", 0.0)
    secret.write_text("second\n")

    renewal(REFUSED)

    assert taken(renewal) == [("ann", "second")]
    assert heard.refusal is REFUSED


def test_file_that_is_away_or_empty_leaves_the_password(secret: Path):
    first = FromFile.read(secret)
    secret.write_text("")
    empty = first.again()
    secret.unlink()

    assert (empty, first.again()) == ("first", "first")


def test_other_trouble_is_passed_on(secret: Path):
    heard = Heard()
    renewal = Renewal("ann", FromFile.read(secret), heard)
    secret.write_text("second\n")
    away = KafkaError(KafkaError._TRANSPORT)

    renewal(away)

    assert heard.latest is away
    assert taken(renewal) == []


def client_settings(secret: Path) -> dict[str, Any]:
    return {"bootstrap.servers": NOWHERE, "security.protocol": "SASL_SSL", "log_level": 0,
            "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "ann",
            "sasl.password": FromFile.read(secret)}  # fmt: skip


def test_client_takes_a_new_password_between_two_calls(secret: Path):
    producer: Any = made(Producer, client_settings(secret))
    secret.write_text("second\n")
    producer.renewal(REFUSED)

    told = producer.renewal.password
    producer.flush(0)
    producer.poll(0)

    assert told == "second"
    assert taken(producer.renewal) == []  # It has taken it.


def test_client_is_made_with_what_the_file_holds_by_then(secret: Path):
    settings = client_settings(secret)
    secret.write_text("second\n")

    admin: Any = made(AdminClient, settings)

    assert admin.renewal.password == "second"


@pytest.mark.parametrize(("kind", "more"), [(Consumer, {"group.id": "g"}), (Producer, {})])
def test_client_that_follows_a_file_is_not_kept_alive_by_it(
    kind: Any, more: dict[str, Any], secret: Path
):
    gc.disable()
    try:
        client = made(kind, {**client_settings(secret), **more})
        alive = weakref.ref(client)
        del client

        assert alive() is None
    finally:
        gc.enable()


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}."


def test_token_is_read_again_whenever_the_client_asks(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(token(n=1))
    asked = token_source(FromFile.read(path))

    first, _ = asked("")
    path.write_text(token(n=2))
    second, _ = asked("")

    assert (first, second) == (token(n=1), token(n=2))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (token(exp=1e12), logins.TOKEN_SECONDS_MAX),
        (token(sub="ann"), logins.TOKEN_SECONDS_MAX),
        ("opaque", logins.TOKEN_SECONDS_MAX),
        ("a.b.c", logins.TOKEN_SECONDS_MAX),
    ],
)
def test_token_is_asked_for_again_within_five_minutes(given: str, seconds: float):
    _, until = token_source(given)("")

    assert until == pytest.approx(time.time() + seconds, abs=5)


def test_token_that_ends_sooner_is_used_no_longer():
    assert token_source(token(exp=1700000000))("") == (token(exp=1700000000), 1700000000.0)


@pytest.mark.parametrize(("held", "told"), [("", "is empty"), (token(exp=1), "has ended")])
def test_token_of_no_use_is_told_with_its_file(held: str, told: str, tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(held)
    settings = {"bootstrap.servers": NOWHERE, "sasl.mechanism": "OAUTHBEARER",
                logins.TOKEN: FromFile.read(path)}  # fmt: skip

    with pytest.raises(UsageError, match=told) as fault:
        made(Producer, settings)

    assert str(path) in fault.value.message
    assert not held or held not in fault.value.message
