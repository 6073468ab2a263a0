"""The report of a bulk submit: what was accepted, so that a second run goes on after it."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import IO, Any, Self

from processor.errors import UsageError


class Report:
    """What was accepted of a bulk file, one JSON line each; given again, those are left out.

    A job's id comes from the report's own id and its line, so a job that was accepted just before
    a crash, and not written down, is submitted again as the same job. Without a path nothing is
    kept and no id is given. Nothing is written before the `with` block.
    """

    def __init__(self, path: Path | None, job_type: str) -> None:
        self._path = path
        self._head = {"report": str(uuid.uuid4()), "job_type": job_type}
        self._file: IO[str] | None = None
        self.accepted: set[int] = set()

    @classmethod
    def read(cls, path: Path | None, job_type: str) -> Self:
        """Read an earlier report, or prepare a new one. Raises UsageError for any other file."""
        report = cls(path, job_type)
        if path is None or not path.exists() or path.stat().st_size == 0:
            return report
        rows = _rows(path)
        if not rows or not _is_uuid(rows[0].get("report")):
            raise UsageError(f"{path} is no report of `processor submit`", hint="name a new file")
        if rows[0].get("job_type") != job_type:
            raise UsageError(
                f"{path} is a report on `{rows[0].get('job_type')}`, not `{job_type}`",
                hint="name a new file",
            )
        report._head = rows[0]
        report.accepted = {row["line"] for row in rows[1:] if "line" in row}
        return report

    def job_id(self, line: int) -> str | None:
        """The id of a line's job: always the same within one report."""
        if self._path is None:
            return None
        return str(uuid.uuid5(uuid.UUID(self._head["report"]), str(line)))

    def job_ids(self) -> list[str]:
        """The ids of the jobs accepted before this run."""
        return [job_id for line in sorted(self.accepted) if (job_id := self.job_id(line))]

    def add(self, row: dict[str, Any]) -> None:
        """Write down one accepted job."""
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = self._path.open("a", encoding="utf-8")
            if self._path.stat().st_size == 0:
                self.add(self._head)
            elif not _ends_whole(self._path):  # The last run was killed within a line.
                self._file.write("\n")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue  # The line that was being written when the last run ended.
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _is_uuid(text: object) -> bool:
    try:
        uuid.UUID(str(text))
    except ValueError:
        return False
    return True
