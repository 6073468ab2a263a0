from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from processor.cli.main import run


@pytest.fixture
def told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.chdir(tmp_path)

    def ask(*words: str) -> tuple[int, str]:
        code = run(words)
        return code, capsys.readouterr().err

    return ask


@pytest.mark.broker
@pytest.mark.parametrize("command", ["plan", "apply"])
def test_cluster_without_an_access_list_is_told(
    command: str, told: Any, kafka: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)

    code, text = told("acls", command)

    assert code == 2
    assert f"Kafka at {kafka.bootstrap_servers} has no access list" in text


@pytest.mark.parametrize("only", ["acl", "acl.missing"])
def test_check_of_rights_needs_the_role_whose_they_are(only: str, told: Any):
    code, text = told("check", "--only", only)

    assert code == 2
    assert "--role" in text


@pytest.mark.parametrize("principal", ["worker", "", ":worker", "User:"])
def test_principal_is_written_as_kafka_does(principal: str, told: Any):
    code, text = told("acls", "plan", "--worker", principal)

    assert code == 2
    assert f"--worker `{principal}` is no principal" in text
    assert "User:" in text


def test_topic_that_is_not_declared_is_misuse(told: Any):
    code, text = told("acls", "plan", "no-such-topic")

    assert code == 2
    assert "no-such-topic" in text


def test_role_that_does_not_exist_is_misuse(told: Any):
    code, text = told("acls", "plan", "--role", "emperor")

    assert code == 2
    assert "emperor" in text
