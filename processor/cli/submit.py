"""`processor submit`: put jobs on their topic, checked and acknowledged."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from processor.cli import output
from processor.errors import ProcessorError, UsageError

if TYPE_CHECKING:
    from processor.client import Client
    from processor.engine.submit import NewJob

SKIPPED_NAMESPACE = uuid.UUID("5f3f7f2e-5f0c-4b1e-9c39-6a5d6a2a8a11")
WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Line:
    """One job of a bulk file, with its number, from 1."""

    number: int
    document: Any


@click.command()
@click.argument("job_type", metavar="JOB")
@click.option("--json", "document", metavar="JSON", help="The payload, as a JSON object.")
@click.option("--from", "source", metavar="FILE|-", help="JSON lines.",
              type=click.File("r", encoding="utf-8", errors="surrogateescape"))  # fmt: skip
@click.option("--key", help="The ordering key: jobs of one key run in order.")
@click.option("--key-field", metavar="FIELD", help="Take the key from this payload field.")
@click.option("--idempotency-key", help="A job with the same one takes effect once.")
@click.option("--file", "upload", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Upload an input to the claim store and refer to it.")  # fmt: skip
@click.option("--file-field", default="source", show_default=True, help="Field for --file.")
@click.option("--not-before", type=float, metavar="EPOCH", help="Run no earlier (seconds).")
@click.option("--deadline", type=float, metavar="EPOCH", help="Do not start later (seconds).")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path),
              help="With --from: note what was accepted; go on after it.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for the outcome; exit 1 when a job is dead.")
@click.option("--timeout", type=float, default=WAIT_SECONDS, show_default=True, help="For --wait.")
@output.dry_run_option
def submit(
    job_type: str,
    document: str | None,
    source: IO[str] | None,
    key: str | None,
    key_field: str | None,
    idempotency_key: str | None,
    upload: Path | None,
    file_field: str,
    not_before: float | None,
    deadline: float | None,
    report: Path | None,
    wait: bool,
    timeout: float,
    dry_run: bool,
) -> None:
    """Submit one job, or one for each line of a file.

    Each payload is checked against its schema before anything is sent. One JSON line is written
    for each accepted job. Exit 1: at least one was refused.

    \b
      processor submit object.copy --file report.pdf --json '{"target": "s3://b/r.pdf"}'
      processor submit object.copy --from jobs.jsonl --key-field target --report done.jsonl
    """
    if (source is None) == (document is None and upload is None):
        raise UsageError("give one of --json (or --file) and --from", hint="see --help")
    if source is not None and (upload is not None or idempotency_key is not None):
        raise UsageError("--file and --idempotency-key are for a single job, not for --from")
    if report is not None and source is None:
        raise UsageError("--report goes with --from")
    if key is not None and key_field is not None:
        raise UsageError("give --key or --key-field, not both")
    from processor.client import Client
    from processor.settings import load_settings

    def job_of(line: Line, job_id: str | None = None) -> NewJob:
        return _job(client, job_type, line, key, key_field, not_before, deadline, job_id)

    settings = load_settings()
    with Client(settings, source="processor-cli") as client:
        client.topic_of(job_type)
        if source is not None:
            _submit_lines(client, job_type, source, job_of, report, dry_run, wait, timeout)
            return
        payload = {} if document is None else _parsed(document)
        if upload is not None and isinstance(payload, dict):
            ref = {"uri": upload.resolve().as_uri()} if dry_run else asdict(client.upload(upload))
            payload[file_field] = ref
        job = _with_idempotency_key(job_of(Line(1, payload)), idempotency_key)
        if dry_run:
            output.say(f"dry run: `{job_type}` is valid for topic {client.topic_of(job_type).name}")
            return
        waiter = _waiter(client, job_type, settings) if wait else None
        accepted = client.submit_soon(job).result()
        click.echo(json.dumps(asdict(accepted)))
        if waiter is not None and not _print_outcomes(waiter, [accepted.job_id], timeout):
            sys.exit(1)


def _submit_lines(
    client: Client,
    job_type: str,
    source: IO[str],
    job_of: Any,
    report: Path | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
) -> None:
    from processor.engine.submit import Accepted, Refused

    reported = Report.open(report, job_type)
    refused = 0
    taken: list[str] = []
    waiter = _waiter(client, job_type, client.settings) if wait and not dry_run else None
    numbers: list[int] = []

    def jobs() -> Iterator[NewJob]:
        nonlocal refused
        for line in _lines(source):
            if isinstance(line.document, ProcessorError):
                fault = line.document
            elif line.number in reported.accepted:
                continue
            else:
                try:
                    job = job_of(line, reported.job_id(line.number))
                except ProcessorError as error:
                    fault = error
                else:
                    numbers.append(line.number)
                    yield job
                    continue
            refused += 1
            _say_refused(line.number, fault.message, fault.hint)

    with output.progress() as bar, reported:
        task = bar.add_task(f"submitting {job_type}", total=None)
        if dry_run:
            checked = sum(1 for _ in jobs())
            output.say(f"dry run: {checked} valid, {refused} refused")
        else:
            for count, answer in enumerate(client.submit_many(jobs())):
                number = numbers[count]
                if isinstance(answer, Refused):
                    refused += 1
                    _say_refused(number, answer.message, answer.hint)
                    continue
                assert isinstance(answer, Accepted)
                taken.append(answer.job_id)
                row = {"line": number, **asdict(answer)}
                reported.add(row)
                click.echo(json.dumps(row))
                bar.update(task, completed=len(taken))
            before = len(reported.accepted)
            skipped = f", {before} accepted before" if before else ""
            output.say(f"{len(taken)} accepted, {refused} refused{skipped}")
    alive = waiter is None or _print_outcomes(waiter, taken, timeout)
    if refused or not alive:
        sys.exit(1)


class Report:
    """What was accepted of a bulk file, one JSON line each; given again, those are left out.

    A job's id comes from the report's own id and its line, so a job that was accepted just before
    a crash, and not written down, is submitted again as the same job.
    """

    def __init__(self, path: Path | None, report_id: str, accepted: set[int]) -> None:
        self._path = path
        self._id = report_id
        self.accepted = accepted
        self._file: IO[str] | None = None

    @classmethod
    def open(cls, path: Path | None, job_type: str) -> Report:
        """Read an earlier report, or begin one."""
        if path is None or not path.exists() or path.stat().st_size == 0:
            report = cls(path, str(uuid.uuid4()), set())
            if path is not None:
                head = {"report": report._id, "job_type": job_type}
                path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return report
        rows = _report_rows(path)
        if not rows or "report" not in rows[0]:
            raise UsageError(f"{path} is no report of `processor submit`", hint="name a new file")
        if rows[0].get("job_type") != job_type:
            raise UsageError(
                f"{path} is a report on `{rows[0].get('job_type')}`, not `{job_type}`",
                hint="name a new file",
            )
        return cls(path, rows[0]["report"], {row["line"] for row in rows[1:] if "line" in row})

    def job_id(self, line: int) -> str | None:
        """The id of a line's job: always the same within one report."""
        if self._path is None:
            return None
        digest = hashlib.sha256(f"{self._id}:{line}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16], version=8))

    def add(self, row: dict[str, Any]) -> None:
        """Write down one accepted job."""
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def __enter__(self) -> Report:
        if self._path is not None:
            self._file = self._path.open("a", encoding="utf-8")
            if not _ends_whole(self._path):  # The last run was killed within a line.
                self._file.write("\n")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _report_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue  # The line that was being written when the last run ended.
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _lines(source: Iterable[str]) -> Iterator[Line]:
    for number, text in enumerate(source, start=1):
        if not text.strip():
            continue
        try:
            yield Line(number, json.loads(text))
        except _NOT_JSON as fault:
            yield Line(number, UsageError(f"not JSON: {_why(fault)}"))


def _parsed(document: str) -> Any:
    try:
        return json.loads(document)
    except _NOT_JSON as fault:
        raise UsageError(
            f"--json is not JSON: {_why(fault)}",
            hint="""quote it for the shell: --json '{"field": "value"}'""",
        ) from None


# Beside JSONDecodeError, itself a ValueError: a number of too many digits, too deep a nesting.
_NOT_JSON = (ValueError, RecursionError)


def _why(fault: Exception) -> str:
    if isinstance(fault, json.JSONDecodeError):
        return f"{fault.msg} at column {fault.colno}"
    return "nested too deep" if isinstance(fault, RecursionError) else "a number is too long"


def _job(
    client: Client,
    job_type: str,
    line: Line,
    key: str | None,
    key_field: str | None,
    not_before: float | None,
    deadline: float | None,
    job_id: str | None,
) -> NewJob:
    from processor.contracts.avro import payload_from_json
    from processor.engine.submit import NewJob

    payload = payload_from_json(client.schema_of(job_type), line.document)
    if key_field is not None:
        key = _field(line.document, key_field)
    return NewJob(
        job_type, payload, key=key, job_id=job_id, not_before=not_before, deadline=deadline
    )


def _with_idempotency_key(job: NewJob, idempotency_key: str | None) -> NewJob:
    from dataclasses import replace

    return replace(job, idempotency_key=idempotency_key)


def _field(document: Any, path: str) -> str:
    value = document
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UsageError(f"--key-field: the payload has no field `{path}`")
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"--key-field: field `{path}` is neither text nor a whole number")
    return str(value)


def _say_refused(line: int, message: str, hint: str | None) -> None:
    output.say(f"line {line}: {message}" + (f"; hint: {hint}" if hint else ""))


def _waiter(client: Client, job_type: str, settings: Any) -> Any:
    from processor.status import StatusReader

    topic = client.topic_of(job_type)
    if not topic.status.publish:
        raise UsageError(
            f"topic `{topic.name}` publishes no status, so there is nothing to wait for",
            hint="set `status: {publish: true}` in its file",
        )
    return StatusReader(settings, topic).from_now()


def _print_outcomes(waiter: Any, job_ids: list[str], timeout: float) -> bool:
    """Print each outcome as it comes. Returns whether no job is dead; raises when time runs out."""
    alive = True
    until = time.monotonic() + timeout
    for status in waiter.wait_for(job_ids, until=until):
        click.echo(json.dumps(status, default=str))
        alive = alive and status["state"] != "dead"
    return alive
