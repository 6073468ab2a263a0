from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from processor.check.areas import RULES
from tests.check.site import APP, Site
from tests.serving import served

pytestmark = [pytest.mark.broker, pytest.mark.registry, pytest.mark.s3, pytest.mark.slow]

Plant = Callable[[Site], AbstractContextManager[None]]


class Capture:
    """What commands write, of whichever test runs now."""

    now: Any = None

    def readouterr(self) -> Any:
        return self.now.readouterr()


@pytest.fixture(scope="module")
def module_site(
    tmp_path_factory: pytest.TempPathFactory, kafka: Any, registry: Any, s3: Any
) -> Site:
    folder = tmp_path_factory.mktemp("site")
    return Site(folder, Capture(), kafka=kafka, registry=registry, s3=s3)


@pytest.fixture
def site(
    module_site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Site]:
    monkeypatch.chdir(module_site.folder)
    Capture.now = capsys
    if not (module_site.folder / "ready").exists():
        module_site.set_up()
        (module_site.folder / "ready").touch()
    yield module_site


def test_what_the_quick_start_makes_is_silent(site: Site):
    told = site.check("good:app", "--strict")

    assert told.document == {
        "errors": 0, "warnings": 0, "findings": [], "ignored": [], "unreachable": [],
    }  # fmt: skip
    assert (told.code, told.stderr) == (0, "0 error(s), 0 warning(s), 0 ignored\n")


def test_bucket_of_the_local_stack_needs_no_rule_of_its_user(site: Site):
    with site.environment(PROCESSOR_CLAIMS_STORE="s3://processor-claims/claims"):
        told = site.check("--strict")

    assert (told.code, told.ids) == (0, set())


def setting(topic: str, name: str, value: str) -> Plant:
    return lambda site: site.topic_setting(topic, name, value)


def env(**values: str) -> Plant:
    return lambda site: site.environment(**{f"PROCESSOR_{k}": v for k, v in values.items()})


def app(module: str, more: str) -> Plant:
    return lambda site: site.app(module, APP + more)


def both(*plants: Plant) -> Plant:
    @contextmanager
    def plant(site: Site) -> Iterator[None]:
        with ExitStack() as planted:
            for each in plants:
                planted.enter_context(each(site))
            yield

    return plant


def offset_lost(site: Site) -> AbstractContextManager[None]:
    @contextmanager
    def plant() -> Iterator[None]:
        with site.record():
            group = f"{site.name}-lost"
            site.commit(group, 0)
            site.empty()
            with site.environment(PROCESSOR_WORKER_GROUP=group):
                yield

    return plant()


def registry_ahead(site: Site) -> AbstractContextManager[None]:
    """The registry behind a proxy whose clock is 10 minutes ahead."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            answer = httpx.request(
                self.command,
                site.registry.url + self.path,
                content=self.rfile.read(size),
                headers={"Content-Type": "application/json"},
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815 - http.server's own name.

        def date_time_string(self, timestamp: float | None = None) -> str:
            import time

            return formatdate(time.time() + 600, usegmt=True)

        def log_message(self, *_: Any) -> None:
            pass

    @contextmanager
    def plant() -> Iterator[None]:
        with served(ThreadingHTTPServer(("127.0.0.1", 0), Proxy)) as server:
            url = f"http://127.0.0.1:{server.server_port}"
            with site.environment(PROCESSOR_REGISTRY_URL=url):
                yield

    return plant()


TAGGED = {"name": "to", "type": "string", "default": "", "doc": "Who.", "confluent:tags": ["PII"]}


def key_missing(site: Site) -> AbstractContextManager[None]:
    @contextmanager
    def plant() -> Iterator[None]:
        with site.schema(**TAGGED):
            assert site.run("schemas", "register")[0] == 0
            yield

    return plant()


ABORT = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}
SHORTER = "retry: {delays: [1s]}"
KAFKA_SINK = """
from processor.sinks.kafka import KafkaSink
app.job('orders.cancel', sink=KafkaSink('results', schema='orders.cancel'))(place)
"""
TABLE_SINK = """
from processor.sinks.sqlite import SqliteSink
app.job('orders.cancel', sink=SqliteSink('orders'))(place)
"""

FAULTS: list[tuple[str, Plant, tuple[str, ...]]] = [
    ("settings.refused", env(KAFKA_ACKS="1"), ()),
    ("settings.refused", env(KAFKA_PARTITIONER="consistent_random"), ()),
    ("settings.refused", env(KAFKA_ENABLE_IDEMPOTENCE="false"), ()),
    ("settings.refused", env(KAFKA_SESSION_TIMEOUT_MS="soon"), ()),
    ("files.refused", lambda site: site.file("fense: key"), ()),
    ("client.max-poll-interval", env(KAFKA_MAX_POLL_INTERVAL_MS="46000"), ()),
    (
        "client.session-timeout",
        env(KAFKA_SESSION_TIMEOUT_MS="2900", KAFKA_HEARTBEAT_INTERVAL_MS="500"),
        (),
    ),
    ("client.isolation-level", env(KAFKA_ISOLATION_LEVEL="read_uncommitted"), ()),
    ("client.message-max-bytes", env(KAFKA_MESSAGE_MAX_BYTES="100000"), ()),
    ("client.delivery-timeout", env(KAFKA_MESSAGE_TIMEOUT_MS="5000"), ()),
    ("topic.missing", lambda site: site.topic_deleted(".retry.2"), ()),
    ("topic.partitions", lambda site: site.partitions_added(".dlt"), ()),
    ("topic.partitions", lambda site: site.partitions_added(""), ()),
    ("status.partitions", lambda site: site.partitions_added(".status"), ()),
    (
        "topic.replication",
        lambda site: site.file("replication: 3\nretry: {delays: [1s, 2s]}"),
        (),
    ),
    ("topic.min-insync-replicas", setting("", "min.insync.replicas", "2"), ()),
    ("topic.cleanup-policy", setting("", "cleanup.policy", "compact"), ()),
    ("status.cleanup-policy", setting(".status", "cleanup.policy", "delete"), ()),
    ("topic.retention-bytes", setting(".dlt", "retention.bytes", "1000000"), ()),
    (
        "topic.unclean-leader-election",
        setting("", "unclean.leader.election.enable", "true"),
        (),
    ),
    ("topic.max-message-bytes", setting(".retry.1", "max.message.bytes", "10000"), ()),
    ("topic.retention", setting("", "retention.ms", "3600000"), ()),
    ("topic.retention-delays", setting(".retry.1", "retention.ms", "3000"), ()),
    ("status.retention", setting(".status", "retention.ms", "3600000"), ()),
    (
        "topic.config",
        lambda site: site.file("config: {compression.type: zstd}\nretry: {delays: [1s, 2s]}"),
        (),
    ),
    (
        "topic.undeclared",
        both(lambda site: site.record(".retry.2"), lambda site: site.file(SHORTER)),
        (),
    ),
    ("topic.left-over", lambda site: site.file(SHORTER), ()),
    ("ledger.retention", env(LEDGER_RETENTION="6d"), ()),
    (
        "group.offsets-retention",
        lambda site: site.file(
            "retention: 8d\nretry: {delays: [1s, 2s]}",
            f"topics apply {site.name}",
            "retention apply",
        ),
        (),
    ),
    ("claims.lifetime", lambda site: site.rules({"Expiration": {"Days": 3}, **ABORT}), ()),
    ("claims.expiry", lambda site: site.rules({**ABORT}), ()),
    ("claims.uploads", lambda site: site.rules({"Expiration": {"Days": 90}}), ()),
    (
        "schema.incompatible",
        lambda site: site.schema(name="at", type="string", doc="No default: old records lack it."),
        (),
    ),
    (
        "schema.unregistered",
        lambda site: site.schema(name="at", type="string", default="", doc="When."),
        (),
    ),
    ("keys.missing", key_missing, ()),
    ("group.offset-lost", offset_lost, ()),
    (
        "group.start-from",
        both(lambda site: site.record(), env(WORKER_START_FROM="latest", WORKER_GROUP="newcomers")),
        (),
    ),
    ("producer.partitioner", lambda site: site.record(wrong=True), ()),
    ("clock.producer", lambda site: site.record(ahead=600), ()),
    ("clock.skew", registry_ahead, ()),
    ("handler.missing", app("half", ""), ("half:app",)),
    (
        "handler.undeclared",
        app("more", "for job in ('cancel', 'ship'): app.job(f'orders.{job}')(place)\n"),
        ("more:app",),
    ),
    ("handler.sink", app("sinking", KAFKA_SINK), ("sinking:app",)),
    ("ledger.none", both(app("tables", TABLE_SINK), env(LEDGER_URL="none")), ("tables:app",)),
]


@pytest.mark.parametrize(
    ("rule", "plant", "arguments"),
    FAULTS,
    ids=[f"{rule}-{number}" for number, (rule, _, _) in enumerate(FAULTS)],
)
def test_planted_fault_is_found_alone(
    site: Site, rule: str, plant: Plant, arguments: tuple[str, ...]
):
    with plant(site):
        told = site.check(*arguments, "--topic", site.name)

    severity = next(each.severity for each in RULES if each.id == rule)
    assert told.ids == {rule}, told.document
    assert told.code == (3 if severity == "error" else 0)
    for finding in told.document["findings"]:
        assert finding["what"] and finding["why"] and finding["mend"]
        assert "{" not in finding["mend"]


@pytest.mark.parametrize("accepted", ["client.isolation-level", "client"])
def test_accepted_finding_is_told_and_fails_nothing(site: Site, accepted: str):
    with env(KAFKA_ISOLATION_LEVEL="read_uncommitted")(site):
        told = site.check("--topic", site.name, "--strict", "--ignore", accepted)

    assert (told.code, told.ids) == (0, set())
    assert [each["id"] for each in told.document["ignored"]] == ["client.isolation-level"]
    assert told.stderr == "0 error(s), 0 warning(s), 1 ignored\n"


def test_strict_fails_on_warnings_and_only_looks_at_what_is_named(site: Site):
    with env(KAFKA_MESSAGE_TIMEOUT_MS="5000", KAFKA_ISOLATION_LEVEL="read_uncommitted")(site):
        strict = site.check("--topic", site.name, "--strict", "--only", "client.delivery-timeout")
        other = site.check("--topic", site.name, "--strict", "--only", "topic")

    assert (strict.code, strict.ids) == (3, {"client.delivery-timeout"})
    assert (other.code, other.ids) == (0, set())


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("registry", "PROCESSOR_REGISTRY_URL", "http://127.0.0.1:9"),
        ("claim store", "PROCESSOR_S3_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("claim store", "PROCESSOR_CLAIMS_STORE", "s3://no-such-bucket/x"),
        ("kafka", "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9"),
    ],
)
def test_part_that_is_away_is_told_and_the_rest_is_checked(
    site: Site, part: str, name: str, value: str
):
    with site.environment(**{name: value, "PROCESSOR_KAFKA_ISOLATION_LEVEL": "read_uncommitted"}):
        told = site.check("--topic", site.name)

    assert (told.code, told.ids) == (3, {"client.isolation-level"})
    assert [each["part"] for each in told.document["unreachable"]] == [part]
    assert f"not checked, {part}: " in told.stderr


def test_part_that_is_away_fails_where_nothing_else_is_found(site: Site):
    with site.environment(PROCESSOR_REGISTRY_URL="http://127.0.0.1:9"):
        told = site.check("--topic", site.name)

    assert (told.code, told.ids) == (1, set())


def test_findings_are_told_for_people(site: Site):
    with env(KAFKA_ISOLATION_LEVEL="read_uncommitted")(site):
        code, out, err = site.run("check", "--topic", site.name)

    assert code == 3
    assert out == (
        "error: client.isolation-level: kafka.isolation.level: it is read_uncommitted\n"
        "  why: jobs that a producer's transaction took back are worked all the same\n"
        "  mend: take isolation.level out of [kafka]\n"
    )
    assert err == "1 error(s), 0 warning(s), 0 ignored\n"


@pytest.mark.parametrize("option", ["--only", "--ignore"])
def test_unknown_id_is_misuse(site: Site, option: str):
    code, out, err = site.run("check", option, "topic.partition")

    assert (code, out) == (2, "")
    assert err == (
        "error: no check is called `topic.partition`\nhint: did you mean `topic.partitions`?\n"
    )


@pytest.mark.parametrize(
    "plant",
    [
        lambda site: site.topic_setting("", "retention.bytes", "1000000"),
        lambda site: site.topic_setting("", "unclean.leader.election.enable", "true"),
        lambda site: site.topic_setting(".retry.1", "max.message.bytes", "10000"),
        lambda site: site.rules({**ABORT}),
    ],
    ids=["retention.bytes", "unclean", "max.message.bytes", "lifecycle"],
)
def test_what_check_names_is_mended_by_the_command_it_names(site: Site, plant: Plant):
    with plant(site):
        (finding,) = site.check("--topic", site.name).document["findings"]
        command = finding["mend"].removeprefix("processor ").split()
        assert site.run(*command)[0] == 0

        assert site.check("--topic", site.name, "--strict").code == 0
