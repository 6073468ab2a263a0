"""The alert rules are ones, fire when they should, and lead to a runbook whose commands exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from processor.adapters.metric_catalogue import CATALOGUE
from processor.cli.main import cli
from processor.errors import ProcessorError
from tests.alerts.rules import DASHBOARD, ROOT, RULES, RUNBOOKS, alerts, hurried

CASES = Path(__file__).parent / "alerts_test.yaml"
OUTBOX = {"processor_outbox_oldest_seconds", "processor_outbox_rows"}
SECTIONS = ["What it means", "How to see it", "What to do"]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)


def known_metrics() -> set[str]:
    """The names of all series that a worker or a relay shows."""
    histograms = [each.name for each in CATALOGUE if each.kind == "histogram"]
    parts = {f"{name}_{part}" for name in histograms for part in ("count", "sum", "bucket")}
    return {each.name for each in CATALOGUE} | parts | OUTBOX


def named_metrics(expression: str) -> set[str]:
    return set(re.findall(r"\bprocessor_[a-z_]+", expression))


def test_rules_are_valid():
    done = promtool("check", "rules", str(RULES))

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_in_its_case_and_not_before():
    done = promtool("test", "rules", str(CASES))

    assert done.returncode == 0, done.stdout + done.stderr


def test_hurried_copy_is_valid_and_only_its_times_differ(tmp_path: Path):
    text = RULES.read_text(encoding="utf-8")
    copy = tmp_path / "alerts.yaml"
    copy.write_text(hurried(text, factor=120))

    assert promtool("check", "rules", str(copy)).returncode == 0
    pairs = zip(text.splitlines(), copy.read_text().splitlines(), strict=True)
    changed = [line for line, other in pairs if line != other]
    assert [each for each in changed if not re.search(r"for: |\[\d+[smh]\]|# seconds", each)] == []
    assert "for: 2500ms" in copy.read_text()
    assert "[30000ms]" in copy.read_text()  # [1h]
    assert "> 15 # seconds" in copy.read_text()  # 1800
    assert "> 100\n" in copy.read_text()  # Jobs, and no time.


def test_every_alert_has_a_case_of_either_kind():
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    tried = [each for case in cases for each in case["alert_rule_test"]]

    names = {each["alert"] for each in alerts()}
    assert {each["alertname"] for each in tried if each.get("exp_alerts")} == names
    assert {each["alertname"] for each in tried if not each.get("exp_alerts")} == names


@pytest.mark.parametrize("alert", alerts(), ids=lambda each: each["alert"])
def test_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(alert: dict[str, Any]):
    told = alert["annotations"]

    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["alert"].startswith("Processor")
    assert "$value" in told["description"] or alert["expr"].startswith("absent(")
    assert not told["summary"].endswith(".")
    assert (ROOT / told["runbook"]).is_file()
    assert told["runbook"] == f"docs/runbooks/{file_of(alert['alert'])}"
    assert named_metrics(alert["expr"]) <= known_metrics()


def test_dashboard_asks_for_metrics_that_are_told_and_nothing_else():
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    variables = [each for each in document["templating"]["list"] if each["type"] == "query"]
    queries = [each["query"]["query"] for each in variables]
    for panel in document["panels"]:
        queries += [target["expr"] for target in panel.get("targets", [])]
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]

    assert len(queries) > 20
    assert named_metrics(" ".join(queries)) <= known_metrics()


def file_of(name: str) -> str:
    words = re.findall(r"[A-Z][a-z]+", name.removeprefix("Processor"))
    return "-".join(words).lower() + ".md"


def test_index_has_each_runbook_and_each_runbook_its_parts():
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    names = {each["alert"]: each["labels"]["severity"] for each in alerts()}

    rows = re.findall(r"^\| \[(\w+)\]\(([a-z-]+\.md)\) \| (page|ticket) \|", index, re.MULTILINE)
    told = {name: "critical" if word == "page" else "warning" for name, _, word in rows}
    assert told == names
    assert {file for _, file, _ in rows} == {p.name for p in RUNBOOKS.glob("*.md")} - {"README.md"}
    for name, file, _ in rows:
        text = (RUNBOOKS / file).read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS, file


DOCUMENTS = [*sorted(RUNBOOKS.glob("*.md")), ROOT / "docs" / "operating.md"]


def commands_in(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    inline = re.findall(r"`(processor [^`]+)`", text)
    return [line for line in [*lines, *inline] if line.startswith("processor ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_documented_commands_exist(path: Path):
    faults = {line: fault for line in commands_in(path) if (fault := fault_of(line))}

    assert faults == {}


def fault_of(line: str) -> str:
    """What the command line is told to be wrong, without running it; nothing when it is right."""
    command: click.Command = cli
    words = shlex.split(line, comments=True)[1:]
    context = click.Context(cli, info_name="processor")
    try:
        while isinstance(command, click.Group):
            _, found, words = command.resolve_command(context, words)
            assert found is not None
            command, context = found, click.Context(found, parent=context)
        _, left, _ = command.make_parser(context).parse_args(words)
    except (click.ClickException, ProcessorError) as fault:
        return f"{type(fault).__name__}: {fault}"
    return f"too much: {left}" if left and not command.params else ""


@pytest.mark.parametrize(
    "line", ["processor heal", "processor dead mend x", "processor lag --loud"]
)
def test_command_that_does_not_exist_is_noticed(line: str):
    assert fault_of(line)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_documented_links_lead_somewhere(path: Path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]

    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_documented_metrics_are_told(path: Path):
    known = known_metrics() | {"processor_outbox_relayed_total"}

    assert named_metrics(path.read_text(encoding="utf-8")) - known == set()
