from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from processor.adapters.objects.claim_bucket import ClaimBucket, delete_claims
from processor.adapters.objects.stores import Objects
from processor.cli.main import run
from processor.contracts.claim_rules import rule_id, with_our_rule
from processor.contracts.claims import ClaimStore, claim_to_header
from processor.settings import load_settings
from tests.cli.told import Told

pytestmark = [pytest.mark.broker, pytest.mark.s3]

DAY = 86_400.0


Command = Callable[..., Told]


@pytest.fixture
def apply(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kafka: Any,
    s3: Any,
    name: str,
) -> Command:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topics").mkdir()
    (tmp_path / "processor.toml").write_text(
        f'[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[s3]\nendpoint_url = "{s3.endpoint_url}"\nregion = "{s3.region}"\n'
        f'access_key_id = "{s3.access_key_id}"\nsecret_access_key = "{s3.secret_access_key}"\n'
    )
    use_store(monkeypatch, f"s3://processor-claims/{name}")
    declare(name)

    def call(*arguments: str) -> Told:
        code = run(["retention", "apply", *arguments])
        out, err = capsys.readouterr()
        return Told(code, [json.loads(line) for line in out.splitlines()], err)

    return call


def use_store(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("PROCESSOR_CLAIMS_STORE", uri)


def declare(name: str, more: str = "") -> None:
    # The built-in job types are taken, so that the built-in topic has none left.
    Path(f"topics/{name}.yaml").write_text(
        f"name: {name}\njobs: [object.copy, object.checksum]\npartitions: 1\n{more}\n"
    )


@pytest.fixture
def bucket(apply: Command) -> Iterator[ClaimBucket]:
    settings = load_settings()
    assert settings.claims.store is not None
    bucket = ClaimBucket(settings.s3, settings.claims.store)
    before = bucket.rules()
    yield bucket
    bucket.set_rules(before)


def test_rule_is_set_beside_those_of_others_which_stay_as_they_are(
    apply: Command, bucket: ClaimBucket
):
    before = bucket.rules()
    theirs = {
        "ID": "logs",
        "Status": "Enabled",
        "Filter": {"Prefix": "logs/"},
        "Expiration": {"Days": 3},
    }
    bucket.set_rules([*before, theirs])

    planned, first, second = apply("--dry-run"), apply(), apply()

    uri = f"s3://{bucket.name}/{bucket.prefix}"
    after = "expire after 60 days"  # 7 days on main, 7 in each of three tiers, 30 dead; 2 to spare.
    row = {"subject": uri, "before": None, "after": after}
    assert planned.rows == [{**row, "action": "would set the rule"}]
    assert first.rows == [{**row, "action": "set the rule"}]
    assert second.rows == [{**row, "before": after, "action": "none"}]
    assert [first.code, second.code] == [0, 0]
    assert bucket.rules() == (*before, theirs, with_our_rule([], bucket.prefix, 60)[0])


def test_dry_run_changes_nothing(apply: Command, bucket: ClaimBucket):
    before = bucket.rules()

    told = apply("--dry-run")

    assert bucket.rules() == before
    assert told.stderr == "claims are kept for 60 days\ndry run: nothing was changed\n"


def test_topic_that_keeps_its_dead_for_ever_takes_the_expiry_away(
    apply: Command, bucket: ClaimBucket, name: str
):
    apply()
    declare(name, "dead_letter: {policy: hold}")

    told = apply()

    (ours,) = [rule for rule in bucket.rules() if rule["ID"] == rule_id(bucket.prefix)]
    assert told.rows[0]["after"] == "keep for ever"
    assert "Expiration" not in ours
    assert ours["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_no_claim_store_is_misuse(apply: Command, monkeypatch: pytest.MonkeyPatch):
    use_store(monkeypatch, "")

    told = apply()

    assert (told.code, told.rows) == (2, [])
    assert told.stderr == "error: there is no claim store\nhint: set [claims] store\n"


def aged(path: Path, days: float) -> None:
    at = time.time() - days * DAY
    os.utime(path, (at, at))


def test_claims_in_files_that_no_record_can_refer_to_are_deleted(
    apply: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    base = f"file://{tmp_path}/claims"
    use_store(monkeypatch, base)
    store = ClaimStore(Objects(load_settings()), base)
    old, young = (Path(store.put(each).uri.removeprefix("file://")) for each in (b"old", b"young"))
    foreign = tmp_path / "claims" / "report.csv"
    foreign.write_text("no claim")
    for path, days in ((old, 61), (young, 59), (foreign, 900)):
        aged(path, days)

    planned, asked = apply("--dry-run"), apply()
    assert old.exists()
    done = apply("--yes")

    row = {"subject": base, "claims": 1, "bytes": 3}
    assert planned.rows == [{**row, "action": "would delete"}]
    assert (asked.code, asked.rows) == (2, [])
    assert "delete 1 claim(s) of 3 bytes, older than 60 days?" in asked.stderr
    assert (done.code, done.rows) == (0, [{**row, "action": "deleted"}])
    assert [old.exists(), young.exists(), foreign.exists()] == [False, True, True]


def test_claims_in_s3_are_listed_and_only_old_ones_deleted(apply: Command, bucket: ClaimBucket):
    settings = load_settings()
    objects = Objects(settings)
    store = ClaimStore(objects, f"s3://{bucket.name}/{bucket.prefix}")
    uri = store.put(b"a value").uri
    objects.put(f"s3://{bucket.name}/{bucket.prefix}report.csv", io.BytesIO(b"x"), create_only=True)

    claims = list(bucket.claims())
    young = delete_claims(objects, claims, before=claims[0].modified)
    kept = objects.stat(uri)
    old = delete_claims(objects, claims, before=claims[0].modified + 1)

    assert [(claim.uri, claim.size) for claim in claims] == [(uri, 7)]
    assert (young, old) == (0, 1)
    assert kept is not None
    assert objects.stat(uri) is None


def test_replayed_job_finds_a_claim_with_its_whole_life_before_it(
    apply: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kafka: Any, name: str
):
    base = f"file://{tmp_path}/claims"
    use_store(monkeypatch, base)
    monkeypatch.setenv("PROCESSOR_LEDGER_URL", "none")
    assert run(["topics", "apply", name]) == 0
    claim = ClaimStore(Objects(load_settings()), base).put(b"a large value")
    path = Path(claim.uri.removeprefix("file://"))
    aged(path, 50)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    headers = [("ce_id", b"one"), ("ce_type", b"object.copy"), ("claim", claim_to_header(claim))]
    producer.produce(f"{name}.dlt", None, b"key", 0, headers=headers)
    assert producer.flush(20) == 0

    code = run(["dead", "replay", name, "--yes"])

    assert code == 0
    assert path.stat().st_mtime > time.time() - DAY
    assert path.read_bytes() == b"a large value"
