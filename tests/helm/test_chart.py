"""Every set of values renders to objects that a cluster takes, under the restricted standard."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.helm import chart, custom_resources, restricted

each_set = pytest.mark.parametrize("values", chart.VALUE_SETS, ids=lambda path: path.stem)


def faults_of(each: chart.Object) -> list[str]:
    """What a cluster would say of an object."""
    schema = custom_resources.SPECS.get((each["apiVersion"], each["kind"]))
    if schema is not None:
        found = jsonschema.Draft7Validator(schema).iter_errors(each["spec"])
        return [f"{each['kind']}: {fault.json_path}: {fault.message}" for fault in found]
    try:
        kubernetes_validate.validate(each, chart.KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as fault:
        return [f"{each['kind']} {each['metadata']['name']}: {fault.message}"]
    return []


def test_the_chart_lints_without_a_warning_with_its_defaults_and_each_set() -> None:
    sets = [[], *(["--values", str(path)] for path in chart.VALUE_SETS)]

    for values in sets:
        linted = chart.run_helm("lint", "--strict", str(chart.CHART), *values)
        assert linted.returncode == 0, linted.stdout + linted.stderr
        assert "[WARNING]" not in linted.stdout

    assert len(chart.VALUE_SETS) >= 6


@each_set
def test_the_cluster_takes_every_object(values: Path) -> None:
    objects = chart.rendered(values)

    assert objects
    assert [fault for each in objects for fault in faults_of(each)] == []
    assert {each["metadata"]["namespace"] for each in objects} == {chart.NAMESPACE}
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


@each_set
def test_every_pod_keeps_the_restricted_standard(values: Path) -> None:
    specs = list(chart.pod_specs(chart.rendered(values)))

    assert specs
    told = [f"{where}: {fault}" for where, spec in specs for fault in restricted.faults(spec)]
    assert told == []
    for _, spec in specs:
        assert spec["automountServiceAccountToken"] is False
        for container in chart.containers(spec):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable == {"/tmp", "/var/lib/processor"}


@each_set
def test_secrets_are_files_for_the_container_alone(values: Path) -> None:
    for where, spec in chart.pod_specs(chart.rendered(values)):
        mounted = [volume for volume in spec["volumes"] if volume["name"] == "secrets"]
        assert all(volume["projected"]["defaultMode"] == 0o400 for volume in mounted)
        for container in chart.containers(spec):
            for variable in container["env"]:
                assert "secretKeyRef" not in variable.get("valueFrom", {}), where
            assert "envFrom" not in container


@each_set
def test_what_each_part_mounts_and_runs_as_is_part_of_the_release(values: Path) -> None:
    objects = chart.rendered(values)
    maps = {each["metadata"]["name"]: each for each in chart.of_kind(objects, "ConfigMap")}
    accounts = {each["metadata"]["name"] for each in chart.of_kind(objects, "ServiceAccount")}

    for where, spec in chart.pod_specs(objects):
        assert spec["serviceAccountName"] in accounts, where
        (config,) = [v["configMap"] for v in spec["volumes"] if v["name"] == "config"]
        keys = {item["key"] for item in config["items"]}
        assert keys == set(maps[config["name"]]["data"]), where
    assert all(each["automountServiceAccountToken"] is False
               for each in chart.of_kind(objects, "ServiceAccount"))  # fmt: skip


@each_set
def test_selectors_find_the_pods_they_are_meant_for_alone(values: Path) -> None:
    objects = chart.rendered(values)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in chart.of_kind(objects, "Deployment", "StatefulSet")
    }
    selecting = [
        (each["metadata"]["name"], each["spec"]["selector"].get("matchLabels"))
        for each in chart.of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget")
    ]

    for name, labels in selecting:
        found = [pod for pod, has in pods.items() if labels.items() <= has.items()]
        assert found == [name]


def test_a_part_reaches_only_what_it_is_allowed_to() -> None:
    objects = chart.rendered(Path(chart.VALUE_SETS[0].parent, "secured.yaml"))

    deny = chart.named(objects, "NetworkPolicy", "default-deny")["spec"]
    mail = chart.named(objects, "NetworkPolicy", "worker-mail")["spec"]
    provision = chart.named(objects, "NetworkPolicy", "provision")["spec"]

    assert "ingress" not in deny and "egress" not in deny
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for port in mail["ingress"][0]["ports"]] == ["metrics"]
    assert reached(mail) == {53, 443, 5432, 9094}
    assert reached(provision) == {53, 443, 9094}  # No database.
    assert "ingress" not in provision


def reached(policy: chart.Object) -> set[int]:
    return {port["port"] for rule in policy["egress"] for port in rule["ports"]}


def test_the_provision_job_has_a_principal_of_its_own_and_comes_first() -> None:
    objects = chart.rendered(Path(chart.VALUE_SETS[0].parent, "secured.yaml"))

    job = chart.named(objects, "Job", "provision")
    spec = job["spec"]["template"]["spec"]
    used = {each: secrets_of(spec) for each, spec in chart.pod_specs(objects)}
    hooks = [
        (each["kind"], int(each["metadata"]["annotations"]["helm.sh/hook-weight"]))
        for each in objects
        if each["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    ]

    assert [c["args"] for c in chart.containers(spec)] == [
        ["topics", "apply", "mail", "audit"], ["schemas", "check"], ["schemas", "register"]
    ]  # fmt: skip
    assert "kafka-provision" in used["Job jobs-processor-provision"]
    assert "kafka-provision" not in used["Deployment jobs-processor-worker-mail"]
    assert "kafka-mail" not in used["Deployment jobs-processor-worker-audit"]
    assert sorted(hooks, key=lambda hook: hook[1])[-1] == ("Job", 0)
    assert {kind for kind, _ in hooks} == {"ConfigMap", "Job", "NetworkPolicy", "ServiceAccount"}


def secrets_of(spec: chart.Object) -> set[str]:
    return {
        source["secret"]["name"]
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    }


def test_alerts_and_dashboard_are_the_files_of_the_chart() -> None:
    folder = chart.VALUE_SETS[0].parent
    by_operator = chart.rendered(folder / "autoscaled-keda.yaml")
    by_files = chart.rendered(folder / "autoscaled-hpa.yaml")
    alerts = (chart.CHART / "files" / "alerts.yaml").read_text()
    dashboard = (chart.CHART / "files" / "dashboard.json").read_text()

    rule = chart.named(by_operator, "PrometheusRule", "alerts")["spec"]
    rule_file = chart.named(by_files, "ConfigMap", "alerts")["data"]["processor-alerts.yaml"]
    shown = chart.named(by_files, "ConfigMap", "dashboard")["data"]["processor.json"]

    assert rule == yaml.safe_load(alerts)
    assert yaml.safe_load(rule_file) == yaml.safe_load(alerts)
    assert json.loads(shown) == json.loads(dashboard)


def test_the_notes_tell_how_each_group_runs(tmp_path: Path) -> None:
    # `helm template` renders no notes: here they are an object.
    shutil.copytree(chart.CHART, tmp_path / "processor")
    templates = tmp_path / "processor" / "templates"
    lines = (templates / "NOTES.txt").read_text().splitlines()
    (templates / "notes.yaml").write_text("notes: |\n" + "".join(f"  {each}\n" for each in lines))

    told = chart.run_helm(
        "template", chart.RELEASE, str(tmp_path / "processor"), "--show-only",
        "templates/notes.yaml", "--kube-version", chart.KUBERNETES,
        "--values", str(chart.VALUE_SETS[0].parent / "autoscaled-keda.yaml"),
    )  # fmt: skip

    assert told.returncode == 0, told.stderr
    notes = yaml.safe_load(told.stdout)["notes"]
    assert "mail: mail:app on all of its topics, consumer group mail" in notes
    assert "2 to 2 pods of 4 processes, each stopped within 40 s" in notes
    assert "deployment/jobs-processor-worker-narrow" in notes


def broken(change: Any) -> chart.Object:
    objects = chart.rendered(Path(chart.VALUE_SETS[0].parent, "minimal.yaml"))
    deployment = copy.deepcopy(chart.named(objects, "Deployment", "worker-copy"))
    change(deployment["spec"]["template"]["spec"])
    return deployment


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec["securityContext"].pop("runAsNonRoot"),
        lambda spec: spec["securityContext"].pop("seccompProfile"),
        lambda spec: spec["securityContext"].update(runAsUser=0),
        lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
        lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
    ],
)
def test_a_pod_that_breaks_the_restricted_standard_is_noticed(change: Any) -> None:
    ((_, spec),) = chart.pod_specs([broken(change)])

    assert list(restricted.faults(spec)) != []


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.update(terminationGraceSeconds=30),
        lambda spec: spec["containers"][0].update(resources={"limit": {}}),
        lambda spec: spec["containers"][0]["readinessProbe"].update(periodSeconds="often"),
    ],
)
def test_an_object_that_the_cluster_would_not_take_is_noticed(change: Any) -> None:
    assert faults_of(broken(change)) != []


def test_a_custom_resource_that_its_operator_does_not_know_is_noticed() -> None:
    objects = chart.rendered(Path(chart.VALUE_SETS[0].parent, "autoscaled-keda.yaml"))
    scaled = chart.named(objects, "ScaledObject", "worker-mail")

    assert faults_of(scaled) == []
    scaled["spec"]["maxReplicas"] = 3
    assert faults_of(scaled) != []
