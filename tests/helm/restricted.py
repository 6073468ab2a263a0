"""Kubernetes' Pod Security Standard `restricted`, as far as it applies to pods on Linux."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
HOST = ("hostNetwork", "hostPID", "hostIPC")


def faults(spec: dict[str, Any]) -> Iterator[str]:
    """What of a pod's spec the standard forbids."""
    pod = spec.get("securityContext", {})
    for name in HOST:
        if spec.get(name):
            yield f"{name} is true"
    if pod.get("sysctls"):
        yield "sysctls are set"
    for volume in spec.get("volumes", []):
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for fault in _container_faults(container.get("securityContext", {}), pod):
            yield f"{container['name']}: {fault}"
        for port in container.get("ports", []):
            if port.get("hostPort"):
                yield f"{container['name']}: hostPort is set"


def _container_faults(own: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    both = {**pod, **own}
    if own.get("privileged"):
        yield "it is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield "capabilities are not all dropped"
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not set"
    if both.get("procMount", "Default") != "Default":
        yield "procMount is not the default"
