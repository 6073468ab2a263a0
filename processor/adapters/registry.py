"""The schema registry, over confluent-kafka's client: its faults in our words, nothing else.

A registry that is away is a RegistryUnavailable, which pauses; a schema that is not there is a
ContractError, which does not. The password never shows, wherever the settings hold it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from processor.adapters.http_date import ahead_of
from processor.adapters.registry_login import RegistryLogin, certificates_do_not_fit
from processor.adapters.registry_refusals import DENIED, RecordCalls, Refused
from processor.contracts.avro import SCHEMA_TEXT_MAX
from processor.contracts.schemas import self_contained
from processor.errors import ContractError, ProcessorError, RegistryUnavailable, UsageError
from processor.settings import RegistrySettings

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import Schema as ClientSchema
    from confluent_kafka.schema_registry import SchemaRegistryClient

_T = TypeVar("_T")
REFERENCES_MAX = 100  # Of one schema, with all that they refer to.
_ABSENT = (40401, 40402, 40403)  # No such subject, version, schema: the registry itself says so.
# What the client raises where an answer is JSON, and no registry's.
_MALFORMED = (TypeError, AttributeError, KeyError, RecursionError)


class NoRegistrysAnswer(ValueError):
    """What answered speaks JSON, and is no registry, or one in trouble."""


class Registry:
    """One schema registry. Nothing is connected or imported before the first call.

    Every call may raise RegistryUnavailable, or UsageError when the credentials are refused; but
    those that a record's schema id asks for only RegistryUnavailable and ContractError.
    """

    def __init__(
        self, settings: RegistrySettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._login = RegistryLogin(settings)
        self._texts_by_id, self._subjects_by_id = RecordCalls(clock), RecordCalls(clock)
        self.url = _without_password(settings.url)

    def schema_by_id(self, schema_id: int) -> str:
        """Give a schema's text, references written in; raise ContractError if there is none."""

        def fetch(schema_id: int) -> str:
            absent = ContractError(f"schema id {schema_id} is not in the registry at {self.url}")
            try:
                return self._call(
                    f"read schema {schema_id}",
                    lambda: self._with_references(self._ask(lambda it: it.get_schema(schema_id))),
                    absent=absent,
                )
            finally:
                self._clear()

        return self._texts_by_id.ask(fetch, schema_id, forget=self._forget)

    def subjects_of(self, schema_id: int) -> list[str]:
        """Name the subjects that a schema is registered under, also where it was retired since."""

        def fetch(schema_id: int) -> list[str]:
            return self._call(
                f"read the subjects of schema {schema_id}",
                lambda: self._texts(
                    self._ask(lambda it: it.get_subjects_by_schema_id(schema_id, deleted=True))
                ),
                absent=[],
            )

        return self._subjects_by_id.ask(fetch, schema_id, forget=self._forget)

    def id_of(self, subject: str, text: str) -> int:
        """Give the id of a registered schema; raise UsageError if it is not registered."""
        schema_id = self.find_id(subject, text)
        if schema_id is None:
            raise UsageError(
                f"the schema of `{subject}` is not registered at {self.url}",
                hint="run `processor schemas register`",
            )
        return schema_id

    def find_id(self, subject: str, text: str) -> int | None:
        """Give the id of a registered schema, or None."""

        def look_up() -> int | None:
            found = self._ask(lambda it: it.lookup_schema(subject, _client_schema(text)))
            return self._number(found.schema_id)

        return self._call(f"look `{subject}` up", look_up, absent=None)

    def latest(self, subject: str) -> tuple[int, str] | None:
        """Give the id and text of a subject's newest schema, or None."""

        def read() -> tuple[int, str]:
            newest = max(self._versions(subject))  # The client caches "latest" for ever.
            found = self._ask(lambda it: it.get_version(subject, newest))
            return self._number(found.schema_id), self._with_references(found.schema)

        return self._call(f"read `{subject}`", read, absent=None)

    def versions(self, subject: str) -> list[tuple[int, str]]:
        """Give every version of a subject as (number, text), the oldest first."""

        def read() -> list[tuple[int, str]]:
            return [
                (number, self._with_references(self._version(subject, number)))
                for number in sorted(self._versions(subject))
            ]

        return self._call(f"read the versions of `{subject}`", read, absent=[])

    def register(self, subject: str, text: str) -> int:
        """Register a schema and give its id; a second time changes nothing.

        Raises ProcessorError when the registry finds it incompatible.
        """
        return self._call(
            f"register `{subject}`",
            lambda: self._number(
                self._ask(lambda it: it.register_schema(subject, _client_schema(text)))
            ),
            absent=ProcessorError(f"{self.url} has no way to register schemas"),
        )

    def incompatibilities(self, subject: str, text: str) -> list[str]:
        """List the registry's own objections to a schema, by the level set for its subject."""

        def test() -> list[str]:
            answer = self._post(
                f"compatibility/subjects/{quote(subject, safe='')}/versions?verbose=true",
                {"schema": text, "schemaType": "AVRO"},
            )
            if answer["is_compatible"]:
                return []
            return [str(each) for each in answer.get("messages") or ["incompatible"]]

        return self._call(f"test `{subject}`", test, absent=[])

    def subjects(self) -> list[str]:
        """Name every subject."""

        def read() -> list[str]:
            return sorted(self._texts(self._ask(lambda it: it.get_subjects())))

        return self._call("list the subjects", read, absent=[])

    def clock_ahead_seconds(self) -> float | None:
        """How far the registry's clock is ahead of ours; None: it does not tell."""
        import httpx

        def ask() -> float | None:
            asked = time.time()
            base = self._settings.url.split(",")[0].strip().rstrip("/")
            answer = httpx.get(
                f"{base}/config",
                timeout=self._settings.timeout_seconds,
                **self._login.request_options(),
            )
            return ahead_of(asked, time.time(), answer.headers.get("date"))

        return self._call("ask for the time", ask, absent=None)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask what the client has no call for: it drops the reasons of an incompatibility."""
        import httpx
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        base = self._settings.url.split(",")[0].strip().rstrip("/")
        answer = httpx.post(
            f"{base}/{path}",
            json=body,
            timeout=self._settings.timeout_seconds,
            **self._login.request_options(),
        )
        if not answer.is_success:
            try:
                code = answer.json()["error_code"]
            except (ValueError, KeyError, TypeError):
                code = -1
            raise SchemaRegistryError(answer.status_code, code, answer.text[:200])
        document = answer.json()
        if not isinstance(document, dict) or "is_compatible" not in document:
            raise self._malformed(document)
        return document

    @functools.cached_property
    def _client(self) -> SchemaRegistryClient:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        settings = self._settings
        config: dict[str, Any] = {
            "url": settings.url,
            "timeout": settings.timeout_seconds / 2,  # Of one of its two tries.
            "max.retries": 1,  # The caller knows better what to do in an outage than to wait here.
            "retries.wait.ms": 100,
        }
        try:
            return SchemaRegistryClient({**config, **self._login.client_settings()})
        except ValueError as fault:
            raise UsageError(f"the registry settings do not fit together: {fault}") from None
        except OSError as fault:
            raise certificates_do_not_fit(fault) from None

    def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Ask by the client. Raises NoRegistrysAnswer."""
        client = self._client
        try:
            return call(client)
        except _MALFORMED as fault:
            raise self._malformed(fault) from None

    def _malformed(self, what: object) -> NoRegistrysAnswer:
        self._forget()
        return NoRegistrysAnswer(type(what).__name__)

    def _forget(self) -> None:
        """Drop the client: it keeps every answer, and would give it again."""
        self.__dict__.pop("_client", None)

    def _clear(self) -> None:
        """Have the client keep no schema: records may name any number of them."""
        client = self.__dict__.get("_client")
        if client is not None:
            client.clear_caches()

    def _number(self, answer: Any) -> int:
        if not isinstance(answer, int) or isinstance(answer, bool):
            raise self._malformed(answer)
        return answer

    def _texts(self, answer: Any) -> list[str]:
        if not isinstance(answer, list) or not all(isinstance(each, str) for each in answer):
            raise self._malformed(answer)
        return answer

    def _versions(self, subject: str) -> list[int]:
        answer = self._ask(lambda it: it.get_versions(subject))
        if not isinstance(answer, list) or not answer:
            raise self._malformed(answer)
        return [self._number(each) for each in answer]

    def _version(self, subject: str, number: int) -> ClientSchema:
        schema: ClientSchema = self._ask(lambda it: it.get_version(subject, number)).schema
        return schema

    def _with_references(self, schema: ClientSchema) -> str:
        """Write referenced schemas in, as a producer with a serializer of another kind may use."""
        definitions: dict[str, str] = {}
        text = self._gathered(schema, definitions)
        return self_contained(text, definitions) if definitions else text

    def _gathered(self, schema: ClientSchema, definitions: dict[str, str]) -> str:
        """Add what a schema refers to, each once and after what it refers to itself."""
        text = schema.schema_str
        if not isinstance(text, str) or not isinstance(schema.references or [], list):
            raise self._malformed(text)
        for reference in schema.references or []:
            if not isinstance(reference.subject, str):
                raise self._malformed(reference)
            place = f"{self._number(reference.version)} of {reference.subject}"
            if place in definitions:
                continue
            if len(definitions) >= REFERENCES_MAX:
                raise ContractError(f"the schema refers to more than {REFERENCES_MAX} others")
            definitions[place] = ""  # So that one that refers to itself ends.
            found = self._gathered(
                self._version(reference.subject, self._number(reference.version)), definitions
            )
            del definitions[place]
            definitions[place] = found
            if sum(map(len, definitions.values())) > SCHEMA_TEXT_MAX:
                raise ContractError(
                    f"the schema and what it refers to have more than {SCHEMA_TEXT_MAX} characters"
                )
        return text

    def _call(self, what: str, call: Callable[[], _T], *, absent: _T | ProcessorError) -> _T:
        """Call the registry, and say its refusals in our words."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        started = time.monotonic()
        try:
            return call()
        except SchemaRegistryError as fault:
            status, code = fault.http_status_code, fault.error_code
            if status == 404 and code in _ABSENT:
                if isinstance(absent, ProcessorError):
                    raise absent from None
                return absent
            if status in (401, 403) and code not in DENIED:
                if self._login.renewed():
                    self._forget()
                    return self._call(what, call, absent=absent)
                raise UsageError(
                    f"the registry at {self.url} refused the credentials (HTTP {status}),"
                    f" tried to {what}",
                    hint="check registry.username and registry.password, or token or certificate",
                ) from None
            known = isinstance(code, int) and 40400 < code < 40500
            # A 404 without a registry's own code comes from something else: a proxy, a wrong path.
            if status >= 500 or status in (408, 429) or (status == 404 and not known):
                raise self._away(what, started, f"HTTP {status}") from None
            raise Refused(
                f"the registry at {self.url} refused to {what}: {fault.error_message}"
                f" (HTTP {status})",
                status,
                code,
                hint="run `processor schemas check`" if status == 409 else None,
            ) from None
        except _http_faults() as fault:
            # ValueError: whatever answered there does not speak JSON.
            tls = f": {fault}" if "SSL" in str(fault) else ""
            raise self._away(what, started, f"{type(fault).__name__}{tls}") from None

    def _away(self, what: str, started: float, reason: str) -> RegistryUnavailable:
        return RegistryUnavailable(
            f"the registry at {self.url} does not answer: tried to {what}"
            f" for {time.monotonic() - started:.1f} s ({reason})",
            hint="is it running, and is registry.url right, path included?",
        )


def _http_faults() -> tuple[type[Exception], ...]:
    """Name what fails on the way: the client uses httpx2 where that is installed, else httpx."""
    http = (
        importlib.import_module(name).HTTPError
        for name in ("httpx", "httpx2")
        if importlib.util.find_spec(name) is not None
    )
    return (*http, ValueError)


def _client_schema(text: str) -> ClientSchema:
    from confluent_kafka.schema_registry import Schema

    return Schema(text, "AVRO")


def _without_password(url: str) -> str:
    """Drop the user and password from each of the comma-separated addresses."""
    shown = []
    for each in url.split(","):
        parts = urlsplit(each.strip())
        host = parts.netloc.rpartition("@")[2]
        shown.append(urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/"))
    return ",".join(shown)
