"""kcat, a client that is nobody's of ours, reads a dead letter: its headers and untouched bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import Producer

from processor.contracts import headers
from tests.acceptance.project import Process, Project, eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.broker]

MODULE = """
from processor import App, Reject

app = App()

@app.job("mail.send")
def send(payload: dict) -> None:
    raise Reject("the mailbox is closed")
"""
# What a reader of a dead letter relies on: the engine's set, complete for a job that died at once.
OURS = {
    headers.HOP_ATTEMPT: "1",
    headers.HOP_ERROR_CLASS: "Reject",
    headers.HOP_ERROR_MESSAGE: "the mailbox is closed",
}
ALWAYS = {
    headers.HOP_ORIGIN_TOPIC,
    headers.HOP_ORIGIN_PARTITION,
    headers.HOP_ORIGIN_OFFSET,
    headers.HOP_ORIGIN_TIMESTAMP,
    headers.HOP_ATTEMPT,
    headers.HOP_FIRST_FAILURE,
    headers.HOP_LAST_FAILURE,
    headers.HOP_ERROR_CLASS,
    headers.HOP_ERROR_MESSAGE,
    headers.HOP_FINGERPRINT,
    headers.HOP_EPOCH,
}


@pytest.fixture
def topic(project: Project) -> str:
    """A topic whose jobs all die."""
    project.add_schema("mail.send", [{"name": "to", "type": "string"}])
    project.add_module("handlers", MODULE)
    name = project.add_topic("mail", ["mail.send"])
    project.provision()
    return name


@pytest.fixture
def servers_address(servers: dict[str, dict[str, Any]]) -> str:
    return str(servers["kafka"]["bootstrap.servers"])


def test_dead_letter_shows_its_headers_and_its_bytes(
    project: Project, topic: str, servers_address: str
) -> None:
    sent = project.run(
        "submit", "mail.send", "--json", '{"to": "ada"}', "--key", "k1", "--idempotency-key", "m-1"
    )  # fmt: skip
    accepted = sent.ok().rows()[0]

    worker = worked_until_dead(project, topic, jobs=1)
    letter = kcat_headers(servers_address, f"{topic}.dlt")
    original = kcat_headers(servers_address, topic)
    value = kcat(servers_address, f"{topic}.dlt", "%s")
    worker.end()

    assert value == kcat(servers_address, topic, "%s")
    assert value[0] == 0
    assert value.endswith(b"\x06ada")
    assert kcat(servers_address, f"{topic}.dlt", "%k") == b"k1"
    assert {name: letter[name] for name in original} == original
    assert original[headers.JOB_ID] == accepted["job_id"]
    assert original.keys() == {
        headers.JOB_ID,
        headers.JOB_TYPE,
        headers.SOURCE,
        headers.TIME,
        headers.SPEC_VERSION,
        headers.IDEMPOTENCY_KEY,
    }
    assert letter.keys() - original.keys() >= ALWAYS
    assert {name: letter[name] for name in OURS} == OURS
    assert letter[headers.HOP_ORIGIN_TOPIC] == topic
    assert letter[headers.HOP_ORIGIN_PARTITION] == str(accepted["partition"])
    assert letter[headers.HOP_ORIGIN_OFFSET] == str(accepted["offset"])


def test_bytes_that_are_no_job_are_kept_as_they_came(
    project: Project, topic: str, servers_address: str
) -> None:
    foreign = bytes(range(256)) + b"\r\n,=\x00" * 3
    producer = Producer({"bootstrap.servers": servers_address})
    producer.produce(topic, value=foreign, key=b"\xff\x00k", headers={"x-team": b"billing"})
    assert producer.flush(30) == 0

    worker = worked_until_dead(project, topic, jobs=1)
    letter = kcat_headers(servers_address, f"{topic}.dlt")
    value = kcat(servers_address, f"{topic}.dlt", "%s")
    worker.end()

    assert value == foreign
    assert kcat(servers_address, f"{topic}.dlt", "%k") == b"\xff\x00k"
    assert letter["x-team"] == "billing"
    assert letter.keys() >= ALWAYS
    assert letter[headers.HOP_ERROR_CLASS] == "ContractError"


def worked_until_dead(project: Project, topic: str, *, jobs: int) -> Process:
    worker = project.start("work", "handlers:app", "--topic", topic)
    eventually(
        lambda: sum(row["dead"] for row in project.run("lag", topic).ok().rows()) == jobs,
        otherwise=lambda: worker.log.read_text()[-3000:],
    )
    return worker


def kcat(servers: str, topic: str, form: str) -> bytes:
    """Print every record of a topic with kcat, as its manual shows."""
    program = shutil.which("kcat")
    if program is None and "CI" not in os.environ:
        pytest.skip("kcat, a stranger's program, is not installed: apt-get install kcat")
    assert program is not None, "kcat is not installed: apt-get install kcat"
    done = subprocess.run(
        [program, "-b", servers, "-C", "-t", topic, "-e", "-q", "-f", form],
        capture_output=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


def kcat_headers(servers: str, topic: str) -> Mapping[str, str]:
    """The headers of the topic's one record, which kcat writes as `name=value,name=value`."""
    lines = kcat(servers, topic, "%h\n").decode().splitlines()
    assert len(lines) == 1
    pairs = [each.partition("=") for each in lines[0].split(",")]
    names = [name for name, _, _ in pairs]
    assert len(set(names)) == len(names), f"a header is there twice: {names}"
    return {name: value for name, _, value in pairs}
