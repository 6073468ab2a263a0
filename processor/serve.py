"""Put a worker together from settings and handlers, and run it until it is told to stop."""

from __future__ import annotations

import importlib
import math
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from processor.adapters.health import HealthServer
from processor.adapters.kafka import KafkaLog
from processor.adapters.keys import keyring_of, require_keys
from processor.adapters.logs import configure_logging, worker_logger
from processor.adapters.metrics import Metrics
from processor.adapters.objects.stores import Objects
from processor.adapters.objects.traced import TracedObjects
from processor.adapters.pool import ThreadPool
from processor.adapters.registry import Registry
from processor.app import App
from processor.contracts.avro import Decoder, Encoder, subject_for
from processor.contracts.builtin import schema_directories, topic_directories
from processor.contracts.claims import ClaimStore, ObjectStore
from processor.contracts.own_subjects import OwnSubjects, any_subject
from processor.contracts.schemas import SchemaSet
from processor.contracts.topics import Topic, TopicSet
from processor.core.lane import Entry, Ordering
from processor.core.retry import DELAY_SECONDS_MAX, RetryPolicy
from processor.engine.call import Caller
from processor.engine.job import JobSpec
from processor.engine.ports import Ledger
from processor.engine.quick import Quick
from processor.engine.run import Runner
from processor.engine.takeover import Rules, Takeover
from processor.engine.telemetry import Check, Health
from processor.engine.timed import TimedLedger, timed_jobs
from processor.engine.traced import TracedRunner
from processor.engine.watch import Stall
from processor.engine.worker import Limits, Worker
from processor.errors import UsageError
from processor.model import JobHeaders, JobStatus, key_hash
from processor.preflight import (
    check_certificates,
    check_topics,
    check_without_ledger,
    ledger_of,
    other_groups,
    prepare_sinks,
    served_topics,
)
from processor.pruning import Prunable, Pruner, too_short
from processor.secret import masked
from processor.settings import Settings
from processor.stopping import end_in_time
from processor.tracing import FLUSH_SECONDS_MAX, flush, log_fields_of, tracing_of

JOB_STATUS = "processor.JobStatus"
LOOP_SECONDS_MAX = 60.0  # A commit may wait for its coordinator; a loop that waits longer hangs.


class SystemClock:
    """The machine's clocks (port: `engine.ports.Clock`)."""

    # The functions themselves: a quick job costs a call of each.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


def load_app(target: str) -> App:
    """Import `module:attribute`; UsageError says what is wrong with it."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute or module_name.endswith(".py") or "/" in module_name:
        raise UsageError(
            f"`{target}` does not name an app", hint="write it as module:app, such as handlers:app"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except UsageError:
        raise  # Of our own @app.job: it names what is wrong.
    except (Exception, SystemExit) as fault:
        place = _place_of(fault)
        raise UsageError(
            f"`{module_name}` cannot be imported: {type(fault).__name__}: {fault}{place}",
            hint="run `python -c 'import " + module_name + "'` to see the whole error",
        ) from fault
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        what = "nothing" if app is None else f"a {type(app).__name__}"
        raise UsageError(
            f"`{target}` is {what}, not a processor.App", hint=f"define `{attribute} = App()`"
        )
    if not app.jobs:
        raise UsageError(f"`{target}` has no handlers", hint="register one with @app.job(...)")
    return app


class Served:
    """A worker with all that it stands on. `run` serves until SIGTERM or SIGINT."""

    def __init__(self, app: App, settings: Settings, *, topics: Sequence[str] = ()) -> None:
        if not __debug__:
            raise UsageError(
                "a worker does not run under `python -O`: its assertions guard the promise"
            )
        self._settings = settings
        self._stop_by = math.inf  # Monotonic seconds.
        self._stopped = threading.Event()
        self._worker_id = f"{socket.gethostname()}-{os.getpid()}"
        group = settings.worker.group
        self._tracing = tracing_of(settings, service=group, instance=self._worker_id, group=group)
        configure_logging(
            settings.log, secrets=settings.secrets(), more=log_fields_of(self._tracing)
        )
        self._logger: Any = worker_logger(self._worker_id)
        schemas = SchemaSet.load(schema_directories(settings))
        declared = TopicSet.load(topic_directories(settings), schemas)
        self._topics = served_topics(app, declared, topics)
        check_certificates(settings)
        check_topics(settings, self._topics)
        self._registry = Registry(settings.registry)
        self._metrics = Metrics()
        for topic in self._topics:
            self._metrics.expect(topic.name, topic.jobs, partitions=topic.partitions)
        self._ledger = ledger_of(settings)
        if not self._ledger.remembers:
            check_without_ledger(self._topics, app.jobs)
        prepare_sinks(self._ledger, self._topics, app.jobs)
        if (warning := other_groups(self._ledger, settings.worker.group, self._topics)) is not None:
            self._logger.warning(warning)
        self._worker = self._made(app.jobs, schemas)
        self._health_server = self._made_health_server()

    def _made(self, jobs: Mapping[str, JobSpec], schemas: SchemaSet) -> Worker:
        settings = self._settings.worker
        clock = SystemClock()
        ledger: Ledger = self._ledger
        if ledger.remembers:
            ledger = TimedLedger(ledger, clock=clock, telemetry=self._metrics)
        runner = self._made_runner(jobs, schemas, ledger, clock)
        rules = {topic.name: rules_of(topic, jobs) for topic in self._topics}
        queued = settings.memory_max // 8  # The client's queue; the rest is the lanes'.
        self._metrics.memory_budget(settings.memory_max - queued)
        kafka = {"queued.max.messages.kbytes": queued // 1024, **self._settings.kafka}
        log = KafkaLog(kafka, group=settings.group, name="worker")
        return Worker(
            log=log,
            pool=ThreadPool(runner, settings.concurrency, coroutines_max=settings.coroutines_max),
            ledger=ledger,
            takeover=Takeover(
                log=log,
                ledger=ledger,
                group=settings.group,
                rules=rules,
                lane_records_max=settings.lane_records_max,
                start_from=settings.start_from,
                when_offset_lost=settings.when_offset_lost,
                fence_records_max=settings.fence_records_max,
            ),
            rules=rules,
            encode_status=self._status_encoder(schemas),
            clock=clock,
            jitter=random.random,
            telemetry=self._metrics,
            logger=self._logger,
            limits=Limits(
                slice_records_max=settings.slice_records_max,
                commit_interval_seconds=settings.commit_interval_seconds,
                drain_seconds=settings.drain_seconds,
                timeout_grace_seconds=settings.timeout_grace_seconds,
                stall_seconds=settings.stall_seconds,
                memory_max=settings.memory_max - queued,
            ),
            worker_id=self._worker_id,
        )

    def _made_runner(
        self,
        jobs: Mapping[str, JobSpec],
        schemas: SchemaSet,
        ledger: Ledger,
        clock: SystemClock,
    ) -> Runner:
        tracing, timeout_seconds = self._tracing, self._settings.worker.timeout_seconds
        store = self._settings.claims.store
        keys = keyring_of(self._settings.encryption)
        require_keys(schemas, (job for topic in self._topics for job in topic.jobs), keys)
        decoder = Decoder(self._registry, schemas, keys=keys)
        own = self._settings.registry.subjects == "topic"
        admit = OwnSubjects(self._registry) if own else any_subject
        objects: ObjectStore = Objects(self._settings, for_jobs=True)
        claimed: ObjectStore = Objects(self._settings)
        if tracing is not None:
            claimed = TracedObjects(claimed, tracing, "claim")
            objects = TracedObjects(objects, tracing, "object")
        runs = Runner if tracing is None else partial(TracedRunner, tracing=tracing)
        quick = Quick(
            jobs=jobs,
            reading=decoder.reading,
            admit=admit,
            clock=clock,
            timeout_seconds=timeout_seconds,
            bind_log=self._bind_log,
        )
        return runs(
            jobs=timed_jobs(jobs, clock=clock, telemetry=self._metrics),
            decode=decoder.decode,
            admit=admit,
            ledger=ledger,
            claims=ClaimStore(claimed, store) if store is not None else None,
            clock=clock,
            caller=Caller(
                ledger=self._ledger,
                objects=objects,
                clock=clock,
                timeout_seconds=timeout_seconds,
                bind_log=self._bind_log,
                tracing=tracing,
            ),
            quick=quick if tracing is None else None,  # It knows nothing of a job but its end.
        )

    def run(self) -> None:
        """Serve until a signal; a second one, or `shutdown_seconds`, ends the process at once."""
        end_in_time(self._stop, seconds=self._settings.worker.shutdown_seconds)
        if self._health_server is not None:
            self._health_server.start()
            self._logger.info("probes and metrics answer", url=self._health_server.url)
        self._logger.info(
            "worker starting",
            group=self._settings.worker.group,
            topics=[topic.name for topic in self._topics],
            ledger=masked("ledger.url", self._settings.ledger.url),
            folder=str(Path.cwd()),
        )
        pruner = self._made_pruner()
        try:
            # Many that start at once would each make the others hand partitions over.
            self._stopped.wait(random.uniform(0, self._settings.worker.start_jitter_seconds))  # noqa: S311
            self._worker.run()
        finally:
            if pruner is not None:
                pruner.stop()
            if self._health_server is not None:
                self._health_server.stop()
            self._ledger.close()
            self._flush_traces()

    def _stop(self) -> None:
        self._stop_by = time.monotonic() + self._settings.worker.shutdown_seconds
        self._worker.stop()
        self._stopped.set()

    def _flush_traces(self) -> None:
        """Send the last spans, in half of the time that is left to stop in."""
        if self._tracing is not None:
            flush(min(FLUSH_SECONDS_MAX, (self._stop_by - time.monotonic()) / 2))

    def _status_encoder(self, schemas: SchemaSet) -> Any:
        encoders = {}
        for topic in self._topics:
            if topic.status.publish:
                schema = schemas.get(JOB_STATUS)
                subject = subject_for(topic.status_topic, JOB_STATUS)
                encoders[topic.status_topic] = Encoder(
                    schema, self._registry.id_of(subject, schema.text)
                )

        def encode(topic: str, status: JobStatus) -> bytes:
            return encoders[topic].write(status_payload(status))

        return encode

    def _made_pruner(self) -> Pruner | None:
        if not isinstance(self._ledger, Prunable):
            return None
        seconds = self._settings.ledger.retention
        if (warning := too_short(seconds, self._topics)) is not None:
            self._logger.warning(warning)
        pruner = Pruner(
            self._ledger,
            self._topics,
            retention_seconds=seconds,
            now=time.time,
            pruned=self._metrics.ledger_pruned,
            logger=self._logger,
        )
        pruner.start()
        return pruner

    def _made_health_server(self) -> HealthServer | None:
        port = self._settings.worker.metrics_port
        if port is None:
            return None
        host = self._settings.worker.metrics_host
        return HealthServer(self._metrics.registry, self._health, host=host, port=port)

    def _health(self) -> Health:
        owned = len(self._worker.assignments)
        idle = time.monotonic() - self._worker.turned_at
        detail = f"{owned} partitions, turned {idle:.1f} s ago"
        loop = Check("loop", idle < LOOP_SECONDS_MAX, detail)
        stalls = [stall_check(each) for each in self._worker.watch.stalls]
        ready = self._worker.joined and not self._worker.stopping
        return Health((loop, *stalls), ready=ready and not self._worker.outages.any_lately)

    def _bind_log(self, entry: Entry, job: JobHeaders, attempt: int) -> Any:
        record = entry.record
        return self._logger.bind(
            job_id=job.job_id,
            key_hash=key_hash(record.key),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            attempt=attempt,
            **({} if entry.span is None else entry.span.ids),
        )


def stall_check(stall: Stall) -> Check:
    """Tell a probe of a partition without progress. An outage is no reason to restart."""
    detail = f"no record settled for {stall.seconds:.0f} s: {stall.why}"
    if stall.away is not None:
        detail += f"; the {stall.away} is away"
    return Check(str(stall.partition), stall.away is not None, detail)


def rules_of(topic: Topic, jobs: Mapping[str, JobSpec]) -> Rules:
    """Turn a topic's file into how its jobs are run."""
    mine = [jobs[each] for each in topic.jobs if each in jobs]
    return Rules(
        topic=topic,
        ordering=Ordering(topic.ordering),
        policy=RetryPolicy(
            delays_seconds=topic.delays_seconds,
            attempts_max=topic.attempts_max,
            jitter_ratio=topic.retry.jitter,
            asked_seconds_max=min(DELAY_SECONDS_MAX, topic.wait_seconds_max),
        ),
        publish_status=topic.status.publish,
        fence=Ordering(topic.fence),
        hold=topic.dead_letter.policy == "hold",
        is_async=any(each.is_async for each in mine),
        batch_max=max((each.batch_max or 1 for each in mine), default=1),
        linger_seconds=max((each.linger_seconds for each in mine), default=0.0),
    )


def status_payload(status: JobStatus) -> dict[str, Any]:
    """Lay a status out as `processor.JobStatus` has it."""
    return {
        "job_id": status.job_id,
        "job_type": status.job_type or "unknown",
        "key": status.key,
        "state": status.state,
        "attempts": status.attempts,
        "result": status.result,
        "duplicate_of": status.duplicate_of,
        "error_class": status.error_class,
        "error_message": status.error_message,
        "at": round(status.at * 1000),
        "origin_topic": status.origin.topic,
        "origin_partition": status.origin.partition,
        "origin_offset": status.origin.offset,
        "worker": status.worker,
    }


def _place_of(fault: BaseException) -> str:
    trace = fault.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or "importlib" in trace.tb_frame.f_code.co_filename:
        return ""
    return f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
