"""Write the table of all checks into docs/check.md: `python -m tests.check.reference`."""

from __future__ import annotations

from pathlib import Path

from processor.check.areas import RULES

DOCUMENT = Path(__file__).parents[2] / "docs" / "check.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end -->\n"


def table() -> str:
    rows = ["| id | severity | finds | why it matters | mend |", "|---|---|---|---|---|"]
    rows += [
        f"| `{each.id}` | {each.severity} | {each.finds} | {each.why} |"
        f" {each.mend.replace('{topic}', 'TOPIC')} |"
        for each in RULES
    ]
    return "\n".join(rows) + "\n"


def document() -> str:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
