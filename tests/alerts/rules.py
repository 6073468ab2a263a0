"""The alert rules as they are shipped, and a copy of them whose time goes faster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "processor" / "files" / "alerts.yaml"
DASHBOARD = ROOT / "helm" / "processor" / "files" / "dashboard.json"
RUNBOOKS = ROOT / "docs" / "runbooks"

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"(\[|for: )(\d+)([smh])\b")
_SECONDS = re.compile(r"\d+(?= # seconds)")


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def hurried(text: str, *, factor: float) -> str:
    """Divide each duration, and each threshold that is a time, by a factor."""

    def duration(found: re.Match[str]) -> str:
        before, number, unit = found.groups()
        return f"{before}{round(int(number) * _UNITS_MS[unit] / factor)}ms"

    def threshold(found: re.Match[str]) -> str:
        return f"{int(found[0]) / factor:g}"

    return _SECONDS.sub(threshold, _DURATION.sub(duration, text))
