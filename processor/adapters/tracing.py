"""Spans of OpenTelemetry, after its conventions for messaging (ports: engine/tracing.py).

Names are those of semantic conventions 1.45, where messaging is still in development.

Rule 1: a run is a child of the span that submitted its job, so a job is one trace; where nobody
        traced the submission, of its own run before. It is linked to the run before.
Rule 2: a replay is a trace of its own, linked to the one that ended in the dead letter.
Rule 3: no key, payload, object's name or message of an exception goes into a span.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TracerProvider,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from processor.contracts import headers
from processor.core.lane import Entry
from processor.engine.tracing import RunSpan
from processor.model import Headers, Hop, Outgoing, Record, key_hash

LINK = "processor.link"  # On a link: what it leads to.
_PROPAGATOR = TraceContextTextMapPropagator()
_NOWHERE = Context()  # The parent of a span that begins a trace, whatever is current.


class OpenTelemetry:
    """Makes spans through a provider (port: `engine.tracing.Tracing`). `group` is the worker's."""

    def __init__(self, provider: TracerProvider, *, version: str, group: str | None = None) -> None:
        self._tracer = provider.get_tracer("processor", version)
        self._group = group

    # The worker's side.

    def run(self, entry: Entry) -> Run:
        """Begin the span of a record's next run."""
        record = entry.record
        parent, links = _origin(record, entry.hop)
        attributes = {
            **_messaging("process", "process", record.topic),
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.message.body.size": len(record.value or b""),
            "processor.job.attempt": entry.attempt + 1,
            "processor.key_hash": key_hash(record.key),
        }
        if self._group is not None:
            attributes["messaging.consumer.group.name"] = self._group
        if entry.hop.replay:
            attributes["processor.job.replay"] = entry.hop.replay
        span = self._tracer.start_span(
            f"process {record.topic}", parent, SpanKind.CONSUMER, attributes, links
        )
        return Run(self, span, record.topic)

    @contextmanager
    def batch(self, spans: Sequence[RunSpan]) -> Iterator[None]:
        """One span for a handler that is given many jobs, in the trace of the first that is kept.

        It is linked to the jobs' own spans, and they to it.
        """
        runs = [each for each in spans if isinstance(each, Run)]
        first = next((each for each in runs if each.kept), runs[0])
        links = [Link(each.span.get_span_context(), {LINK: "job"}) for each in runs]
        attributes = {
            **_messaging("process", "process", first.topic),
            "messaging.batch.message_count": len(runs),
        }
        name, inside = f"process batch {first.topic}", set_span_in_context(first.span, _NOWHERE)
        span = self._tracer.start_span(name, inside, SpanKind.CONSUMER, attributes, links)
        for each in runs:
            each.span.add_link(span.get_span_context(), {LINK: "batch"})
        with _ending(span), _current(span):
            yield

    @contextmanager
    def write(self, name: str, spans: Sequence[RunSpan]) -> Iterator[None]:
        """A child of each span, for one write of what all these runs left."""
        kept = [each for each in spans if isinstance(each, Run) and each.kept]
        attributes = {"messaging.batch.message_count": len(spans)} if len(spans) > 1 else {}
        children = [each.child(f"write {name}", attributes) for each in kept]
        if not children:
            yield
            return
        with _ending(*children), _current(children[0]):
            yield

    # The producer's side.

    def send(
        self,
        topic: str,
        *,
        operation: str = "send",
        after: Headers | None = None,
        links: Sequence[Link] = (),
    ) -> Send:
        """Begin the span of a new record, as a child of what is current.

        Where `after` is given, of the context in these headers, or of none.
        """
        parent = None if after is None else _inside(_read(headers.read_trace(after)))
        span = self._tracer.start_span(
            f"{operation} {topic}", parent, SpanKind.PRODUCER,
            _messaging(operation, operation, topic), links,
        )  # fmt: skip
        return Send(span)

    def replay(self, letter: Record, hop: Hop, topic: str) -> Send:
        """Begin the span of a dead letter's replay: a trace of its own, linked to the job's."""
        known = _read(headers.read_trace(letter.headers)), _read(_carrier(hop.trace))
        links = [Link(each, {LINK: "original"}) for each in known if each is not None]
        return self.send(topic, after=[], links=links)

    @contextmanager
    def step(self, name: str, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """A child of what is current."""
        span = self._tracer.start_span(name, attributes=attributes)
        with _ending(span), _current(span):
            yield span

    def begin_step(self, name: str, attributes: Mapping[str, Any]) -> Span:
        """The same, to be ended by the caller."""
        return self._tracer.start_span(name, attributes=attributes)

    def begin_inside(
        self, span: Span, name: str, kind: SpanKind, attributes: Mapping[str, Any]
    ) -> Span:
        """A child of a span."""
        return self._tracer.start_span(name, set_span_in_context(span, _NOWHERE), kind, attributes)


class Run:
    """One run's span (port: `engine.tracing.RunSpan`)."""

    __slots__ = ("_ended", "_tracing", "span", "topic")

    def __init__(self, tracing: OpenTelemetry, span: Span, topic: str) -> None:
        self._tracing = tracing
        self._ended = False
        self.span = span
        self.topic = topic

    @property
    def traceparent(self) -> str | None:
        """Its context, as a header carries it; None where the SDK makes no spans."""
        return _written(self.span).get(headers.TRACEPARENT)

    @property
    def ids(self) -> dict[str, str]:
        """`trace_id` and `span_id`, for log lines."""
        return ids_of(self.span.get_span_context())

    @property
    def kept(self) -> bool:
        """Whether its trace is exported: what is not needs no children."""
        return bool(self.span.get_span_context().trace_flags.sampled)

    def current(self) -> AbstractContextManager[Span]:
        """Make it the parent of what is traced inside the block."""
        return _current(self.span)

    async def awaited(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await a handler with the span as the current one of its task."""
        with self.current():
            return await coroutine

    def read(self, job_id: str, job_type: str) -> None:
        """Note which job it turned out to be."""
        self.span.set_attribute("messaging.message.id", job_id)
        self.span.set_attribute("processor.job.type", job_type)

    def end(self, outcome: str, error_type: str | None = None) -> None:
        """End it, with what came of the run. Twice does no harm."""
        if self._ended:
            return
        self._ended = True
        self.span.set_attribute("processor.job.outcome", outcome)
        if error_type is not None:
            _fail(self.span, error_type)
        self.span.end()

    def child(self, name: str, attributes: Mapping[str, Any]) -> Span:
        """Begin a child for something that the engine does."""
        return self._tracing.begin_inside(self.span, name, SpanKind.INTERNAL, attributes)

    def append(self, outgoing: Outgoing) -> Send:
        """Begin a child for what the run's verdict appends."""
        attributes = _messaging("send", "send", outgoing.topic)
        name = f"send {outgoing.topic}"
        return Send(self._tracing.begin_inside(self.span, name, SpanKind.PRODUCER, attributes))


class Send:
    """The span of one record on its way to the log (port: `engine.tracing.AppendSpan`)."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span = span

    @property
    def traceparent(self) -> str | None:
        """Its context, as a header carries it; None where the SDK makes no spans."""
        return _written(self.span).get(headers.TRACEPARENT)

    def current(self) -> AbstractContextManager[Span]:
        """Make it the parent of what is traced inside the block."""
        return _current(self.span)

    @contextmanager
    def making(self) -> Iterator[Send]:
        """Make the record inside the block, with which the span ends."""
        with _ending(self.span), self.current():
            yield self

    @contextmanager
    def failing(self) -> Iterator[None]:
        """End it where the block raises: there will be no record."""
        try:
            yield
        except BaseException as error:
            self.failed(type(error).__name__)
            raise

    def carried_by(self, record: Outgoing, *, job_id: str, job_type: str) -> Outgoing:
        """The record with the span's context in its headers, unless it has one."""
        self.span.set_attribute("messaging.message.id", job_id)
        self.span.set_attribute("messaging.message.body.size", len(record.value or b""))
        self.span.set_attribute("processor.job.type", job_type)
        self.span.set_attribute("processor.key_hash", key_hash(record.key))
        if any(name == headers.TRACEPARENT for name, _ in record.headers):
            return record
        more = [(name, text.encode()) for name, text in _written(self.span).items()]
        return record._replace(headers=[*record.headers, *more])

    def landed(self, partition: int | None, offset: int) -> None:
        """End it: the record was acknowledged."""
        if partition is not None:
            self.span.set_attribute("messaging.destination.partition.id", str(partition))
        self.span.set_attribute("messaging.kafka.offset", offset)
        self.span.end()

    def ended(self) -> None:
        """End it: the record was acknowledged, somewhere."""
        self.span.end()

    def answered(self, answer: tuple[int, int] | Exception) -> None:
        """End it: by partition and offset, or what prevented them."""
        if isinstance(answer, Exception):
            self.failed(type(answer).__name__)
        else:
            self.landed(*answer)

    def failed(self, error_type: str) -> None:
        """End it: nobody knows whether the record is on the log."""
        _fail(self.span, error_type)
        self.span.end()


def add_trace_ids(_logger: Any, _method: str, event: Any) -> Any:
    """Give a log line the ids of the current span (structlog's processor)."""
    event.update(ids_of(get_current_span().get_span_context()))
    return event


def ids_of(context: SpanContext) -> dict[str, str]:
    """Name a span as log lines do."""
    if not context.is_valid:
        return {}
    return {
        "trace_id": format_trace_id(context.trace_id),
        "span_id": format_span_id(context.span_id),
    }


def _origin(record: Record, hop: Hop) -> tuple[Context, list[Link]]:
    """Where a run's span belongs, and what it is linked to (rules 1 and 2)."""
    submitted = _read(headers.read_trace(record.headers))
    latest = _read(_carrier(hop.trace))
    links = []
    if latest is not None and hop.attempt > 0:
        links.append(Link(latest, {LINK: "attempt before"}))
    if not hop.replay:
        return _inside(submitted or latest), links
    if submitted is not None:
        links.append(Link(submitted, {LINK: "original"}))
    return _inside(latest), links


def _carrier(traceparent: str | None) -> dict[str, str]:
    return {} if traceparent is None else {headers.TRACEPARENT: traceparent}


def _read(carrier: Mapping[str, str]) -> SpanContext | None:
    """The span that a carrier names; of a malformed one nothing is believed."""
    if not carrier:
        return None
    found = _PROPAGATOR.extract(carrier, _NOWHERE)
    context = get_current_span(found).get_span_context()
    return context if context.is_valid else None


def _written(span: Span) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span, _NOWHERE))
    return carrier


def _inside(context: SpanContext | None) -> Context:
    if context is None:
        return _NOWHERE
    return set_span_in_context(NonRecordingSpan(context), _NOWHERE)


def _messaging(name: str, kind: str, topic: str) -> dict[str, Any]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
    }


def _current(span: Span) -> AbstractContextManager[Span]:
    return use_span(span, record_exception=False, set_status_on_exception=False)


@contextmanager
def _ending(*spans: Span) -> Iterator[None]:
    """End them all behind the block; what it raises has failed them."""
    try:
        yield
    except BaseException as error:
        for each in spans:
            _fail(each, type(error).__name__)
        raise
    finally:
        for each in spans:
            each.end()


def _fail(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)
