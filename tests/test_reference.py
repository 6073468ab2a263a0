"""What docs/ holds of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from processor.settings import Settings, load_settings
from tests import reference

REMEDY = "run `make reference`"


def test_reference_of_metrics_is_up_to_date():
    present = reference.METRICS.read_text(encoding="utf-8")

    assert reference.metrics_document(present) == present, REMEDY


def test_template_of_settings_is_up_to_date():
    assert reference.TEMPLATE.read_text(encoding="utf-8") == reference.template(), REMEDY


def test_template_changes_nothing_as_it_is():
    assert load_settings(file=reference.TEMPLATE, environ={}) == Settings()


def test_template_without_its_marks_sets_everything(tmp_path: Path):
    text = reference.TEMPLATE.read_text(encoding="utf-8")
    file = tmp_path / "processor.toml"
    # A token stands in place of username and password.
    file.write_text(re.sub(r'^#(?=[a-z"])(?!token )', "", text, flags=re.MULTILINE))

    values = load_settings(file=file, environ={}).values()

    defaults = Settings().values()
    assert set(defaults) <= set(values)
    unset = [name for name, value in values.items() if value is None]
    assert unset == ["registry.token"]
    kept = {name: value for name, value in values.items() if defaults.get(name) is not None}
    assert kept == {name: value for name, value in defaults.items() if value is not None}
