"""A secured cluster: ways to log in, and rights that are enough for all work and each needed."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from processor.adapters.acl_admin import AclAdmin
from processor.adapters.broker import made
from processor.adapters.reader import TopicReader
from processor.adapters.topic_admin import TopicAdmin
from processor.contracts.acl_plan import ROLES, Acl, Deployment, Right, Role, rights_of
from processor.contracts.topic import Topic, TopicSpec
from processor.contracts.topics import TopicSet
from processor.errors import ProcessorError, UsageError
from processor.outbox import Outbox
from processor.outbox.write import Contracts
from processor.settings import load_settings
from processor.stack import Stack
from processor.stack.security import Security
from tests.acceptance.project import Process, Ran, eventually
from tests.security.conftest import SecuredProject

pytestmark = [pytest.mark.broker, pytest.mark.registry, pytest.mark.acceptance, pytest.mark.slow,
              pytest.mark.timeout(300)]  # fmt: skip

MISUSE = 2
HANDLERS = """
from processor import App
app = App()

@app.job("mail.send")
def send(payload, ctx):
    if payload["to"] == "nobody" or (payload["to"] == "later" and ctx.attempt == 1):
        raise RuntimeError("not delivered")
    return {"sent": payload["to"]}
"""
# What goes with a right is missed first where it goes.
IMPLIED = {
    "Read": ("Read", "Describe"),
    "Write": ("Write", "Describe"),
    "AlterConfigs": ("AlterConfigs", "DescribeConfigs"),
}


class Mail(SecuredProject):
    """A project with one topic, whose rights the administrator has granted."""

    def prepare(self) -> None:
        """Declare, grant, provision."""
        self.started: list[Process] = []
        self.add_schema("mail.send", [{"name": "to", "type": "string"}])
        self.topic = self.add_topic(
            "mail", ["mail.send"], ordering="key", retry={"delays": ["100ms"]}
        )
        self.add_module("handlers", HANDLERS)
        self.typed("admin", "acls", "apply", self.topic).ok()
        self.typed("provisioner", "topics", "apply", self.topic).ok()
        self.typed("provisioner", "schemas", "register").ok()

    @property
    def declared(self) -> Topic:
        """The topic's file."""
        return TopicSet.load([self.folder / "topics"]).get(self.topic)

    def planned(self, *roles: Role) -> list[Right]:
        """The rights of these roles."""
        principals = {role: [f"User:{role}"] for role in roles}
        return rights_of(principals, [self.declared], Deployment(self.name))

    def submit(self, to: str, *more: str) -> list[str]:
        """A command that submits a mail."""
        return ["submit", "mail.send", "--json", json.dumps({"to": to}), "--key", to, *more]

    def start_worker(self) -> Process:
        """Start a worker as the user `worker`."""
        self.started.append(self.start("work", "handlers:app", env=self.environment("worker")))
        return self.started[-1]


@pytest.fixture(scope="module")
def mail(
    tmp_path_factory: pytest.TempPathFactory,
    kafka_table: dict[str, Any],
    security: Security,
    registry: Any,
) -> Iterator[Mail]:
    tables = {"kafka": kafka_table, "registry": {"url": registry.url}, "log": {"format": "json"}}
    made = Mail(tmp_path_factory.mktemp("mail"), tables, security)
    made.prepare()
    yield made
    for each in made.started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.fixture(scope="module")
def worked(mail: Mail) -> Mail:
    """The same after some work: there is a takeover marker, a dead letter and a ledger."""
    worker = mail.start_worker()
    dead = mail.typed("producer", *mail.submit("nobody", "--wait"))
    assert dead.rows()[-1]["state"] == "dead", dead.stderr
    assert worker.end() == 0
    return mail


@contextmanager
def without(admin: AclAdmin, acl: Acl) -> Iterator[None]:
    """Take a right away for a while."""
    admin.remove([acl])
    try:
        yield
    finally:
        admin.add([acl])
        # Whichever broker is asked: each hears of it at its own time.
        eventually(lambda: all(acl in admin.of([acl.principal]) for _ in range(9)))


def test_main_job_runs_with_the_generated_rights_and_each_role_as_its_own_user(mail: Mail) -> None:
    database = mail.folder / "app.db"
    url = ("--url", f"sqlite:///{database}")
    worker = mail.start_worker()

    done = mail.typed("producer", *mail.submit("later", "--wait")).ok().rows()[-1]
    dead = mail.typed("producer", *mail.submit("nobody", "--wait")).rows()[-1]
    letters = mail.typed("operator", "dead", "list", mail.topic).ok().rows()
    job = ("--job-id", dead["job_id"])
    replay = mail.typed("operator", "dead", "replay", mail.topic, *job, "--yes").ok()
    eventually(
        lambda: mail.typed("operator", "dead", "list", mail.topic, *job).rows()[0]["replays"] == 1
    )
    why = mail.typed("operator", "why", "nobody").ok().rows()
    status = mail.typed("operator", "status", done["job_id"]).ok().rows()[-1]
    mail.typed("relay", "outbox", "create", *url).ok()
    with sqlite3.connect(database) as connection:
        connection.execute("BEGIN")
        outbox = Outbox(connection, contracts=Contracts(mail.settings_of("relay")))
        by_outbox = outbox.submit("mail.send", {"to": "ann"}, key="ann")
    mail.run("outbox", "relay", "--once", *url, env=mail.environment("relay")).ok()
    eventually(lambda: mail.typed("operator", "status", by_outbox).code == 0)
    lag = mail.typed("operator", "lag", mail.topic).ok().rows()

    assert (done["state"], done["attempts"], dead["state"]) == ("succeeded", 2, "dead")
    assert dead["job_id"] in [each["job_id"] for each in letters]
    assert "1 job(s)" in replay.stderr
    assert dead["job_id"] in [each["job_id"] for each in why]
    assert status["state"] == "succeeded"
    assert sum(each["end"] for each in lag) >= 4
    assert worker.end() == 0
    check = mail.typed("provisioner", "acls", "plan", mail.topic, "--check")
    assert "0 missing, 0 beyond the plan" in check.ok().stderr


Action = Callable[[str, str], Ran]  # Of a user, on a resource.


def actions(project: Mail) -> dict[tuple[str, str, str], Action]:
    """For each right of those who type commands: the smallest thing that needs it."""

    def typed(*arguments: str) -> Action:
        return lambda user, _: project.typed(user, *arguments)

    def asked(call: Callable[[TopicAdmin, str], None]) -> Action:
        def ask(user: str, name: str) -> Ran:
            try:
                call(TopicAdmin(project.settings_of(user).kafka), name)
            except UsageError as fault:
                return Ran(MISUSE, "", f"error: {fault.message}\nhint: {fault.hint}")
            except ProcessorError as fault:  # It may, and there is nothing to do.
                return Ran(0, "", fault.message)
            return Ran(0, "", "")

        return ask

    def create(admin: TopicAdmin, name: str) -> None:
        admin.create(TopicSpec(name, 3, 3, {}))

    def grow(admin: TopicAdmin, name: str) -> None:
        admin.add_partitions(name, 3)

    letters, tier = f"{project.topic}.dlt", f"{project.topic}.retry.1"
    status, group = f"{project.topic}.status", project.name
    found: dict[tuple[str, str, str], Action] = {
        ("producer", "Write", project.topic): typed(*project.submit("ann")),
        ("producer", "Read", status): typed(*project.submit("ann", "--wait", "--timeout", "1")),
        ("operator", "Describe", group): typed("lag", project.topic),
        ("operator", "Read", project.topic): typed("why", "ann"),
        ("operator", "Write", project.topic): typed("dead", "replay", project.topic, "--yes"),
        ("operator", "Read", tier): typed("why", "ann"),
        ("operator", "Read", letters): typed("dead", "list", project.topic),
        ("operator", "Read", status): typed("status", "no-such-job"),
        ("provisioner", "Describe", "kafka-cluster"): typed("acls", "plan", project.topic),
    }
    for name in (project.topic, tier, letters, status):
        found["provisioner", "Create", name] = asked(create)
        found["provisioner", "Alter", name] = asked(grow)
        found["provisioner", "AlterConfigs", name] = typed("topics", "plan", project.topic)
    return found


@pytest.mark.parametrize("role", ["producer", "operator", "provisioner"])
def test_command_without_any_single_right_names_it_and_the_plan(role: Role, worked: Mail) -> None:
    needed, admin = actions(worked), worked.admin
    worked.typed("producer", *worked.submit("ann")).ok()  # It waits: no worker runs.
    rights = worked.planned(role)
    assert {(role, r.acl.operation, r.acl.name) for r in rights} == {
        each for each in needed if each[0] == role
    }
    for acl in [right.acl for right in rights]:
        with without(admin, acl):
            told = eventually(
                lambda acl=acl: is_refused(needed[role, acl.operation, acl.name](role, acl.name)),
                timeout=20,
                otherwise=lambda acl=acl: f"it was done without {acl}",
            ).stderr
        where = acl.resource if acl.resource == "cluster" else f"{acl.resource} `{acl.name}`"
        named = [f"allow User:{role} {each} on {where}" for each in refused(acl)]
        assert any(each in told for each in named), (acl, told)
        assert "hint: `processor acls plan`" in told or where == "cluster", told


def is_refused(ran: Ran) -> Ran | None:
    return ran if ran.code == MISUSE else None


def refused(acl: Acl) -> tuple[str, ...]:
    return IMPLIED.get(acl.operation, (acl.operation,))


def test_relay_without_its_right_tells_it_and_keeps_the_row(worked: Mail) -> None:
    url = ("--url", f"sqlite:///{worked.folder / 'relay.db'}")
    worked.typed("relay", "outbox", "create", *url).ok()
    with sqlite3.connect(worked.folder / "relay.db") as connection:
        connection.execute("BEGIN")
        outbox = Outbox(connection, contracts=Contracts(worked.settings_of("relay")))
        outbox.submit("mail.send", {"to": "ann"}, key="ann")
    (right,) = worked.planned("relay")

    with without(worked.admin, right.acl):
        relay = worked.start("outbox", "relay", *url, env=worked.environment("relay"))
        worked.started.append(relay)
        told = eventually(lambda: [row for row in relay.logged() if "why" in row], timeout=30)

    assert f"User:relay Write on topic `{worked.topic}`" in told[0]["why"]
    assert relay.end() == 0
    assert rows_of(worked.folder / "relay.db") == 1
    worked.run("outbox", "relay", "--once", *url, env=worked.environment("relay")).ok()
    assert rows_of(worked.folder / "relay.db") == 0


def rows_of(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return int(connection.execute("SELECT count(*) FROM processor_outbox").fetchone()[0])


def test_worker_does_not_start_without_any_single_right(worked: Mail) -> None:
    admin, rights = worked.admin, worked.planned("worker")
    for right in rights:
        with without(admin, right.acl):
            worker = worked.start_worker()
            code = worker.process.wait(60)
        assert_told(worker, code, right.acl)
    assert len(rights) == 6


@pytest.mark.parametrize("role", ROLES)
def test_check_finds_any_single_right_that_a_role_lacks(role: Role, worked: Mail) -> None:
    """The worker's too, whose group exists: asked as each role, of its own credentials."""

    def missing() -> list[str]:
        told = worked.typed(role, "check", "--role", role, "--only", "acl", "--json").stdout
        document = json.loads(told)
        assert document["unreachable"] == []
        return [f"{each['subject']}: {each['what'].split()[0]}" for each in document["findings"]]

    assert eventually(lambda: missing() == [])
    for acl in [right.acl for right in worked.planned(role)]:
        expected = f"{acl.resource} {acl.name}: {acl.operation}"
        with without(worked.admin, acl):
            eventually(lambda each=expected: missing() == [each], timeout=20, otherwise=missing)
        eventually(lambda: missing() == [], timeout=20)


@pytest.mark.parametrize(
    ("operation", "resource", "name"),
    [("Write", "topic", "{}.mail.retry.1"), ("Read", "topic", "{}.mail"), ("Read", "group", "{}")],
)
def test_worker_that_loses_a_right_ends_and_names_it(
    operation: str, resource: str, name: str, worked: Mail
) -> None:
    lost = Acl("User:worker", operation, resource, name.format(worked.name))
    worker = worked.start_worker()
    worker.wait_for("partition taken over", count=3)

    with without(worked.admin, lost):
        worked.typed("producer", *worked.submit("later")).ok()
        code = worker.process.wait(60)

    assert_told(worker, code, lost)


def assert_told(worker: Process, code: int, acl: Acl) -> None:
    log = worker.log.read_text()
    assert code == MISUSE, log
    told = log[log.index("error: ") :]
    # A commit is refused for all of its topics at once, whichever is not allowed.
    named = re.search(
        rf"User:worker (\w+) on {acl.resource} `(?:[^`]+, )?{re.escape(acl.name)}[,`]", told
    )
    assert named is not None and named[1] in refused(acl), f"{acl}\n{log}"
    assert "hint: `processor acls plan`" in told
    assert "Traceback" not in log


def test_worker_may_neither_create_topics_nor_read_another_group(worked: Mail) -> None:
    admin = TopicAdmin(worked.settings_of("worker").kafka)
    other = {**worked.environment("worker"), "PROCESSOR_WORKER_GROUP": "billing"}

    with pytest.raises(UsageError, match=r"User:worker Create on topic `more`") as created:
        admin.create(TopicSpec("more", 1, 1, {}))
    looked = worked.typed(other, "lag", worked.topic)
    joined = worked.run("work", "handlers:app", env=other)

    assert "acls plan" in str(created.value.hint)
    looked.refused(MISUSE, "User:worker Describe on group `billing`", "acls plan")
    joined.refused(MISUSE, "User:worker Read on group `billing`", "acls plan")


def test_what_is_beyond_the_plan_is_shown_and_removed_only_when_counted_and_confirmed(
    project: SecuredProject,
) -> None:
    project.add_schema("mail.send", [{"name": "to", "type": "string"}])
    name = project.add_topic("mail", ["mail.send"])
    who = f"User:{project.name}"
    wide = Acl(who, "All", "topic", project.name, pattern="prefixed")
    elsewhere = Acl(who, "Read", "topic", "billing")
    only = ("--role", "producer", "--producer", who)
    admin = project.admin
    admin.add([wide, elsewhere])

    dry = project.typed("admin", "acls", "apply", name, *only, "--prune", "--dry-run").ok()
    asked = project.typed("admin", "acls", "apply", name, *only, "--prune")
    untouched = admin.of([who])
    added = project.typed("admin", "acls", "apply", name, *only).ok()
    kept = eventually(lambda: len(found := admin.of([who])) == 4 and found)
    pruned = project.typed("admin", "acls", "apply", name, *only, "--prune", "--yes").ok()

    states = [(row["state"], row["operation"], row["name"]) for row in dry.rows()]
    assert ("remove", "All", project.name) in states
    assert ("grant", "Write", name) in states
    listed = f"beyond the plan: {who} All on topic `{project.name}` (allow, prefixed, from host *)"
    asked.refused(MISUSE, listed, "Remove 1 right beyond the plan?", "--yes")
    assert untouched == {wide, elsewhere}
    assert "1 right beyond the plan stay" in added.stderr
    assert wide in kept
    assert [row["state"] for row in pruned.rows()] == ["remove"]
    assert eventually(lambda: admin.of([who]) == kept - {wide})


def test_certificate_is_known_by_its_name(mail: Mail, secured: Stack, security: Security) -> None:
    shown = security.certificate_settings("relay")
    with TopicReader({**shown, "bootstrap.servers": secured.kafka.certificate_servers}) as reader:
        assert reader.existing(mail.declared.all_names) == {mail.topic}


def test_token_from_a_file_is_taken_and_one_that_has_ended_is_told(mail: Mail) -> None:
    path = mail.folder / "token"
    as_producer = {"PROCESSOR_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
                   "PROCESSOR_KAFKA_SASL_OAUTHBEARER_TOKEN_FILE": str(path)}  # fmt: skip
    path.write_text(unsigned_token("producer", seconds=3600))
    accepted = mail.typed(as_producer, *mail.submit("ann")).ok().rows()[0]
    path.write_text(unsigned_token("producer", seconds=-60))

    ended = mail.typed(as_producer, *mail.submit("ann"))

    assert accepted["topic"] == mail.topic
    ended.refused(MISUSE, f"the token for Kafka in {path} has ended")
    assert path.read_text() not in ended.stderr


def unsigned_token(user: str, *, seconds: float) -> str:
    now = time.time()
    parts = ({"alg": "none"}, {"sub": user, "iat": now - 120, "exp": now + seconds})
    written = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    return ".".join(part.decode().rstrip("=") for part in written) + "."


def test_password_that_was_changed_is_read_from_its_file_again(
    project: SecuredProject, kafka_table: dict[str, Any]
) -> None:
    path = project.folder / "password"
    path.write_text("first-password\n")
    set_password(project, "second-password")
    environ = {"PROCESSOR_KAFKA_SASL_USERNAME": project.name,
               "PROCESSOR_KAFKA_SASL_PASSWORD_FILE": str(path)}  # fmt: skip
    kafka = load_settings(folder=project.folder, environ=environ).kafka
    with TopicReader(kafka) as stale, pytest.raises(UsageError, match="refuses the credentials"):
        stale.existing([])

    with TopicReader(kafka) as reader:
        path.write_text("second-password\n")
        assert reader.existing(["t"]) == set()


def set_password(project: SecuredProject, password: str) -> None:
    """Make or change the user that has the project's name, and wait until it is known."""
    admin = made(AdminClient, project.settings_of("admin").kafka)
    method = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion(project.name, method, password.encode())
    for answer in admin.alter_user_scram_credentials([change]).values():
        answer.result(20)
    table = {**project.settings_of("admin").kafka, "sasl.username": project.name,
             "sasl.password": password}  # fmt: skip

    def known() -> bool:
        try:
            with TopicReader(table) as reader:
                return reader.existing([]) == set()
        except UsageError:
            return False

    eventually(known, timeout=20)


def test_wrong_password_is_told_by_nobody(mail: Mail) -> None:
    canary = "canary-9b1e4c"
    path = mail.folder / "wrong"
    path.write_text(canary)
    wrong = {"PROCESSOR_KAFKA_SASL_USERNAME": "worker",
             "PROCESSOR_KAFKA_SASL_PASSWORD_FILE": str(path),
             "PROCESSOR_LOG_LEVEL": "debug"}  # fmt: skip

    ended = [
        mail.run("work", "handlers:app", env=wrong),
        mail.typed(wrong, "acls", "plan"),
        mail.typed(wrong, *mail.submit("ann")),
    ]

    for each in ended:
        each.refused(MISUSE, "refuses the credentials", "hint: check security.protocol, sasl.*")
        assert canary not in each.stdout + each.stderr
