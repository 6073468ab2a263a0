"""Planted personal data is told nowhere but to the handler: a run with errors, and its keys."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from processor.adapters.reader import TopicReader
from processor.client import Client
from processor.contracts.schemas import SchemaSet
from processor.contracts.topics import Topic, TopicSet
from processor.errors import UsageError
from processor.model import Record
from processor.status import StatusReader
from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker, pytest.mark.registry]

CANARY = "canary-4711 Ögg@example.com"
PHOTO = b"\x00canary-photo\xff"
FORMS = [CANARY, CANARY.upper(), ascii(CANARY)[1:-1], json.dumps(CANARY)[1:-1], "canary-4711",
         "canary-photo"]  # fmt: skip
PII = {"confluent:tags": ["PII"]}
FIELDS = [
    {"name": "to", "type": "string", **PII},
    {"name": "photo", "type": ["null", "bytes"], "default": None, **PII},
    {"name": "act", "type": "string"},
]
MODULE = """
import logging
from dataclasses import dataclass
from processor import App, Reject

app = App()

def seen(to):
    with open("handler-saw.txt", "a") as log:
        log.write(to + chr(10))

def act(payload, ctx):
    to = payload["to"]
    seen(to)
    ctx.log.info("sending to " + to, to=to, photo=str(payload["photo"]))
    logging.getLogger("mailer").warning("mail for %s and %r", to, payload["photo"])
    match payload["act"]:
        case "fail":
            try:
                raise KeyError(to)
            except KeyError as cause:
                raise ConnectionError(f"no route to {to!r}, photo {payload['photo']!r}") from cause
        case "long":
            raise ConnectionError("x" * 1015 + to)
        case "reject":
            raise Reject(f"there is no mailbox {to.upper()}")
    return {"sent": to, to: [to]}

@app.job("mail.send")
def send(payload: dict, ctx) -> dict:
    return act(payload, ctx)

@app.job("mail.poll")
async def poll(payload: dict, ctx) -> dict:
    return act(payload, ctx)

@app.job("mail.many", batch=10)
def many(payloads: list[dict], contexts) -> list:
    results = []
    for payload, ctx in zip(payloads, contexts):
        try:
            results.append(act(payload, ctx))
        except Exception as fault:
            results.append(fault)
    return results

@dataclass
class Typed:
    to: int
    act: str

@app.job("mail.typed")
def typed(payload: Typed) -> None:
    raise AssertionError
"""
JOBS = ["mail.send", "mail.poll", "mail.many", "mail.typed"]


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


class Mail:
    """A project whose job types have tagged fields, with a key file and a worker."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.key_file = project.folder / "keys.toml"
        self.keys: dict[str, str] = {}
        self.rotate("one")
        project.write_settings(encryption={"key_file": str(self.key_file)})
        for job in JOBS:
            project.add_schema(job, FIELDS)
        project.add_module("handlers", MODULE)
        self.topic = project.add_topic(
            "mail", JOBS, partitions=1, retry={"delays": ["100ms"], "jitter": 0}
        )
        project.provision()

    def rotate(self, current: str) -> None:
        self.keys[current] = new_key()
        self.write_keys(current)

    def write_keys(self, current: str, name: str = "keys.toml", **keys: str) -> Path:
        lines = [f'"{each}" = "{key}"' for each, key in (keys or self.keys).items()]
        path = self.project.folder / name
        path.write_text("\n".join([f'current = "{current}"', "[keys]", *lines]))
        return path

    def start(self) -> Process:
        worker = self.project.start(
            "work", "handlers:app", "--topic", self.topic, "--metrics-port", "0",
            env={"PROCESSOR_LOG_LEVEL": "debug"},
        )  # fmt: skip
        worker.wait_for("partition taken over")
        return worker

    def submit(
        self,
        act: str,
        *,
        job: str = "mail.send",
        to: str = CANARY,
        key_file: Path | None = None,
        **how: Any,
    ) -> str:
        """Submit a job from Python, with a client and data keys of its own; gives its id."""
        settings = self.project.settings()
        if key_file is not None:
            encryption = settings.encryption.model_copy(update={"key_file": key_file})
            settings = settings.model_copy(update={"encryption": encryption})
        with Client(settings) as client:
            return client.submit(job, {"to": to, "photo": PHOTO, "act": act}, **how).job_id

    def outcome(self, act: str, **how: Any) -> dict[str, Any]:
        """Submit a job and wait for its end."""
        return self.ended(self.submit(act, **how))

    def ended(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = eventually(
            lambda: StatusReader(self.project.settings(), self.declared()).find(job_id)
        )
        return found

    def declared(self) -> Topic:
        schemas = SchemaSet.load([self.project.folder / "schemas"])
        return TopicSet.load([self.project.folder / "topics"], schemas).get(self.topic)

    def records(self) -> list[Record]:
        topics, found = self.declared(), []
        with TopicReader(self.project.settings().kafka) as reader:
            for name in (topics.name, *topics.retry_topics, topics.dead_letter_topic,
                         topics.status_topic):  # fmt: skip
                found += list(reader.read_all(reader.partitions(name)))
        return found


@pytest.fixture
def mail(project: Project) -> Mail:
    return Mail(project)


def metrics(worker: Process) -> str:
    (url,) = [row["url"] for row in worker.logged() if row["event"] == "probes and metrics answer"]
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.timeout(300)
def test_planted_values_are_told_nowhere_in_a_run_with_errors(mail: Mail) -> None:
    worker = mail.start()

    acts = [(job, act) for job in JOBS[:3] for act in ("send", "fail", "reject")]
    acts += [("mail.send", "long"), ("mail.typed", "send")]
    with Client(mail.project.settings()) as client:
        jobs = [client.submit(job, {"to": CANARY, "photo": PHOTO, "act": act}) for job, act in acts]
        with pytest.raises(UsageError, match=r"the key of `mail\.send` tells") as refused:
            client.submit("mail.send", {"to": CANARY, "act": "send"}, key=CANARY)
    reader = StatusReader(mail.project.settings(), mail.declared()).from_start()
    ended = reader.wait_for([each.job_id for each in jobs], until=time.monotonic() + 60)
    by_id = {status["job_id"]: status for status in ended}
    outcomes = {at: by_id[each.job_id] for at, each in zip(acts, jobs, strict=True)}
    project = mail.project
    died = outcomes["mail.send", "fail"]["job_id"]
    typo = json.dumps({"to": CANARY, "akt": CANARY})
    commands = [
        project.run("dead", "list", mail.topic, "--json").ok(),
        project.run("dead", "list", mail.topic, "--group-by", "fingerprint").ok(),
        project.run("dead", "show", died).ok(),
        project.run("why", died).ok(),
        project.run("submit", "mail.send", "--json", typo).refused(2, "field `act`"),
    ]
    told = {
        "log": worker.log.read_text(),
        "metrics": metrics(worker),
        "refusal": str(refused.value),
        **{f"command {at}": ran.stdout + ran.stderr for at, ran in enumerate(commands)},
        **{f"outcome {name}": json.dumps(each) for name, each in outcomes.items()},
        "ledger": b"".join(
            each.read_bytes() for each in Path(project.folder / ".processor").iterdir()
        ).decode(errors="replace"),
    }
    for at, record in enumerate(mail.records()):
        told[f"record {at} of {record.topic}"] = b"\n".join(
            (record.key or b"", record.value or b"", *(v for _, v in record.headers))
        ).decode(errors="replace")

    saw = (project.folder / "handler-saw.txt").read_text().splitlines()
    assert len(saw) == 14  # Each job once, those that fail for a time twice.
    assert set(saw) == {CANARY}
    assert outcomes["mail.send", "send"]["result"] == '{"sent": "***", "***": ["***"]}'
    for job in ("mail.send", "mail.poll", "mail.many"):
        assert outcomes[job, "fail"]["error_message"] == "no route to '***', photo b'***'"
        assert outcomes[job, "reject"]["error_message"] == "there is no mailbox ***"
    assert outcomes["mail.send", "long"]["error_message"].endswith("xxx***")
    assert {row["event"] for row in worker.logged()} >= {"sending to ***", "job will be retried"}
    assert len(told) > 50
    assert [where for where, text in told.items() for form in FORMS if form in text] == []


@pytest.mark.timeout(300)
def test_keys_are_rotated_and_a_wrong_key_waits_for_the_right_one(mail: Mail) -> None:
    died = mail.submit("reject")
    worker = mail.start()
    worker.wait_for("job is dead")

    mail.rotate("two")
    with_new = mail.outcome("send")
    mail.project.run("dead", "replay", mail.topic, "--yes").ok()  # It has the old key.
    worker.wait_for("job is dead", count=2)
    another = new_key()  # Under the same id: the worker's is wrong for what it has encrypted.
    wrong = mail.submit("send", key_file=mail.write_keys("two", "other.toml", two=another))
    worker.wait_for("waiting for something that is away")
    letters = mail.project.run("dead", "list", mail.topic, "--json").ok().rows()
    (pause, *_) = [r for r in worker.logged() if r["event"] == "waiting for something that is away"]

    mail.keys["two"] = another
    mail.write_keys("two")

    assert mail.ended(wrong)["state"] == "succeeded"
    assert with_new["state"] == "succeeded"
    assert [each["job_id"] for each in letters] == [died]
    assert (pause["what"], "is not the one that encrypted" in pause["why"]) == ("keys", True)
    assert len((mail.project.folder / "handler-saw.txt").read_text().splitlines()) == 4


def test_changed_ciphertext_is_a_dead_letter_and_stays_encrypted(mail: Mail) -> None:
    mail.submit("send")
    (record,) = mail.records()
    assert record.value is not None
    at = record.value.rindex(b".", 0, record.value.index(b"pii1.", 20)) + 30
    spoiled = record.value[:at] + (b"B" if record.value[at : at + 1] == b"A" else b"A")
    spoiled += record.value[at + 1 :]
    producer = Producer({**mail.project.settings().kafka, "log_level": 0})
    producer.produce(mail.topic, value=spoiled, partition=0)
    producer.flush(30)
    worker = mail.start()

    worker.wait_for("job is dead")
    (letter,) = mail.project.run("dead", "list", mail.topic, "--json").ok().rows()
    (show,) = mail.project.run("dead", "show", letter["job_id"]).ok().rows()

    assert letter["error_class"] == "ContractError"
    assert "cannot be decrypted" in letter["error_message"]
    assert base64.b64decode(show["value_base64"]) == spoiled


def test_equal_payloads_of_one_idempotency_key_are_no_conflict(mail: Mail) -> None:
    worker = mail.start()
    mail.outcome("send", idempotency_key="k")

    equal = mail.outcome("send", idempotency_key="k")
    before = metrics(worker)
    other = mail.outcome("send", idempotency_key="k", to="somebody else")

    assert (equal["state"], other["state"]) == ("duplicate", "duplicate")
    assert "idempotency_conflicts_total{" not in before
    assert 'idempotency_conflicts_total{job_type="mail.send"} 1.0' in metrics(worker)
    assert (mail.project.folder / "handler-saw.txt").read_text().splitlines() == [CANARY]


def test_without_a_key_nothing_is_submitted_and_no_worker_starts(mail: Mail) -> None:
    mail.project.write_settings(encryption={"key_file": str(mail.key_file)})
    text = (mail.project.folder / "processor.toml").read_text()
    (mail.project.folder / "processor.toml").write_text(text.replace('"key_file"', '#"key_file"'))

    told = ("field `to` of `mail.", "is tagged PII, and there is no key", "encryption.key_file")
    document = json.dumps({"to": CANARY, "act": "send"})
    mail.project.run("submit", "mail.send", "--json", document).refused(2, *told)
    mail.project.run("work", "handlers:app", "--topic", mail.topic).refused(2, *told)

    assert mail.records() == []
