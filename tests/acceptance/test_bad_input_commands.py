"""Bad input to a command: one clear line with a hint, the right exit code, and nothing is sent."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from processor.adapters.reader import TopicReader
from processor.contracts.claims import claim_from_header
from processor.model import Record
from processor.sinks.sqlite import SqliteLedger
from tests.acceptance.project import Project, Ran

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]

# An outage is told after some 10 seconds; the rest is for starting many commands at once.
OUTAGE_SECONDS_MAX = 30.0
MISUSE, FAILED, PROBLEM = 2, 1, 3

APP = "from processor import App\napp = App()\n"
HANDLERS = APP + "@app.job('mail.send')\ndef send(payload: dict, ctx) -> None: ...\n"
GOOD = '{"to": "ann"}'
BIG = json.dumps({"to": "x" * 20_000})
YAML = "name: {name}.mail\njobs: [mail.send]\npartitions: 2\n"


@dataclass(frozen=True)
class Case:
    """What a user types, in a folder with these files changed, and what they must be told."""

    arguments: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    hint: str | None = None  # None: each line of the fault says itself what to do.
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""


def submit(
    document: str, *more: str, code: int = MISUSE, says: str, hint: str, **rest: Any
) -> Case:
    return Case(("submit", "mail.send", "--json", document, *more), code, (says,), hint, **rest)


def work(says: str, hint: str, source: str | None = None, **rest: Any) -> Case:
    """A worker of the module `mine`, which has this source."""
    files = {} if source is None else {"mine.py": source}
    return Case(("work", "mine:app"), MISUSE, (says,), hint, files=files, **rest)


def kafka(name: str, value: str, says: str) -> Case:
    env = {f"PROCESSOR_KAFKA_{name}": value}
    return Case(("work", "handlers:app"), MISUSE, (says,), "configuration", env=env)


CASES = {
    # Names.
    "unknown job type": Case(
        ("submit", "mail.sned", "--json", GOOD), MISUSE, ("`mail.sned`",), "mean `mail.send`?"
    ),
    "unknown topic of lag": Case(("lag", "{name}.mial"), MISUSE, ("{name}.mial",), "{name}.mail"),
    "unknown topic of work": Case(
        ("work", "handlers:app", "--topic", "{name}.mial"), MISUSE, ("{name}.mial",), "{name}.mail"
    ),
    "unknown topic of status": Case(
        ("status", "x", "--topic", "{name}.mial"), MISUSE, ("{name}.mial",), "{name}.mail"
    ),
    "unknown topic of dead list": Case(
        ("dead", "list", "{name}.mial"), MISUSE, ("{name}.mial",), "{name}.mail"
    ),
    "unknown topic of topics": Case(
        ("topics", "plan", "{name}.mial"), MISUSE, ("{name}.mial",), "{name}.mail"
    ),
    "unknown command": Case(("sumbit",), MISUSE, ("sumbit",), "`processor submit`"),
    # Payloads.
    "missing field": submit("{}", says="field `to`: expected string", hint="mail.send.avsc"),
    "wrong type": submit('{"to": 5}', says="field `to`: expected string, got int", hint="avsc"),
    "unknown field": submit('{"to": "a", "sise": 3}', says="`sise`: unknown", hint="`size`"),
    "no record": submit("[1]", says="expected a record, got list", hint="avsc"),
    "broken JSON": submit('{"to": ', says="not JSON", hint="quote it"),
    "JSON without end": submit("[" * 50_000, says="not JSON: nested too deep", hint="quote it"),
    "number without end": submit('{"size": ' + "9" * 5_000 + "}", says="not JSON", hint="quote"),
    "text that is no text": submit(r'{"to": "\ud800"}', says="lone surrogates", hint="avsc"),
    "value too large": submit(BIG, says="there is no claim store", hint="[claims] store"),
    "upload without a store": submit(
        GOOD, "--file", "handlers.py", says="no claim store", hint="[claims] store"
    ),
    "key that is no text": submit(GOOD, "--key", "\udcff", says="the key has lone", hint="text"),
    "key too long": submit(GOOD, "--key", "k" * 1025, says="1025 bytes", hint="1024"),
    "empty idempotency key": submit(GOOD, "--idempotency-key", "", says="0 bytes", hint="256"),
    "idempotency key of two lines": submit(
        GOOD, "--idempotency-key", "a\nb", says="control characters", hint="one line"
    ),
    "unknown key field": submit(GOOD, "--key-field", "too", says="no field `too`", hint="payload"),
    "endless wait": submit(GOOD, "--not-before", "inf", says="not-before inf", hint="seconds"),
    "milliseconds": submit(GOOD, "--deadline", "1767225600000", says="no time", hint="seconds"),
    "negative deadline": submit(GOOD, "--deadline", "-5", says="deadline -5", hint="seconds"),
    "report that is none": Case(
        ("submit", "mail.send", "--from", "-", "--report", "handlers.py"), MISUSE,
        ("no report",), "new file", stdin=GOOD,
    ),
    "file that is not there": Case(
        ("submit", "mail.send", "--from", "jobs.jsonl"), MISUSE, ("jobs.jsonl",), "--help"
    ),
    # Files of the project.
    "YAML that is none": Case(
        ("submit", "mail.send", "--json", GOOD), MISUSE, ("topics/mail.yaml:2:1: not YAML",),
        files={"topics/mail.yaml": "name: [x\n"},
    ),
    "YAML with a wrong key": Case(
        ("work", "handlers:app"), MISUSE, ("topics/mail.yaml:4: `retyr`", "mean `retry`?"),
        files={"topics/mail.yaml": YAML + "retyr: {}\n"},
    ),
    "YAML with two faults": Case(
        ("lag",), MISUSE, ("2 faults", "`partitions`", "`ordering`"),
        files={"topics/mail.yaml": "name: m\njobs: [mail.send]\npartitions: 0\nordering: any\n"},
    ),
    "YAML with an unknown job": Case(
        ("topics", "apply"), MISUSE, ("`mail.sned` has no schema", "mean `mail.send`?"),
        files={"topics/mail.yaml": YAML.replace("mail.send", "mail.sned")},
    ),
    "YAML that is no text": Case(
        ("lag",), MISUSE, ("topics/mail.yaml: cannot be read",), files={"topics/mail.yaml": b"\xff"}
    ),
    "schema that is no JSON": Case(
        ("submit", "mail.send", "--json", GOOD), MISUSE, ("schemas/mail.send.avsc:1:2: not JSON",),
        files={"schemas/mail.send.avsc": "{"},
    ),
    "schema that is no Avro": Case(
        ("schemas", "register"), MISUSE, ("schemas/mail.send.avsc: ", "`fields`"),
        files={"schemas/mail.send.avsc": '{"type": "record", "name": "mail.send", "doc": "D."}'},
    ),
    "schema that is checked": Case(
        ("schemas", "check"), PROBLEM, ("1 problem",), files={"schemas/mail.send.avsc": "{"}
    ),
    "schema that nobody registered": submit(
        GOOD, says="is not registered", hint="`processor schemas register`",
        files={"schemas/mail.send.avsc": json.dumps({
            "type": "record", "namespace": "mail", "name": "send", "doc": "A job.",
            "fields": [{"name": "to", "type": "string", "doc": "Whom."},
                       {"name": "cc", "type": "string", "doc": "Whom else.", "default": ""}],
        })},
    ),
    "settings that are no TOML": submit(
        GOOD, says="processor.toml: is not TOML", hint="config", files={"processor.toml": "[kafka"}
    ),
    "setting with a wrong name": Case(
        ("work", "handlers:app"), MISUSE, ("worker.concurency", "mean worker.concurrency?"),
        "config", files={"processor.toml": "[worker]\nconcurency = 3\n"},
    ),
    "setting with a wrong value": Case(
        ("lag",), MISUSE, ("PROCESSOR_WORKER_CONCURRENCY", "'many'"), "config",
        env={"PROCESSOR_WORKER_CONCURRENCY": "many"},
    ),
    "two wrong settings": Case(
        ("lag",), MISUSE, ("2 faults", "worker.concurrency", "log.level"), "config",
        env={"PROCESSOR_WORKER_CONCURRENCY": "0", "PROCESSOR_LOG_LEVEL": "loud"},
    ),
    # Settings of the client.
    "commits by itself": kafka("ENABLE_AUTO_COMMIT", "true", "committed by hand"),
    "silent reset": kafka("AUTO_OFFSET_RESET", "earliest", "skips or repeats jobs"),
    "weak acks": kafka("ACKS", "1", "every in-sync replica"),
    "no idempotence": kafka("ENABLE_IDEMPOTENCE", "false", "duplicates a job"),
    "another partitioner": kafka("PARTITIONER", "random", "split the key"),
    "another group": kafka("GROUP_ID", "mine", "set worker.group"),
    "unknown client setting": Case(
        ("work", "handlers:app"), MISUSE, ('"no.such.setting"',), "config show",
        env={"PROCESSOR_KAFKA_NO_SUCH_SETTING": "1"},
    ),
    "unknown client setting of topics": Case(
        ("topics", "plan"), MISUSE, ('"no.such.setting"',), "config show",
        env={"PROCESSOR_KAFKA_NO_SUCH_SETTING": "1"},
    ),
    # Handlers.
    "module that is not there": work("No module named 'mine'", "python -c"),
    "module with a typo": work("SyntaxError", "python -c", "def f(:\n"),
    "module that lacks a package": work("'nosuch' (", "python -c", "import nosuch\n"),
    "module that fails": work("ZeroDivisionError", "python -c", "x = 1 / 0\n"),
    "module that exits": work("SystemExit: 4", "python -c", "import sys\nsys.exit(4)\n"),
    "module without an app": work("is nothing, not", "`app = App()`", "x = 1\n"),
    "app that is none": work("is a int, not", "`app = App()`", "app = 5\n"),
    "app without handlers": work("has no handlers", "@app.job", APP),
    "handler of no job": work("`mail.sned`", "`mail.send`?", HANDLERS.replace("send'", "sned'")),
    "handler of no topic": work(
        "`post.mail`", "`mail.send`", HANDLERS + "@app.job('post.mail')\ndef p(payload): ...\n"
    ),
    "handler that takes nothing": work(
        "takes nothing", "(payload, ctx)", APP + "@app.job('mail.send')\ndef send(): ...\n"
    ),
    "handler with a wrong timeout": work(
        "timeout 'soon' of `mail.send`", "500ms, 90s",
        HANDLERS.replace("'mail.send'", "'mail.send', timeout='soon'"),
    ),
    "job without a handler": Case(
        ("work", "processor.jobs:app", "--topic", "{name}.mail"), MISUSE,
        ("`mail.send`, which this app has no handler for",), "register a handler",
    ),
    "no app named": Case(("work", "handlers"), MISUSE, ("does not name an app",), "module:app"),
    "file for a module": Case(("work", "handlers.py:app"), MISUSE, ("handlers.py",), "module:app"),
    # Ledgers.
    "ledger that is no ledger": Case(
        ("work", "handlers:app"), FAILED, ("junk.db", "not a database"), "another program",
        env={"PROCESSOR_LEDGER_URL": "sqlite:///junk.db"}, files={"junk.db": "no ledger " * 100},
    ),
    "ledger below a file": Case(
        ("work", "handlers:app"), MISUSE, ("handlers.py/ledger.db",), "ledger.url",
        env={"PROCESSOR_LEDGER_URL": "sqlite:///handlers.py/ledger.db"},
    ),
    "ledger of another kind": Case(
        ("work", "handlers:app"), MISUSE, ("mysql",), "config",
        env={"PROCESSOR_LEDGER_URL": "mysql://db/x"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(kafka: Any, registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one good topic, applied and registered, and a good module."""
    project = Project(tmp_path_factory.mktemp("project"), {
        "kafka": {"bootstrap.servers": kafka.bootstrap_servers},
        "registry": {"url": registry.url},
    })  # fmt: skip
    project.add_schema("mail.send", [
        {"name": "to", "type": "string"}, {"name": "size", "type": "int", "default": 0},
    ])  # fmt: skip
    project.add_topic("mail", ["mail.send"], partitions=2)
    project.add_module("handlers", HANDLERS)
    project.provision()
    # Without one, commands that look at dead letters say a line about it.
    SqliteLedger(project.folder / ".processor" / "ledger.db").close()
    return project


class Copies:
    """Runs commands in copies of the project, two at a time."""

    def __init__(self, original: Project, folder: Path) -> None:
        self._original = original
        self._folder = folder
        self._pool = ThreadPoolExecutor(2)

    def run(self, name: str, case: Case) -> Future[Ran]:
        return self._pool.submit(self._run, name, case)

    def _run(self, name: str, case: Case) -> Ran:
        project = copy(self._original)
        project.folder = self._folder / name.replace(" ", "-")
        shutil.copytree(self._original.folder, project.folder)
        for path, content in case.files.items():
            written = content if isinstance(content, bytes) else self.filled(content).encode()
            (project.folder / path).write_bytes(written)
        return project.run(*map(self.filled, case.arguments), env=case.env, stdin=case.stdin)

    def filled(self, text: str) -> str:
        return text.replace("{name}", self._original.name)


@pytest.fixture(scope="module")
def copies(folder: Project, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    return Copies(folder, tmp_path_factory.mktemp("copies"))


@pytest.fixture(scope="module")
def answers(copies: Copies, request: pytest.FixtureRequest) -> dict[str, Future[Ran]]:
    """The answer to each case that is asked for in this session."""
    chosen = {
        item.callspec.params["name"]  # type: ignore[attr-defined]
        for item in request.session.items
        if "answers" in getattr(item, "fixturenames", ()) and hasattr(item, "callspec")
    }
    return {name: copies.run(name, CASES[name]) for name in CASES if name in chosen}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_told_in_a_clear_line(
    copies: Copies, answers: dict[str, Future[Ran]], name: str
):
    case = CASES[name]

    ran = answers[name].result()

    ran.refused(case.code, *map(copies.filled, case.says))
    assert ran.stdout == "" or case.code == PROBLEM
    if case.code != PROBLEM:
        told = ran.stderr.splitlines()
        assert told[0].startswith("error: ")
        assert sum(line.startswith("error: ") for line in told) == 1
        if case.hint:
            hints = [line for line in told if line.startswith("hint: ")]
            assert copies.filled(case.hint) in (hints or told)[-1]


def test_nothing_of_a_refused_input_is_on_the_topic(
    folder: Project, answers: dict[str, Future[Ran]]
):
    for each in answers.values():
        each.result()

    assert records(folder, f"{folder.name}.mail") == []


# Whole files.


def test_good_lines_of_a_bad_file_are_accepted_and_the_mended_rest_later(project: Project):
    del project.tables["claims"]
    project.write_settings()
    topic = mail_project(project)
    bad = [b'{"to": "1"}', b'{"to": ', b'{"to": 3}', b"", b'{"to": "\xff"}', BIG.encode(),
           b"[" * 50_000, b'{"to": "8"}']  # fmt: skip
    jobs = project.folder / "jobs.jsonl"
    jobs.write_bytes(b"\n".join(bad))
    command = ("submit", "mail.send", "--from", "jobs.jsonl", "--report", "report.jsonl")

    first = project.run(*command)

    first.refused(FAILED, "line 2: not JSON", "line 3: payload of `mail.send`: field `to`",
                  "line 5: ", "line 6: ", "line 7: not JSON", "2 accepted, 5 refused")  # fmt: skip
    assert [row["line"] for row in first.rows()] == [1, 8]
    assert len(records(project, topic)) == 2

    jobs.write_text("\n".join(f'{{"to": "{number}"}}' for number in range(1, 9)))
    second = project.run(*command).ok()

    assert [row["line"] for row in second.rows()] == [2, 3, 4, 5, 6, 7]
    assert "6 accepted, 0 refused, 2 accepted before" in second.stderr
    assert len(records(project, topic)) == 8
    assert project.run(*command).ok().stdout == ""


# Large values.


def test_value_over_the_limit_is_claimed_and_its_record_is_small(project: Project):
    topic = mail_project(project)

    project.run("submit", "mail.send", "--json", BIG, "--key", "k").ok()

    (record,) = records(project, topic)
    assert record.value is None
    assert record.key == b"k"
    size = sum(len(name) + len(value) for name, value in record.headers)
    assert size < 1024
    claim = claim_from_header(dict(record.headers)["claim"])
    assert claim.uri.startswith((project.folder / "claims").as_uri())
    assert Path(claim.uri.removeprefix("file://")).stat().st_size == claim.size > 20_000


@pytest.mark.s3
def test_claim_store_with_a_wrong_key_is_told(project: Project, s3: Any):
    topic = mail_project(project)
    project.write_settings(
        claims={"store": "s3://processor-claims/x"},
        s3={"endpoint_url": s3.endpoint_url, "region": s3.region,
            "access_key_id": s3.access_key_id, "secret_access_key": "not-this-one"},
    )  # fmt: skip

    ran = project.run("submit", "mail.send", "--json", BIG)

    ran.refused(FAILED, "refuses the credentials", "hint: check `[s3] access_key_id`")
    assert "not-this-one" not in ran.stderr
    assert records(project, topic) == []


# Servers that are away, and passwords that nobody takes: all asked at once, since they wait.

SUBMIT = ("submit", "mail.send", "--json", GOOD)
KAFKA_COMMANDS = [
    SUBMIT,
    (*SUBMIT, "--wait"),
    ("work", "handlers:app"),
    ("lag", "{name}.mail"),
    ("lag",),
    ("status", "x", "--topic", "{name}.mail"),
    ("dead", "list", "{name}.mail"),
    ("topics", "plan"),
]
REGISTRY_COMMANDS = [
    SUBMIT,
    ("work", "handlers:app"),
    ("schemas", "register"),
    ("schemas", "check", "--against", "registry"),
]
FROM_A_FILE = ("submit", "mail.send", "--from", "-", "--report", "report.jsonl")
LINES = "\n".join([GOOD] * 500)
SASL = {"PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "PROCESSOR_KAFKA_SASL_MECHANISM": "PLAIN",
        "PROCESSOR_KAFKA_SASL_USERNAME": "ann",
        "PROCESSOR_KAFKA_SASL_PASSWORD": "hunter-two"}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    ran: Ran
    seconds: float


@pytest.fixture(scope="module")
def outages(folder: Project) -> dict[str, list[Answer]]:
    closed = unused_port()
    no_broker = {"PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{closed}"}
    no_registry = {"PROCESSOR_REGISTRY_URL": f"http://127.0.0.1:{closed}"}
    with silent_server() as port:
        silent = f"127.0.0.1:{port}"
        store = {"PROCESSOR_CLAIMS_STORE": "s3://b/claims",
                 "PROCESSOR_S3_ENDPOINT_URL": f"http://{silent}", "PROCESSOR_S3_REGION": "r",
                 "PROCESSOR_S3_ACCESS_KEY_ID": "a",
                 "PROCESSOR_S3_SECRET_ACCESS_KEY": "secret"}  # fmt: skip
        wanted = {
            "broker away": [(command, no_broker, "") for command in KAFKA_COMMANDS],
            "broker away from a file": [(FROM_A_FILE, no_broker, LINES)],
            "broker silent": [(SUBMIT, {"PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": silent}, "")],
            "registry away": [(command, no_registry, "") for command in REGISTRY_COMMANDS],
            "registry silent": [(SUBMIT, {"PROCESSOR_REGISTRY_URL": f"http://{silent}"}, "")],
            "store silent": [(("submit", "mail.send", "--json", BIG), store, "")],
            "password": [(command, SASL, "") for command in KAFKA_COMMANDS[2:4]],
        }
        with ThreadPoolExecutor(32) as pool:
            asked = {
                name: [pool.submit(timed, folder, *each) for each in commands]
                for name, commands in wanted.items()
            }
        return {name: [each.result() for each in waiting] for name, waiting in asked.items()}


@pytest.mark.parametrize("number", range(len(KAFKA_COMMANDS)))
def test_broker_that_is_away_is_told_soon(outages: dict[str, list[Answer]], number: int):
    answer = outages["broker away"][number]

    answer.ran.refused(FAILED, "error: Kafka at 127.0.0.1:", "does not answer", " for 1", "hint: ")
    assert len(answer.ran.stderr.splitlines()) == 2, answer.ran.stderr
    assert answer.seconds < OUTAGE_SECONDS_MAX


def test_outage_in_front_of_a_file_is_told_once_and_accepts_nothing(
    folder: Project, outages: dict[str, list[Answer]]
):
    (answer,) = outages["broker away from a file"]
    before = len(records(folder, f"{folder.name}.mail"))

    again = folder.run(*FROM_A_FILE, stdin=LINES).ok()

    answer.ran.refused(FAILED, "does not answer", "hint: ")
    assert len(answer.ran.stderr.splitlines()) == 2, answer.ran.stderr
    assert answer.ran.stdout == ""
    assert len(again.rows()) == 500
    assert (before, len(records(folder, f"{folder.name}.mail"))) == (0, 500)


@pytest.mark.parametrize("who", ["broker", "registry", "store"])
def test_server_that_is_silent_is_told_soon(outages: dict[str, list[Answer]], who: str):
    (answer,) = outages[f"{who} silent"]

    answer.ran.refused(FAILED, "error: ", "127.0.0.1:", " for 1", "hint: ")
    assert len(answer.ran.stderr.splitlines()) == 2, answer.ran.stderr
    assert answer.seconds < OUTAGE_SECONDS_MAX


@pytest.mark.parametrize("number", range(len(REGISTRY_COMMANDS)))
def test_registry_that_is_away_is_told_soon(outages: dict[str, list[Answer]], number: int):
    answer = outages["registry away"][number]

    answer.ran.refused(
        FAILED, "error: the registry at http://127.0.0.1:", "tried to", " for ", "hint: "
    )
    assert len(answer.ran.stderr.splitlines()) == 2, answer.ran.stderr
    assert answer.seconds < OUTAGE_SECONDS_MAX


def test_broker_that_knows_no_passwords_is_told(outages: dict[str, list[Answer]]):
    for answer in outages["password"]:
        answer.ran.refused(MISUSE, "refuses the credentials", "SASL PLAIN", "hint: check")
        assert len(answer.ran.stderr.splitlines()) == 2, answer.ran.stderr
        assert "hunter-two" not in answer.ran.stderr


def test_registry_that_refuses_the_password_is_told(folder: Project):
    with refusing_registry() as url:
        env = {"PROCESSOR_REGISTRY_URL": url, "PROCESSOR_REGISTRY_USERNAME": "ann",
               "PROCESSOR_REGISTRY_PASSWORD": "hunter-two"}  # fmt: skip

        for command in REGISTRY_COMMANDS[:2]:
            ran = folder.run(*command, env=env)
            ran.refused(MISUSE, "refused the credentials (HTTP 401)", "hint: check registry.user")
            assert "hunter-two" not in ran.stderr


# Topics that do not fit.


def test_topic_that_was_not_applied_is_told(project: Project):
    mail_project(project, apply=False)
    name = f"{project.name}.mail"

    for command in [
        ("submit", "mail.send", "--json", GOOD),
        ("submit", "mail.send", "--from", "handlers.py"),
        ("work", "handlers:app", "--topic", name),
        ("lag", name),
        ("status", "x", "--topic", name),
        ("dead", "list", name),
    ]:
        ran = project.run(*command)
        ran.refused(
            MISUSE, f"topic `{name}", "does not exist", "hint: run `processor topics apply`"
        )


def test_worker_refuses_a_retry_topic_with_too_few_partitions(
    project: Project, servers: dict[str, dict[str, Any]]
):
    topic = mail_project(project)
    admin = AdminClient({"bootstrap.servers": servers["kafka"]["bootstrap.servers"]})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result(20)

    ran = project.run("work", "handlers:app", "--topic", topic)

    ran.refused(MISUSE, f"topic `{topic}` has 6 partitions, `{topic}.retry.1` has 2",
                "hint: run `processor topics plan`")  # fmt: skip


def test_worker_refuses_a_port_that_is_taken(folder: Project):
    with silent_server() as port:
        ran = folder.run("work", "handlers:app", "--metrics-port", str(port))

    ran.refused(MISUSE, f"cannot listen on 127.0.0.1:{port}", "hint: set worker.metrics_port")


def mail_project(project: Project, *, apply: bool = True) -> str:
    project.add_schema("mail.send", [{"name": "to", "type": "string"}])
    project.add_module("handlers", HANDLERS)
    topic = project.add_topic("mail", ["mail.send"], partitions=2)
    if apply:
        project.provision()
    else:
        project.run("schemas", "register").ok()
    return topic


def records(project: Project, topic: str) -> list[Record]:
    with TopicReader(project.settings().kafka) as reader:
        return list(reader.read_all(reader.partitions(topic)))


def timed(project: Project, command: tuple[str, ...], env: Mapping[str, str], stdin: str) -> Answer:
    started = time.monotonic()
    words = [word.replace("{name}", project.name) for word in command]
    ran = project.run(*words, env=env, stdin=stdin)
    return Answer(ran, time.monotonic() - started)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield int(listening.getsockname()[1])


@contextlib.contextmanager
def refusing_registry() -> Iterator[str]:
    class Refuses(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"error_code": 40101, "message": "Unauthorized"}')

        do_GET = do_POST = _refuse  # noqa: N815 - the server's own names.

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
