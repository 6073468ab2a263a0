from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from processor.cli.main import cli
from processor.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments], env=env)


def test_show_tells_every_value_and_its_source(folder: Path):
    Path("processor.toml").write_text('[worker]\ngroup = "mine"\n')

    result = run("show", "--json", env={"PROCESSOR_LOG_LEVEL": "debug"})

    rows = {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 0
    assert rows["worker.group"] == {
        "name": "worker.group",
        "value": "mine",
        "source": "file",
        "where": "processor.toml",
    }
    assert (rows["log.level"]["source"], rows["log.level"]["where"]) == (
        "env",
        "PROCESSOR_LOG_LEVEL",
    )
    assert rows["worker.concurrency"]["source"] == "default"


def test_show_masks_secrets(folder: Path):
    env = {
        "PROCESSOR_KAFKA_SASL_PASSWORD": "canary-1",
        "PROCESSOR_REGISTRY_USERNAME": "me",
        "PROCESSOR_REGISTRY_PASSWORD": "canary-2",
        "PROCESSOR_LEDGER_URL": "postgresql://me:canary-3@db/x",
    }

    result = run("show", env=env)

    rows = {row["name"]: row["value"] for row in map(json.loads, result.stdout.splitlines())}
    assert "canary" not in result.output
    assert rows["kafka.sasl.password"] == rows["registry.password"] == "***"
    assert rows["ledger.url"] == "postgresql://me:***@db/x"


def test_show_refuses_faulty_settings(folder: Path):
    result = run("show", env={"PROCESSOR_LOG_LEVEL": "loud"})

    assert isinstance(result.exception, UsageError)
    assert result.stdout == ""


def test_check_is_content_with_good_settings(folder: Path):
    result = run("check", env={"PROCESSOR_KAFKA_LINGER_MS": "5"})

    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "the settings are complete and allowed\n"


def test_check_exits_3_and_tells_every_fault(folder: Path):
    Path("mine.toml").write_text("[worker]\nconcurrency = 0\n")

    result = run("check", "--file", "mine.toml", env={"PROCESSOR_LOG_LEVEL": "loud"})

    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == "error: 2 faults in the settings"
    assert "mine.toml: worker.concurrency = 0: must be greater than or equal to 1" in result.stderr
    assert "PROCESSOR_LOG_LEVEL: log.level = 'loud'" in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PROCESSOR_KAFKA_FOO", "1", "kafka.foo = '1': No such configuration property: \"foo\""),
        ("PROCESSOR_KAFKA_LINGER_MS", "-5", "kafka.linger.ms = '-5': Configuration property"),
        ("PROCESSOR_KAFKA_SECURITY_PROTOCOL", "tls", 'Invalid value "tls"'),
    ],
)
def test_check_tells_what_the_client_would_refuse(
    folder: Path, variable: str, value: str, told: str
):
    result = run("check", env={variable: value})

    assert result.exit_code == 3
    assert told in result.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "the key file keys.toml cannot be read"), ("[keys]", "keys.toml has no keys")],
)
def test_check_reads_the_key_file(folder: Path, text: str | None, told: str):
    Path("other.toml").write_text('[encryption]\nkey_file = "keys.toml"')
    if text is not None:
        Path("keys.toml").write_text(text)

    result = run("check", env={"PROCESSOR_ENCRYPTION_KEY_FILE": "keys.toml"})
    elsewhere = run("check", "--file", "other.toml")

    assert result.exit_code == 3
    assert told in result.stderr
    assert elsewhere.exit_code == 0
    assert elsewhere.stderr.startswith("warning: here the key file keys.toml")


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_check_reads_whom_http_sources_are_to_trust(folder: Path, text: str | None):
    if text is not None:
        Path("ca.pem").write_text(text)

    result = run("check", env={"PROCESSOR_HTTP_CA_FILE": "ca.pem"})

    assert result.exit_code == 3
    assert "http.ca_file ca.pem cannot be used" in result.stderr


def test_token_is_a_setting_and_is_not_shown(folder: Path):
    (folder / "token").write_text("canary-5")
    env = {
        "PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "PROCESSOR_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
        "PROCESSOR_KAFKA_SASL_OAUTHBEARER_TOKEN_FILE": str(folder / "token"),
        "PROCESSOR_REGISTRY_TOKEN_FILE": str(folder / "token"),
    }

    checked = run("check", env=env)
    shown = run("show", "--json", env=env)

    assert checked.exit_code == 0, checked.stderr
    rows = {row["name"]: row["value"] for row in map(json.loads, shown.stdout.splitlines())}
    assert rows["kafka.sasl.oauthbearer.token"] == rows["registry.token"] == "***"
    assert "canary-5" not in shown.stdout + shown.stderr


def test_check_does_not_mind_settings_that_need_each_other(folder: Path):
    env = {
        "PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "PROCESSOR_KAFKA_SASL_MECHANISM": "PLAIN",
        "PROCESSOR_KAFKA_SASL_USERNAME": "me",
        "PROCESSOR_KAFKA_SASL_PASSWORD": "x",
    }

    assert run("check", env=env).exit_code == 0
