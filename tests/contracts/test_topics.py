from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from processor.contracts.faults import FaultyFiles
from processor.contracts.schemas import SchemaSet
from processor.contracts.topic import TIERS_MAX
from processor.contracts.topics import Topic, TopicSet
from processor.errors import UsageError

ROOT = Path(__file__).parent.parent.parent
DAY_MS = 86_400_000


def topic(**more: Any) -> Topic:
    return Topic.model_validate({"name": "copy", "jobs": ["object.copy"], "partitions": 6, **more})


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def faults(*directories: Path, schemas: SchemaSet | None = None) -> list[str]:
    with pytest.raises(FaultyFiles) as caught:
        TopicSet.load(directories, schemas)
    return [f"{Path(fault.place).name}: {fault.what}" for fault in caught.value.faults]


def test_shipped_topic_writes_out_the_defaults():
    shipped = TopicSet.load([ROOT / "topics"], SchemaSet.load([ROOT / "schemas"])).get("copy")

    bare = {"name": "copy", "jobs": shipped.jobs, "partitions": 12}
    written_out = {"retry": {"delays": ["5s", "1m", "10m"]}}
    assert shipped == Topic.model_validate({**bare, **written_out})
    assert shipped.delays_seconds == Topic.model_validate(bare).delays_seconds


def test_backoff_in_the_comment_of_the_shipped_topic_gives_the_same_delays():
    commented = re.search(r"# (backoff: .*?})", (ROOT / "topics/copy.yaml").read_text())
    assert commented is not None

    backoff = {"first": "5s", "factor": 12, "max": "10m", "tiers": 3}

    assert commented[1] == "backoff: {first: 5s, factor: 12, max: 10m, tiers: 3}"
    assert topic(retry={"backoff": backoff}).delays_seconds == topic().delays_seconds


def test_one_file_stands_for_main_retry_dead_letter_and_status_topics():
    specs = topic(retention="2d", retry={"delays": ["1s", "2s"]}).all_topics(brokers=3)

    assert [(spec.name, spec.partitions, spec.replication) for spec in specs] == [
        ("copy", 6, 3),
        ("copy.retry.1", 6, 3),
        ("copy.retry.2", 6, 3),
        ("copy.dlt", 6, 3),
        ("copy.status", 6, 3),
    ]
    assert [int(spec.config["retention.ms"]) for spec in specs] == [
        2 * DAY_MS, 2 * DAY_MS, 2 * DAY_MS, 30 * DAY_MS, 7 * DAY_MS,
    ]  # fmt: skip
    assert [spec.config["cleanup.policy"] for spec in specs] == ["delete"] * 4 + ["compact,delete"]


def test_held_jobs_are_kept_for_ever_unless_a_retention_is_declared():
    held = topic(dead_letter={"policy": "hold"}).all_topics(1)
    shorter = topic(dead_letter={"policy": "hold", "retention": "1d"}).all_topics(1)

    assert {spec.name: spec.config["retention.ms"] for spec in held}["copy.dlt"] == "-1"
    assert {s.name: s.config["retention.ms"] for s in shorter}["copy.dlt"] == str(DAY_MS)


@pytest.mark.parametrize(
    ("brokers", "replication", "in_sync"), [(1, 1, None), (2, 2, None), (3, 3, "2"), (9, 3, "2")]
)
def test_replication_fits_the_cluster(brokers: int, replication: int, in_sync: str | None):
    main = topic().all_topics(brokers)[0]

    assert main.replication == replication
    assert main.config.get("min.insync.replicas") == in_sync


def test_more_settings_go_to_the_main_topic_only():
    specs = topic(config={"compression.type": "zstd", "preallocate": True}).all_topics(1)

    assert specs[0].config["compression.type"] == "zstd"
    assert specs[0].config["preallocate"] == "true"
    assert all("preallocate" not in spec.config for spec in specs[1:])


def test_kafka_takes_every_message_under_the_limit_with_its_headers():
    assert int(topic().all_topics(1)[0].config["max.message.bytes"]) == 1_048_588
    large = topic(message_max="4MiB").all_topics(1)
    assert all(int(spec.config["max.message.bytes"]) > 4 * 1024 * 1024 for spec in large)


def test_unpublished_status_has_no_topic():
    names = [spec.name for spec in topic(status={"publish": False}).all_topics(1)]

    assert "copy.status" not in names


@pytest.mark.parametrize(
    ("retry", "delays", "attempts"),
    [
        ({}, (5, 60, 600), 4),
        ({"delays": []}, (), 1),
        ({"delays": ["500ms"]}, (0.5,), 2),
        ({"delays": ["1s"], "attempts": 9}, (1,), 9),
        ({"backoff": {"first": "2s", "factor": 3, "max": "10s", "tiers": 4}}, (2, 6, 10, 10), 5),
    ],
)
def test_attempts_follow_from_the_delays(
    retry: dict[str, Any], delays: tuple[float, ...], attempts: int
):
    declared = topic(retry=retry)

    assert declared.delays_seconds == delays
    assert declared.attempts_max == attempts
    assert len(declared.retry_topics) == len(delays)


BASE = "name: x\njobs: [a.b]\npartitions: 3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "retention: 7", "x.yaml:4: `retention` (it is `7`) is no duration; write e.g."),
        (BASE + "retention: 0s", "x.yaml:4: `retention` (it is `0s`): input should be greater"),
        (BASE + "message_max: 10KB", "x.yaml:4: `message_max` (it is `10KB`) is no size;"),
        (BASE + "retry:\n  jitter: 0.1\n  delays:\n  - 5s\n  - 1x",
         "x.yaml:8: `retry.delays[1]` (it is `1x`) is no duration"),
        (BASE + "fense: key", "x.yaml:4: `fense` is unknown; did you mean `fence`?"),
        (BASE + "retry:\n  atempts: 3", "x.yaml:5: `retry.atempts` is unknown; did you mean"),
        (BASE + "status: {zzz: 1}", "`status.zzz` is unknown; known here: publish, retention"),
        (BASE + "fence: all", "x.yaml:4: `fence` (it is `all`): input should be 'key' or"),
        (BASE + "status: true", "x.yaml:4: `status` is no table of keys"),
        (BASE + "config: {retention.ms: 5}", "`config`: must not set `retention.ms`; set"),
        (BASE + "config: {cleanup.policy: compact}", "`config`: must not set `cleanup.policy`"),
        (BASE + "config: {a: [1]}", "`config.a`: is no single value"),
        (BASE + "retention: 1m", "not longer than all delays together (731.5 s)"),
        (BASE + "retry: {retention: 11m}", "waiting jobs would be deleted"),
        (BASE + "retry: {delays: [1s], backoff: {first: 1s, factor: 2, max: 9s, tiers: 2}}",
         "has both `delays` and `backoff`; keep one"),
        (BASE + "retry: {delays: [1s, 1s, 1s], attempts: 2}", "leaves retry tier 2 of 3 unused"),
        (BASE + "retry: {delays: [], attempts: 2}", "needs at least one delay to wait in"),
        (BASE + f"retry: {{delays: {['1s'] * (TIERS_MAX + 1)}}}", "at most 16 items"),
        (BASE + "ordering: none\ndead_letter: {policy: hold}", "cannot be held behind one another"),
        (BASE + "fence: partition\ndead_letter: {policy: hold}", "would hold a whole partition"),
        (BASE + "name: y", "x.yaml:4: `name` is written twice; keep one"),
        ("name: x\npartitions: 3", "x.yaml:1: `jobs` is missing; add it"),
        ("name: x/y\njobs: [a.b]\npartitions: 3", "x.yaml:1: `name` (it is `x/y`) is no topic"),
        ("name: x\njobs: [a b]\npartitions: 0", "x.yaml:3: `partitions` (it is `0`)"),
        ("name: x\njobs: [a.b, a.b]\npartitions: 3", "x.yaml:2: `jobs`: lists `a.b` twice"),
        ("name: x\njobs: [a.b\npartitions: 3", "x.yaml:3:11: not YAML: expected ',' or ']'"),
        ("- a", "the file holds no table"),
        ("", "the file holds no table"),
        ("[" * 5000, "not YAML"),
    ],
)  # fmt: skip
def test_fault_names_line_value_and_remedy(tmp_path: Path, text: str, said: str):
    write(tmp_path, x=text)

    told = faults(tmp_path)

    assert any(said in fault for fault in told), told


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path):
    write(
        tmp_path,
        a="name: a\njobs: [object.cpy]\npartitions: 3",
        b="name: a.dlt\njobs: [object.checksum]\npartitions: 3",
        c="name: c\njobs: [object.checksum]\npartitions: 3",
        d="name: a\njobs: [object.copy]\npartitions: 3",
        e="name: e\njobs: [object.copy]\npartitions: 0\nfence: all",
        f="name: a_retry.1\njobs: [processor.JobStatus]\npartitions: 3",
    )

    assert faults(tmp_path, schemas=SchemaSet.load([ROOT / "schemas"])) == [
        "e.yaml:3: `partitions` (it is `0`): input should be greater than or equal to 1",
        "e.yaml:4: `fence` (it is `all`): input should be 'key' or 'partition'",
        "b.yaml:1: `a.dlt` is already a topic of `a`; choose another name",
        "c.yaml:2: job `object.checksum` is already accepted by topic `a.dlt`; keep one",
        "d.yaml:1: topic `a` is declared twice; keep one",
        "f.yaml:1: `a_retry.1` is already a topic of `a`; choose another name",
        "a.yaml:2: job `object.cpy` has no schema; did you mean `object.copy`?",
    ]


def test_own_topic_hides_a_built_in_one_and_takes_its_jobs_over(tmp_path: Path):
    own = write(
        tmp_path / "own",
        copy="name: copy\njobs: [mine]\npartitions: 1",
        files="name: files\njobs: [object.copy]\npartitions: 2",
    )
    builtin = write(
        tmp_path / "builtin",
        copy="name: copy\njobs: [object.move]\npartitions: 9",
        more="name: more\njobs: [object.copy, object.link]\npartitions: 9",
    )

    loaded = TopicSet.load([own, builtin])

    assert {each.name: each.jobs for each in loaded} == {
        "copy": ("mine",),
        "files": ("object.copy",),
        "more": ("object.link",),
    }
    assert loaded.get("copy").partitions == 1
    assert loaded.for_job("object.copy").name == "files"


def test_unknown_topic_and_job_are_misuse_that_names_the_nearest():
    topics = TopicSet([topic()])

    with pytest.raises(UsageError) as no_topic:
        topics.get("copi")
    with pytest.raises(UsageError) as no_job:
        topics.for_job("object.cpy")

    assert (no_topic.value.message, no_topic.value.hint) == (
        "no topic `copi` is declared",
        "did you mean `copy`?",
    )
    assert (no_job.value.message, no_job.value.hint) == (
        "no topic accepts the job type `object.cpy`",
        "did you mean `object.copy`?",
    )


def test_missing_folder_is_a_fault(tmp_path: Path):
    assert faults(tmp_path / "nowhere") == ["nowhere: no such directory"]
