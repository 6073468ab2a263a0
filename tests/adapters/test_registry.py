from __future__ import annotations

import json
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from processor.adapters.registry import REFERENCES_MAX, Registry
from processor.adapters.registry_refusals import DENIED_SECONDS_MAX
from processor.contracts.avro import SCHEMA_TEXT_MAX, Decoder
from processor.errors import ContractError, ProcessorError, RegistryUnavailable, UsageError
from processor.settings import RegistrySettings
from tests.serving import served

pytestmark = pytest.mark.registry


def record(*fields: tuple[Any, ...], name: str = "a.job") -> str:
    described = [
        {"name": each, "type": kind, **({"default": more[0]} if more else {})}
        for each, kind, *more in fields
    ]
    return json.dumps({"type": "record", "name": name, "fields": described})


@pytest.fixture
def real(registry: Any) -> Registry:
    return Registry(RegistrySettings(url=registry.url))


@pytest.fixture
def subject() -> str:
    return f"t{uuid.uuid4().hex}-a.job"


def answering(status: int, body: bytes = b"{}") -> AbstractContextManager[str]:
    """A server on which everything gets the same answer."""
    return answering_with(lambda _: (status, body))


def answering_by_path(answers: dict[str, tuple[int, Any]]) -> AbstractContextManager[str]:
    """A server that answers with what stands there for the path at the time."""

    def answer(path: str) -> tuple[int, bytes]:
        status, document = answers[path]
        return status, json.dumps(document).encode()

    return answering_with(answer)


@contextmanager
def answering_with(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """A server that answers a path with a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with served(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_registered_schema_is_found_by_text_and_by_id(real: Registry, subject: str):
    text = record(("x", "string"))
    before = (real.latest(subject), real.find_id(subject, text), real.versions(subject))

    schema_id = real.register(subject, text)

    assert before == (None, None, [])
    assert real.register(subject, text) == schema_id
    assert real.id_of(subject, text) == schema_id
    assert json.loads(real.schema_by_id(schema_id))["fields"][0]["name"] == "x"
    assert subject in real.subjects()


def test_subjects_of_a_schema_are_told_also_where_it_was_retired(real: Registry, subject: str):
    text = record(("x", "string"), (f"y{subject[1:7]}", "string"))
    schema_id = real.register(subject, text)

    with_one = real.subjects_of(schema_id)
    real.register(f"{subject}2", text)
    with_two = sorted(real.subjects_of(schema_id))
    real._client.delete_subject(subject)

    assert with_one == [subject]
    assert with_two == [subject, f"{subject}2"]
    assert sorted(real.subjects_of(schema_id)) == with_two
    assert real.subjects_of(2_000_000_000) == []


def test_nothing_is_kept_of_the_schemas_that_records_name():
    document = {"schema": record(("x", {"type": "string", "doc": "z" * 100_000}))}
    with answering(200, json.dumps(document).encode()) as url:
        registry = Registry(RegistrySettings(url=url))
        registry.schema_by_id(1)
        tracemalloc.start()
        try:
            for schema_id in range(2, 50):
                registry.schema_by_id(schema_id)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert kept < 1_000_000


def test_newest_version_is_the_latest(real: Registry, subject: str):
    first = real.register(subject, record(("x", "string")))
    at_first = real.latest(subject)
    second = real.register(subject, record(("x", "string"), ("y", "int", 1)))

    latest = real.latest(subject)

    assert at_first is not None and at_first[0] == first
    assert latest is not None and latest[0] == second
    assert [number for number, _ in real.versions(subject)] == [1, 2]


def test_unregistered_schema_is_misuse_with_the_command_to_run(real: Registry, subject: str):
    with pytest.raises(UsageError, match="is not registered at") as caught:
        real.id_of(subject, record(("x", "string")))

    assert caught.value.hint == "run `processor schemas register`"
    assert real.latest(subject) is None


def test_unknown_schema_id_is_a_contract_fault(real: Registry):
    with pytest.raises(ContractError, match="schema id 999999 is not in the registry"):
        real.schema_by_id(999_999)


def test_incompatible_schema_is_refused_and_not_registered(
    real: Registry, subject: str, registry: Any
):
    real.register(subject, record(("x", "string")))
    httpx.put(f"{registry.url}/config/{subject}", json={"compatibility": "BACKWARD"})
    changed = record(("x", "int"))

    assert real.incompatibilities(subject, changed) != []
    with pytest.raises(ProcessorError, match="refused to register"):
        real.register(subject, changed)

    assert real.find_id(subject, changed) is None
    assert real.incompatibilities(subject, record(("x", "string"), ("y", "int", 1))) == []


def test_schema_with_references_is_given_whole(real: Registry, subject: str, registry: Any):
    part = f"{subject}-part"
    real.register(part, record(("uri", "string"), name="b.part"))
    answer = httpx.post(
        f"{registry.url}/subjects/{subject}/versions",
        json={
            "schema": record(("part", "b.part")),
            "schemaType": "AVRO",
            "references": [{"name": "b.part", "subject": part, "version": 1}],
        },
    )

    decoded = Decoder(real).decode(b"\x00" + answer.json()["id"].to_bytes(4, "big") + b"\x02u")

    assert decoded.payload == {"part": {"uri": "u"}}


def test_registry_that_is_away_says_where_what_and_for_how_long():
    away = Registry(RegistrySettings(url="http://me:s3cret@127.0.0.1:9/api", timeout_seconds=1))

    for call in (
        lambda: away.schema_by_id(1),
        lambda: away.incompatibilities("a", record()),
        away.subjects,
    ):
        with pytest.raises(RegistryUnavailable) as caught:
            call()

        assert "http://127.0.0.1:9/api does not answer: tried to" in caught.value.message
        assert " s (ConnectError)" in caught.value.message
        assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"


def test_slow_registry_is_given_up_on_after_the_timeout():
    released = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            released.wait(30)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = RegistrySettings(url=f"http://127.0.0.1:{server.server_port}", timeout_seconds=0.2)
    started = time.monotonic()
    try:
        with pytest.raises(RegistryUnavailable, match="ReadTimeout"):
            Registry(settings).schema_by_id(1)
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()

    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (503, b"<html>"),
        (429, b"{}"),
        (404, b"<html>"),
        (404, b"{}"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (302, b""),
        (400, b"<html>plain HTTP was sent to an HTTPS port"),
        (400, b'{"error_code": 400, "message": "Bad Request"}'),
        (407, b"proxy"),
        (421, b""),
        (403, b'{"error_code": 40301, "message": "User is denied operation Read"}'),
        (200, b"<html>"),
        (200, b"{}"),
        (200, b'"x"'),
        (200, b"null"),
        (200, b'{"status": "maintenance"}'),
        (200, b'{"schema": 5}'),
        (200, b'{"schema": "{}", "references": [{}]}'),
        (200, b'{"schema": "{}", "references": 5}'),
        (200, b"[" * 100_000),
        (204, b""),
    ],
)
@pytest.mark.parametrize("ask", [Registry.schema_by_id, Registry.subjects_of])
def test_answer_that_is_no_registrys_pauses_and_never_blames_the_bytes(
    status: int, body: bytes, ask: Callable[[Registry, int], object]
):
    with answering(status, body) as url, pytest.raises(RegistryUnavailable):
        ask(Registry(RegistrySettings(url=url)), 1)


def test_answer_that_is_no_registrys_is_not_kept():
    answers: dict[str, tuple[int, Any]] = {"/schemas/ids/1": (200, {})}
    with answering_by_path(answers) as url:
        real = Registry(RegistrySettings(url=url))
        with pytest.raises(RegistryUnavailable, match="NoRegistrysAnswer"):
            real.schema_by_id(1)
        answers["/schemas/ids/1"] = (200, {"schema": record()})

        assert real.schema_by_id(1) == record()


def test_list_is_no_schema():
    with answering(200, b"[]") as url, pytest.raises(RegistryUnavailable):
        Registry(RegistrySettings(url=url)).schema_by_id(1)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_misuse_that_names_the_settings(status: int):
    with answering(status) as url:
        refused = Registry(RegistrySettings(url=url, username="me", password=SecretStr("s3cret")))
        with pytest.raises(UsageError, match="refused the credentials") as caught:
            refused.subjects()

    assert "check registry.username and registry.password" in str(caught.value.hint)
    assert "s3cret" not in caught.value.message


@pytest.mark.parametrize("ask", [Registry.schema_by_id, Registry.subjects_of])
@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_an_outage_for_a_record_in_hand(
    status: int, ask: Callable[[Registry, int], object]
):
    said = "refused the credentials"
    with answering(status) as url, pytest.raises(RegistryUnavailable, match=said) as caught:
        ask(Registry(RegistrySettings(url=url)), 1)

    assert "check registry.username and registry.password" in str(caught.value.hint)


@pytest.mark.parametrize("ask", [Registry.schema_by_id, Registry.subjects_of])
@pytest.mark.parametrize(("status", "code"), [(404, 40406), (422, 42201), (422, 42202)])
def test_id_that_the_registry_will_not_have_is_the_records_fault(
    status: int, code: int, ask: Callable[[Registry, int], object]
):
    body = json.dumps({"error_code": code, "message": "not that one"}).encode()

    said = rf"not that one \(HTTP {status}\)"
    with answering(status, body) as url, pytest.raises(ContractError, match=said):
        ask(Registry(RegistrySettings(url=url)), 1)


DENIED = (403, {"error_code": 40301, "message": "User is denied operation Read"})
BY_ID = [
    (Registry.schema_by_id, "/schemas/ids/{}", {"schema": record()}),
    (Registry.subjects_of, "/schemas/ids/{}/subjects", ["a-a.job"]),
]


@pytest.mark.parametrize(("ask", "path", "good"), BY_ID)
def test_denied_id_is_the_records_fault_where_others_are_answered(
    ask: Callable[[Registry, int], object], path: str, good: Any
):
    with answering_by_path({path.format(1): (200, good), path.format(2): DENIED}) as url:
        worker = Registry(RegistrySettings(url=url))
        ask(worker, 1)

        with pytest.raises(ContractError, match="User is denied"):
            ask(worker, 2)


@pytest.mark.parametrize(("ask", "path", "good"), BY_ID)
@pytest.mark.parametrize("told", [DENIED, (404, {"error_code": 40403, "message": "deleted"})])
def test_denied_id_waits_where_others_are_not_answered_any_more(
    ask: Callable[[Registry, int], object], path: str, good: Any, told: tuple[int, Any]
):
    answers = {path.format(1): (200, good), path.format(2): DENIED}
    with answering_by_path(answers) as url:
        worker = Registry(RegistrySettings(url=url))
        ask(worker, 1)
        answers[path.format(1)] = told  # The rights are lost, or that one tells nothing.

        with pytest.raises(RegistryUnavailable, match="User is denied"):
            ask(worker, 2)

        answers[path.format(2)] = (200, good)
        assert ask(worker, 2)


@pytest.mark.parametrize(("ask", "path", "good"), BY_ID)
def test_denied_id_waits_a_bounded_time_where_nothing_was_answered_yet(
    ask: Callable[[Registry, int], object], path: str, good: Any
):
    now = [100.0]
    with answering_by_path({path.format(n): DENIED for n in (1, 2)}) as url:
        worker = Registry(RegistrySettings(url=url), clock=lambda: now[0])
        for schema_id, later in ((1, 0.0), (2, 1.0), (1, DENIED_SECONDS_MAX - 2)):
            now[0] += later
            with pytest.raises(RegistryUnavailable, match="User is denied"):
                ask(worker, schema_id)

        now[0] += 1.0
        for schema_id in (1, 2):
            with pytest.raises(ContractError, match="User is denied"):
                ask(worker, schema_id)


def referring(*subjects: str, text: str) -> tuple[int, Any]:
    listed = [{"name": f"{each}.x", "subject": each, "version": 1} for each in subjects]
    return 200, {"schema": text, "references": listed, "id": 7, "version": 1}


def versions(**answers: tuple[int, Any]) -> dict[str, tuple[int, Any]]:
    return {f"/subjects/{subject}/versions/1": answer for subject, answer in answers.items()}


def test_schema_that_two_references_lead_to_is_asked_for_once_and_written_in_once():
    answers = versions(
        bottom=referring(text=record(("x", "int"), name="a.bottom")),
        left=referring("bottom", text=record(("x", "a.bottom"), name="a.left")),
        right=referring("bottom", text=record(("x", "a.bottom"), name="a.right")),
    )
    top = record(("left", "a.left"), ("right", "a.right"))
    answers["/schemas/ids/1"] = referring("left", "right", text=top)
    with answering_by_path(answers) as url:
        text = Registry(RegistrySettings(url=url)).schema_by_id(1)

    payload = Decoder(FixedSource(text)).decode(b"\0\0\0\0\1\4\6").payload
    assert payload == {"left": {"x": {"x": 2}}, "right": {"x": {"x": 3}}}


def test_references_of_references_are_asked_for_once_however_often_they_are_named():
    asked: list[str] = []
    levels, part = 12, '{"type": "array", "items": "int"}'

    class Counted(dict[str, tuple[int, Any]]):
        def __getitem__(self, path: str) -> tuple[int, Any]:
            asked.append(path)
            return super().__getitem__(path)

    answers = Counted(versions(s0=referring(text=part)))
    for level in range(1, levels):
        answers |= versions(**{f"s{level}": referring(*[f"s{level - 1}"] * 4, text=part)})
    answers["/schemas/ids/1"] = referring(f"s{levels - 1}", text=record())
    with answering_by_path(answers) as url:
        Registry(RegistrySettings(url=url)).schema_by_id(1)

    assert len(asked) == levels + 1


def test_schema_may_refer_to_a_hundred_others_and_no_more():
    subjects = [f"s{n}" for n in range(REFERENCES_MAX + 1)]
    answers = versions(
        **{each: referring(text=record(name=f"a.{each}")) for each in subjects},
        loop=referring("loop", text=record(("x", "a.more"), name="a.loop")),
        large=referring(text=record(name="a.l" + "x" * SCHEMA_TEXT_MAX)),
    )
    for number, refers_to in enumerate((subjects[1:], subjects, ["loop"], ["large"])):
        answers[f"/schemas/ids/{number}"] = referring(*refers_to, text=record())
    with answering_by_path(answers) as url:
        worker = Registry(RegistrySettings(url=url))

        assert json.loads(worker.schema_by_id(0))["name"] == "a.job"
        with pytest.raises(ContractError, match="refers to more than 100 others"):
            worker.schema_by_id(1)
        with pytest.raises(ContractError, match="not a usable schema"):
            worker.schema_by_id(2)
        with pytest.raises(ContractError, match="more than 1048576 characters"):
            worker.schema_by_id(3)


class FixedSource:
    def __init__(self, text: str) -> None:
        self.schema_by_id = lambda _: text
