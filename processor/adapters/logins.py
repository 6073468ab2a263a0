"""How clients of Kafka log in with secrets that stand in files, and take new ones as they go on.

A password (SCRAM, PLAIN): when the brokers refuse the one that a client has, and its file holds
another by now, the client goes on with that. A token (OAUTHBEARER): the client asks for one before
the one that it has ends. Certificates and their keys are read by the client when it is made, alone.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from processor.errors import UsageError
from processor.sources import FromFile

TOKEN = "sasl.oauthbearer.token"  # noqa: S105  # A setting of ours: the client has none for it.
TOKEN_SECONDS_MAX = 300.0  # After four fifths of this at most its file is read again.
CREDENTIALS = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}
# So long after a new password refusals may still be those of connections with the old one.
OLD_REFUSALS_SECONDS = 10.0

_LOGGER = logging.getLogger(__name__)

_Client = TypeVar("_Client", Consumer, Producer, AdminClient)


def logged_in(kind: type[_Client], settings: Mapping[str, Any]) -> _Client:
    """Make a client that follows the files with its secrets. Raises KafkaException, UsageError."""
    config = dict(settings)
    if (token := config.pop(TOKEN, None)) is not None:
        _check_token(token)
        config["oauth_cb"] = token_source(token)
    password = config.get("sasl.password")
    if not isinstance(password, FromFile):
        return kind(config)
    renewal = Renewal(str(config.get("sasl.username")), password.again(), config.get("error_cb"))
    client: Any = _RENEWED[kind](
        {**config, "sasl.password": str(renewal.password), "error_cb": renewal}
    )
    client.renewal = renewal
    return cast("_Client", client)


def token_source(token: str) -> Callable[[str], tuple[str, float]]:
    """Give what a client asks for a token: it, and until when it may be used."""

    def asked(_: str) -> tuple[str, float]:
        given = token.again() if isinstance(token, FromFile) else token
        return str(given), min(_end_of(given), time.time() + TOKEN_SECONDS_MAX)

    return asked


class Renewal:
    """A client's password from a file. It stands before the `error_cb` and hears of refusals."""

    def __init__(
        self, user: str, password: FromFile, passed_on: Callable[[KafkaError], None] | None
    ) -> None:
        self.password = password
        self._user = user
        self._passed_on = passed_on
        self._untaken = False  # Read, and not given to the client yet.
        self._found_at = float("-inf")

    def __call__(self, error: KafkaError) -> None:
        """Look for a new password where the old one is refused, or pass the fault on."""
        if error.code() in CREDENTIALS and self._found():
            return
        if self._passed_on is not None:
            self._passed_on(error)

    def _found(self) -> bool:
        now, password = time.monotonic(), self.password.again()
        if password != self.password:
            self.password, self._found_at, self._untaken = password, now, True
        return now < self._found_at + OLD_REFUSALS_SECONDS

    def take(self, client: Any) -> None:
        """Give a client what was found. Not in a callback: it takes no such call there."""
        if self._untaken:
            self._untaken = False
            client.set_sasl_credentials(self._user, str(self.password))
            _LOGGER.warning(
                "the brokers refuse the password of `%s`; %s holds another, which is used now",
                self._user,
                self.password.path,
            )


class _Renewed:
    """A client that takes a new password after the call in which a callback has heard of one."""

    renewal: Renewal

    def poll(self, *given: Any, **named: Any) -> Any:
        answer = super().poll(*given, **named)  # type: ignore[misc]
        self.renewal.take(self)
        return answer


class _Consumer(_Renewed, Consumer):
    pass


class _Producer(_Renewed, Producer):
    def flush(self, *given: Any, **named: Any) -> int:
        left = super().flush(*given, **named)
        self.renewal.take(self)
        return left


class _AdminClient(_Renewed, AdminClient):
    pass


_RENEWED: dict[Any, Any] = {Consumer: _Consumer, Producer: _Producer, AdminClient: _AdminClient}


def _check_token(token: str) -> None:
    """Refuse one that is of no use: the client would wait for another, and not say for what."""
    now = token.again() if isinstance(token, FromFile) else token
    where = f" in {token.path}" if isinstance(token, FromFile) else ""
    if not now or _end_of(now) <= time.time():
        raise UsageError(
            f"the token for Kafka{where} {'has ended' if now else 'is empty'}",
            hint="what brings the token must renew it; is this machine's clock right?",
        )


def _end_of(token: str) -> float:
    """Read until when a JSON Web Token may be used; what is none may be used for ever."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return float("inf")
