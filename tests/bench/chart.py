"""The chart of a run: how fast each way is beside the raw loop, and the CPU time of a job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from tests.bench.scenarios import Row

mpl.use("Agg")
OURS, OTHERS = "#2a6f97", "#adb5bd"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the no-op rows, fastest first."""
    from matplotlib import pyplot

    shown = _comparable(rows)
    names = [name for name, _, _ in shown]
    colours = [OURS if "processor" in name else OTHERS for name in names]
    figure, (speed, cost) = pyplot.subplots(
        1, 2, figsize=(11, 0.42 * len(names) + 1.6), sharey=True, layout="constrained"
    )
    for axis, values, title, text in (
        (speed, [each for _, each, _ in shown], "jobs/s, raw loop = 1", "{:.3g}"),
        (cost, [each for _, _, each in shown], "CPU µs per job (log)", "{:.1f}"),
    ):
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [text.format(each) for each in values], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.14)
    cost.set_xscale("log")
    speed.invert_yaxis()
    figure.savefig(path, dpi=110)


def _comparable(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Name, part of the raw loop in the same scenario, CPU time; ours only once for each way."""
    raw = {row.scenario: row.per_second for row in rows if row.way == "raw loop"}
    found = []
    for row in rows:
        if row.scenario not in raw or not row.scenario.startswith("no-op, "):
            continue
        ordering = row.scenario.removeprefix("no-op, ")
        ours = row.way.startswith("processor")
        if ordering == "few jobs" and (ours or row.way == "raw loop"):
            continue
        if row.way == "raw loop" and ordering != "partition":
            continue
        name = f"{row.way}, {ordering}" if ours else row.way
        found.append((name, row.per_second / raw[row.scenario], row.cpu_us))
    return sorted(found, key=lambda each: -each[1])
