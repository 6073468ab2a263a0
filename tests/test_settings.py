from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.adapters.key_file import KeyFile
from processor.errors import KeysUnavailable, UsageError
from processor.kafka_rules import KAFKA_REFUSED, kafka_fault
from processor.secret import masked
from processor.settings import (
    DEV_STACK_FILE,
    S3Settings,
    Settings,
    load_settings,
    parse_duration,
    resolve_settings,
)
from processor.sources import OTHER_VARIABLES, variable_of

CANARY = "s3cr3t-canary"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, text: str, name: str | Path = "processor.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, environ: dict[str, str] | None = None, **kwargs) -> Settings:
    return load_settings(folder=folder, environ=environ or {}, **kwargs)


def fault_of(folder: Path, environ: dict[str, str] | None = None, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, environ, **kwargs)
    return caught.value.message


def test_nothing_set_gives_the_defaults(folder: Path):
    assert load(folder) == Settings()


def test_each_source_yields_to_the_next(folder: Path):
    sources: list[str] = []
    environ: dict[str, str] = {}
    overrides: dict[str, str] = {}

    def group() -> str:
        resolved = resolve_settings(folder=folder, environ=environ, overrides=overrides)
        sources.append(resolved.origins["worker.group"].source)
        return resolved.settings.worker.group

    groups = [group()]
    write(folder, '[worker]\ngroup = "stack"', DEV_STACK_FILE)
    groups.append(group())
    write(folder, '[worker]\ngroup = "file"')
    groups.append(group())
    environ["PROCESSOR_WORKER_GROUP"] = "env"
    groups.append(group())
    overrides["worker.group"] = "flag"
    groups.append(group())

    assert groups == ["processor", "stack", "file", "env", "flag"]
    assert sources == ["default", "dev stack", "file", "env", "flag"]


def test_local_stack_changes_only_what_nothing_else_sets(folder: Path):
    write(folder, '[kafka]\n"bootstrap.servers" = "dev:1"\n"client.id" = "x"', DEV_STACK_FILE)
    write(folder, '[kafka]\n"bootstrap.servers" = "prod:1"')

    assert load(folder).kafka == {"bootstrap.servers": "prod:1", "client.id": "x"}


def test_flag_that_was_not_given_changes_nothing(folder: Path):
    assert load(folder, overrides={"worker.group": None}) == Settings()


def test_file_is_named_by_the_environment_or_the_caller(folder: Path):
    write(folder, '[worker]\ngroup = "default-file"')
    named = write(folder, '[worker]\ngroup = "named"', "named.toml")
    given_file = write(folder, '[worker]\ngroup = "given"', "given.toml")
    environ = {"PROCESSOR_CONFIG": str(named)}

    assert load(folder, environ).worker.group == "named"
    assert load(folder, environ, file=given_file).worker.group == "given"


def test_named_file_that_is_missing_is_a_fault(folder: Path):
    told = fault_of(folder, {"PROCESSOR_CONFIG": "/nowhere/p.toml"})

    assert told == "/nowhere/p.toml: cannot be read: No such file or directory"


def test_every_setting_has_a_variable_of_its_own():
    names = [name for name in Settings().values() if not name.startswith("kafka.")]

    assert len({variable_of(name) for name in names}) == len(names) > 20


def test_kafka_settings_come_from_the_environment_with_dots(folder: Path):
    environ = {
        "PROCESSOR_KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2",
        "PROCESSOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    }

    assert load(folder, environ).kafka == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
    }


def test_kafka_names_may_be_written_without_quotes(folder: Path):
    write(folder, '[kafka]\nbootstrap.servers = "a:1"\nssl.key.location = "/k"\nlinger.ms = 5')

    assert load(folder).kafka == {
        "bootstrap.servers": "a:1",
        "ssl.key.location": "/k",
        "linger.ms": 5,
    }


def test_value_is_read_from_a_mounted_secret(folder: Path):
    secret = write(folder, f"{CANARY}\n", "secret")
    environ = {
        "PROCESSOR_REGISTRY_USERNAME": "me",
        "PROCESSOR_REGISTRY_PASSWORD_FILE": str(secret),
        "PROCESSOR_KAFKA_SASL_PASSWORD_FILE": str(secret),
    }

    settings = load(folder, environ)

    assert settings.registry.password is not None
    assert settings.registry.password.get_secret_value() == CANARY
    assert settings.kafka["sasl.password"] == CANARY


def test_client_setting_that_is_itself_a_file_is_passed_as_it_is(folder: Path):
    environ = {"PROCESSOR_KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE": "/k.pem"}

    assert load(folder, environ).kafka["sasl.oauthbearer.assertion.private.key.file"] == "/k.pem"


PATHS = ["encryption.key_file", "http.ca_file", "registry.ca_location", "topics_dir",
         "kafka.ssl.key.location", "kafka.sasl.oauthbearer.assertion.private.key.file"]  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_setting_that_names_a_file_takes_its_path_and_no_content(folder: Path, name: str):
    path = str(write(folder, CANARY, "keys"))
    variable = "PROCESSOR_" + name.replace(".", "_").upper()

    told = fault_of(folder, {f"{variable}_FILE": path})

    assert str(load(folder, {variable: path}).values()[name]) == path
    assert told == f"{variable}_FILE: {name} is a path: give it in {variable}"


def test_what_was_read_from_a_file_is_a_secret(folder: Path):
    path = str(write(folder, "postgresql://me@db/canary", "url"))
    names = ["ledger.url", "s3.access_key_id", "kafka.client.id", "log.level"]
    environ = {f"PROCESSOR_{n.replace('.', '_').upper()}_FILE": path for n in names}

    told = fault_of(folder, environ)
    settings = load(
        folder, {n: v for n, v in environ.items() if "LEVEL" not in n and "S3" not in n}
    )

    assert "log.level: must be" in told
    assert "canary" not in told
    assert settings.secrets() == ["postgresql://me@db/canary"] * 2
    assert masked("ledger.url", settings.values()["ledger.url"]) == "***"
    assert settings.ledger.url == "postgresql://me@db/canary"


LISTS = {
    "files.folders": "`nowhere` is no absolute path such as /srv/in",
    "http.hosts": "`no where` is no host: write files.example.com, *.example.com, an address, or *",
    "http.networks": "`nowhere` is no network such as 10.1.0.0/16: 'nowhere' does not appear to be",
    "encryption.kms_keys": "`nowhere` is no key: write arn:aws:kms:",
}


@pytest.mark.parametrize("name", LISTS)
def test_entry_of_a_list_is_named_unless_it_was_read_from_a_file(folder: Path, name: str):
    entry = LISTS[name].split("`")[1]
    variable = "PROCESSOR_" + name.replace(".", "_").upper()

    told = fault_of(folder, {variable: entry})
    told_of_file = fault_of(folder, {f"{variable}_FILE": str(write(folder, entry, "list"))})

    assert LISTS[name] in told
    fact = LISTS[name].partition("` ")[2].partition(": '")[0]
    assert told_of_file.startswith(f"{variable}_FILE: {name}: an entry {fact}")
    assert entry not in told_of_file


def test_secret_file_that_is_missing_is_a_fault(folder: Path):
    told = fault_of(folder, {"PROCESSOR_KAFKA_SASL_PASSWORD_FILE": "/nowhere"})

    assert told == (
        "PROCESSOR_KAFKA_SASL_PASSWORD_FILE: /nowhere cannot be read: No such file or directory"
    )


def test_value_and_file_of_one_setting_contradict_each_other(folder: Path):
    path = write(folder, "b", "group")

    told = fault_of(
        folder, {"PROCESSOR_WORKER_GROUP": "a", "PROCESSOR_WORKER_GROUP_FILE": str(path)}
    )

    assert told == (
        "PROCESSOR_WORKER_GROUP_FILE: worker.group is set by PROCESSOR_WORKER_GROUP too; keep one"
    )


def test_empty_variable_counts_as_not_set(folder: Path):
    assert load(folder, {"PROCESSOR_WORKER_METRICS_PORT": ""}) == Settings()


def test_variables_that_kubernetes_adds_are_passed_over(folder: Path):
    environ = {
        "PROCESSOR_SERVICE_HOST": "10.0.0.1",
        "PROCESSOR_SERVICE_PORT": "80",
        "PROCESSOR_PORT": "tcp://10.0.0.1:80",
        "PROCESSOR_PORT_80_TCP_ADDR": "10.0.0.1",
        "PROCESSOR_KAFKA_SERVICE_HOST": "10.0.0.2",
        "PROCESSOR_KAFKA_PORT_9092_TCP": "tcp://10.0.0.2:9092",
    }

    assert load(folder, environ) == Settings()
    assert load(folder, {"PROCESSOR_WORKER_METRICS_PORT": "9100"}).worker.metrics_port == 9100


def test_unknown_names_are_faults_with_the_nearest_name(folder: Path):
    path = write(folder, "[worker]\nconcurency = 3")
    environ = {"PROCESSOR_WORKER_DRIAN_SECONDS": "3", "PROCESSOR_XYZZY": "1"}

    told = fault_of(folder, environ, overrides={"worker.gruop": "x"})

    assert told.splitlines() == [
        "4 faults in the settings",
        f"  {path}: worker.concurency: no such setting; did you mean worker.concurrency?",
        f"  {next(iter(environ))}: no such setting; did you mean PROCESSOR_WORKER_DRAIN_SECONDS?",
        "  PROCESSOR_XYZZY: no such setting",
        "  flag: worker.gruop: no such setting; did you mean worker.group?",
    ]


def test_faults_of_all_sources_are_told_at_once(folder: Path):
    path = write(
        folder,
        '[worker]\nconcurrency = "many"\ndrain_seconds = "soon"\n'
        '[kafka]\nacks = 1\n[ledger]\nurl = "mysql://me:pw@db/x"',
    )

    told = fault_of(folder, {"PROCESSOR_LOG_LEVEL": "loud"}).splitlines()

    assert told[0] == "5 faults in the settings"
    by_name = {line.partition(": ")[2].partition(" ")[0]: line for line in told[1:]}
    acks, ledger, level, concurrency, drain = (by_name[name] for name in sorted(by_name))
    assert acks == (
        f"  {path}: kafka.acks: breaks a promise:"
        " an accepted job must be on every in-sync replica; remove it"
    )
    assert ledger == (
        f"  {path}: ledger.url = 'mysql://me:***@db/x':"
        " must begin with sqlite:// or postgresql://, or be `none`"
    )
    assert level == (
        "  PROCESSOR_LOG_LEVEL: log.level = 'loud': must be 'debug', 'info', 'warning' or 'error'"
    )
    assert concurrency.startswith(f"  {path}: worker.concurrency = 'many': must be a valid integer")
    assert drain == (
        f"  {path}: worker.drain_seconds = 'soon':"
        " is no duration: write seconds, or like 500ms, 90s, 5m, 1h30m"
    )


@pytest.mark.parametrize(
    "url",
    ["file:///srv/claims/", "file:////srv/a%20b", "s3://bucket", "s3://b/a b?c",
     "s3://claims-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias/a"],
)  # fmt: skip
def test_url_of_a_claim_store_passes(folder: Path, url: str):
    (folder / "processor.toml").write_text(f'claims.store = "{url}"')

    assert load(folder).claims.store == url


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("worker = 3", "worker: is a table: write [worker] and its settings below"),
        ("[worker.group]\nx = 1", "worker.group.x: no such setting; did you mean worker.group?"),
        ("[worker", "is not TOML:"),
        ("[kafka]\nacks = [1]", "kafka.acks: must be a text, a number or true/false"),
        ("[worker]\ntimeout_seconds = inf", "worker.timeout_seconds = inf: must be a finite"),
        ("[worker]\nmetrics_port = 70000", "less than or equal to 65535"),
        ('claims.store = "file://claims"', "must be like file:///var/lib/claims or s3://bucket/"),
        ('claims.store = "file:///srv/../claims"', "must be like file:///var/lib/claims or"),
        ('claims.store = "file:///"', "must be like file:///var/lib/claims or s3://bucket/prefix"),
        ('claims.store = "s3://"', "must be like file:///var/lib/claims or s3://bucket/prefix"),
        ('claims.store = "s3:///prefix"', "must be like file:///var/lib/claims or s3://bucket"),
        ('claims.store = "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint:claims/a"',
         "of an access point, give the alias"),
        ('claims.store = "s3://tenant:bucket/a"', "must be like file:///var/lib/claims or s3://b"),
        ('registry.url = "http://[x"', "must be like https://host:8081"),
        ('registry.url = "http://a,http://"', "must be like https://host:8081"),
        ('registry.url = "http://registry:port"', "must be like https://host:8081"),
        ('s3.endpoint_url = "http://"', "must be like https://host:8081"),
    ],
)  # fmt: skip
def test_fault_names_the_file_and_the_fact(folder: Path, text: str, told: str):
    path = write(folder, text)

    message = fault_of(folder)

    assert message.startswith(f"{path}: ")
    assert told in message


def test_settings_that_contradict_each_other_are_told_with_their_sources(folder: Path):
    path = write(folder, '[worker]\ndrain_seconds = "5m"')

    assert fault_of(folder) == (
        f"{path}: [worker] drain_seconds (300) must not be longer than shutdown_seconds (30)"
    )


@pytest.mark.parametrize("name", sorted(KAFKA_REFUSED))
def test_client_setting_that_would_break_a_promise_is_refused_with_a_reason(
    folder: Path, name: str
):
    harmful = "9" if "in.flight" in name else "0"

    told = fault_of(folder, {variable_of(f"kafka.{name}"): harmful})

    assert f"kafka.{name}: breaks a promise: {KAFKA_REFUSED[name].why}" in told
    assert KAFKA_REFUSED[name].instead in told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.auto.commit", False),
        ("acks", "all"),
        ("acks", -1),
        ("enable.idempotence", True),
        ("partitioner", "murmur2_random"),
        ("max.in.flight.requests.per.connection", 5),
        ("isolation.level", "read_uncommitted"),
        ("max.poll.interval.ms", 10000),
    ],
)
def test_client_setting_that_keeps_the_promises_passes(name: str, value: object):
    assert kafka_fault(name, value) is None


def test_refused_client_settings_cannot_be_smuggled_past_the_sources():
    with pytest.raises(ValueError, match="breaks a promise"):
        Settings(kafka={"group.id": "mine"})

    assert kafka_fault("default.topic.config.acks", 1) is not None


def test_faults_never_tell_a_secret(folder: Path):
    write(folder, f'[kafka]\nsasl.password = ["{CANARY}"]\n[s3]\nsecret_access_key = ["{CANARY}"]')

    told = fault_of(folder, {"PROCESSOR_LEDGER_URL": f"mysql://me:{CANARY}@db/x"})

    assert told.startswith("3 faults")
    assert CANARY not in told


def test_no_secret_shows_when_settings_are_printed():
    settings = Settings.model_validate(
        {
            "registry": {"username": "me", "password": CANARY},
            "ledger": {"url": f"postgresql://me:{CANARY}@db/x?sslpassword={CANARY}"},
            "kafka": {"sasl.password": CANARY, "ssl.key.pem": CANARY, "client.id": "seen"},
        }
    )

    shown = {name: masked(name, value) for name, value in settings.values().items()}

    assert CANARY not in str(shown)
    assert shown["ledger.url"] == "postgresql://me:***@db/x?sslpassword=***"
    assert shown["kafka.client.id"] == "seen"
    assert settings.secrets() == [CANARY] * 5


@pytest.mark.parametrize(
    "url",
    [f"host=db user=app password={CANARY}", f"host=db password = '{CANARY}'", f"me:{CANARY}@db/x",
     f"mysql://me:p {CANARY}@db/x", f"mysql://me:{CANARY} p@db/x", f"mysql://me:p@{CANARY}@db/x",
     f"mysql://me:p/{CANARY}@db/x", f"mysql://me:p?{CANARY}@db/x", f"https://{CANARY}@db",
     f"https://{CANARY}:@db",
     f"mysql://db/x?password={CANARY} p", f"https://id/token?client_secret={CANARY}"],
)  # fmt: skip
def test_password_in_any_place_of_a_url_is_not_shown(folder: Path, url: str):
    settings = Settings.model_validate({"outbox": {"url": url}})

    told = fault_of(folder, {"PROCESSOR_LEDGER_URL": url})

    assert CANARY not in told
    assert CANARY not in str(masked("outbox.url", url)) + str(masked("ledger.url", [url]))
    assert CANARY in "".join(settings.secrets())


@pytest.mark.parametrize(
    "url",
    ["none", "sqlite:///a b/ledger.db", "postgresql://me@h1:5432,[::1]:5433/x?user=me@server",
     "postgresql:///x?host=/var/run/postgresql", "https://registry.internal/v1?x=y"],
)  # fmt: skip
def test_url_without_a_password_is_shown(url: str):
    assert masked("ledger.url", url) == url
    assert Settings.model_validate({"outbox": {"url": url}}).secrets() == []


@pytest.mark.parametrize(
    "url", ["me:p@ss@db/x", "me:p/s@db/x", "me:1/s@db/x", "me@x:p@db", "me:p@db:port/x"]
)
@pytest.mark.parametrize("name", ["ledger", "outbox"])
def test_password_that_libpq_would_take_for_a_host_is_refused(folder: Path, name: str, url: str):
    told = fault_of(folder, {f"PROCESSOR_{name.upper()}_URL": f"postgresql://{url}"})

    assert "with @ and / of a password as %40 and %2F" in told


def test_password_is_masked_as_it_is_meant():
    url = "postgresql://me:p%40ss%2F1@db/x"

    assert masked("ledger.url", url) == "postgresql://me:***@db/x"
    assert Settings.model_validate({"ledger": {"url": url}}).secrets() == ["p%40ss%2F1", "p@ss/1"]


@pytest.mark.parametrize("content", [f"-----BEGIN KEY-----\n{CANARY}", CANARY * 20])
def test_content_in_place_of_a_path_is_not_shown(folder: Path, content: str):
    for name, value in (
        ("encryption.key_file", Path(content)),
        ("kafka.ssl.key.location", content),
    ):
        assert masked(name, value) == "***"

    with pytest.raises(KeysUnavailable) as refused:
        KeyFile(Path(content))
    told = fault_of(folder, {"PROCESSOR_KAFKA_SASL_PASSWORD_FILE": content})

    assert "the key file *** cannot be read" in str(refused.value)
    assert CANARY not in str(refused.value) + told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(90, 90.0), ("90", 90.0), ("1.5", 1.5), ("500ms", 0.5), ("90s", 90.0), ("5m", 300.0),
     ("1h30m", 5400.0), ("1m 30s", 90.0), ("7d", 604800.0)],
)  # fmt: skip
def test_durations_are_seconds_or_units(text: object, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 minutes", "m5", "5x", "1e3", "٣s", True, None, []])
def test_what_is_no_duration_is_refused(text: object):
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_duration_of_parts_is_their_sum(hours: int, minutes: int, seconds: int):
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_every_setting_is_documented_with_its_default():
    text = DOCUMENT.read_text(encoding="utf-8")

    missing = [
        name
        for name, value in Settings().values().items()
        if not name.startswith("kafka.") and f"| `{name}` | {default_of(value)} |" not in text
    ]
    assert missing == []
    assert [name for name in OTHER_VARIABLES if f"| `{name}` |" not in text] == []


def default_of(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, tuple):
        return f"`{','.join(value)}`" if value else ""
    return f"`{value:.12g}`" if isinstance(value, float) else f"`{value}`"


def test_every_refused_client_setting_is_documented_with_its_reason():
    text = DOCUMENT.read_text(encoding="utf-8")

    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert [n for n, rule in KAFKA_REFUSED.items() if rule.why not in lines.get(n, "")] == []


def test_documented_file_is_a_good_one(folder: Path):
    example = DOCUMENT.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    write(folder, example)

    settings = load(folder)

    assert settings.worker.drain_seconds == 45
    assert settings.kafka["sasl.mechanism"] == "SCRAM-SHA-512"


def test_encryption_of_objects_is_asked_for_as_it_is_set():
    assert S3Settings().put_options == {}
    assert S3Settings(server_side_encryption="aws:kms", kms_key_id="k").put_options == {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "k",
    }
    with pytest.raises(ValueError, match="needs server_side_encryption"):
        S3Settings(kms_key_id="k")


def test_list_comes_from_the_file_and_from_the_environment(folder: Path):
    write(
        folder, '[http]\nhosts = ["Files.Example.com.", "*.cdn.example"]\nnetworks = ["10.0.0.0/8"]'
    )

    settings = load(folder, {"PROCESSOR_HTTP_NETWORKS": "127.0.0.0/8, ::1/128"})

    assert settings.http.hosts == ("files.example.com", "*.cdn.example")
    assert settings.http.networks == ("127.0.0.0/8", "::1/128")


def test_folder_of_jobs_is_an_absolute_path(folder: Path):
    assert load(folder).files.folders == ()
    write(folder, '[files]\nfolders = ["/srv/in"]\n')
    assert load(folder, {"PROCESSOR_FILES_FOLDERS": "/a, /b"}).files.folders == ("/a", "/b")

    write(folder, '[files]\nfolders = ["/srv/in", "out"]\n')
    with pytest.raises(UsageError, match="`out` is no absolute path"):
        load(folder)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('hosts = ["https://files.example.com"]', "is no host"),
        ('hosts = ["a.*.example"]', "is no host"),
        ('networks = ["10.0.0.1/8"]', "has host bits set"),
        ('networks = ["files.example.com"]', "is no network"),
    ],
)
def test_host_and_network_that_are_none_are_faults(folder: Path, table: str, told: str):
    write(folder, f"[http]\n{table}\n")

    with pytest.raises(UsageError, match=told):
        load(folder)
