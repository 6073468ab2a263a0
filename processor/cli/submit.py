"""`processor submit`: put jobs on their topic, checked and acknowledged."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from processor.cli import output
from processor.cli.report import Report
from processor.errors import ContractError, ProcessorError, UsageError

if TYPE_CHECKING:
    from processor.client import Client
    from processor.engine.submit import NewJob
    from processor.status import StatusReader


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
@click.option("--deadline", type=float, metavar="EPOCH",
              help="Dead if not done by then (seconds since the epoch).")  # fmt: skip
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path),
              help="With --from: note what was accepted; go on after it.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for the outcome; exit 1 when a job is dead.")
@click.option("--timeout", type=output.duration, default="5m", show_default=True,
              help="With --wait: so long at most.")  # fmt: skip
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
        if not dry_run:
            client.prepare(job_type)  # An outage is told once, before the first of many lines.
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
        waiter = _waiter(client, job_type) if wait else None
        accepted = client.submit_soon(job).result()
        click.echo(json.dumps(accepted._asdict()))
        if waiter is not None and not _print_outcomes(waiter, [accepted.job_id], timeout):
            sys.exit(1)


def _submit_lines(
    client: Client,
    job_type: str,
    source: IO[str],
    job_of: Callable[[Line, str | None], NewJob],
    report: Path | None,
    dry_run: bool,
    wait: bool,
    timeout: float,
) -> None:
    from processor.engine.submit import Refused

    with output.progress() as bar, ExitStack() as stack:
        reported = Report.read(report, job_type)
        bulk = Bulk(source, job_of, reported)
        if dry_run:
            checked = sum(1 for _ in bulk.jobs())
            output.say(f"dry run: {checked} valid, {bulk.refused} refused")
            sys.exit(1 if bulk.refused else 0)
        stack.enter_context(reported)
        waiter = _waiter(client, job_type) if wait else None
        if waiter is not None and reported.accepted:
            waiter.from_start()  # What was accepted before may have ended before, too.
        awaited = reported.job_ids() if wait else []
        task = bar.add_task(f"submitting {job_type}", total=None)
        count = 0
        for answer in client.submit_many(bulk.jobs()):
            number = bulk.numbers.popleft()
            if isinstance(answer, Refused):
                bulk.refuse(number, answer.message, answer.hint)
                continue
            count += 1
            if wait:
                awaited.append(answer.job_id)
            row = {"line": number, **answer._asdict()}
            reported.add(row)
            click.echo(json.dumps(row))
            bar.update(task, completed=count)
    before = f", {len(reported.accepted)} accepted before" if reported.accepted else ""
    output.say(f"{count} accepted, {bulk.refused} refused{before}")
    alive = waiter is None or _print_outcomes(waiter, awaited, timeout)
    if bulk.refused or not alive:
        sys.exit(1)


class Bulk:
    """The jobs of a file that are not in its report yet; what is no job is refused on stderr."""

    def __init__(
        self,
        source: IO[str],
        job_of: Callable[[Line, str | None], NewJob],
        reported: Report,
    ) -> None:
        self._source = source
        self._job_of = job_of
        self._reported = reported
        self.numbers: deque[int] = deque()  # Of the lines whose answers are still to come.
        self.refused = 0

    def jobs(self) -> Iterator[NewJob]:
        """Give the jobs in the order of their lines."""
        for line in _lines(self._source):
            if line.number in self._reported.accepted:
                continue
            if isinstance(line.document, ProcessorError):
                self.refuse(line.number, line.document.message, line.document.hint)
                continue
            try:
                job = self._job_of(line, self._reported.job_id(line.number))
            except ProcessorError as fault:
                self.refuse(line.number, fault.message, fault.hint)
                continue
            self.numbers.append(line.number)
            yield job

    def refuse(self, number: int, message: str, hint: str | None) -> None:
        """Count a line that is not on the log, and say why."""
        self.refused += 1
        output.say(f"line {number}: {message}" + (f"; hint: {hint}" if hint else ""))


def _lines(source: Iterable[str]) -> Iterator[Line]:
    for number, text in enumerate(source, start=1):
        if not text.strip():
            continue
        try:
            yield Line(number, json.loads(text.strip()))
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

    schema = client.schema_of(job_type)
    try:
        payload = payload_from_json(schema, line.document)
    except ContractError as fault:
        hint = fault.hint or f"its contract is {schema.path}"
        raise UsageError(fault.message, hint=hint) from None
    if key_field is not None:
        key = _field(line.document, key_field)
    return NewJob(
        job_type, payload, key=key, job_id=job_id, not_before=not_before, deadline=deadline
    )


def _with_idempotency_key(job: NewJob, idempotency_key: str | None) -> NewJob:

    return job._replace(idempotency_key=idempotency_key)


def _field(document: Any, path: str) -> str:
    value = document
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UsageError(f"--key-field: the payload has no field `{path}`")
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"--key-field: field `{path}` is neither text nor a whole number")
    return str(value)


def _waiter(client: Client, job_type: str) -> StatusReader:
    from processor.status import StatusReader

    topic = client.topic_of(job_type)
    if not topic.status.publish:
        raise UsageError(
            f"topic `{topic.name}` publishes no status, so there is nothing to wait for",
            hint="set `status: {publish: true}` in its file",
        )
    return StatusReader(client.settings, topic).from_now()


def _print_outcomes(waiter: StatusReader, job_ids: list[str], timeout: float) -> bool:
    """Print each outcome as it comes. Returns whether no job is dead; raises when time runs out."""
    alive = True
    until = time.monotonic() + timeout
    for status in waiter.wait_for(job_ids, until=until):
        click.echo(json.dumps(status, default=str))
        alive = alive and status["state"] not in ("dead", "held")
    return alive
