"""The custom resources that the chart makes, as their operators define the fields it uses.

Kubernetes' own schemas do not know them. Names that an operator does not know are refused, as
they would be silently dropped by a cluster.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_DURATION: Schema = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w|y))+$"}
_LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object", "additionalProperties": False, "properties": properties,
        "required": list(required),
    }  # fmt: skip


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


_BEHAVIOR = _object(
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "policies": _list(
            _object(
                {
                    "type": {"enum": ["Percent", "Pods"]},
                    "value": _COUNT,
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                },
                "type", "value", "periodSeconds",
            )
        ),
    }
)  # fmt: skip

_SCALED_OBJECT = _object(
    {
        "scaleTargetRef": _object(
            {"apiVersion": _TEXT, "kind": {"enum": ["Deployment", "StatefulSet"]}, "name": _TEXT},
            "name",
        ),
        "minReplicaCount": _COUNT,
        "maxReplicaCount": _COUNT,
        "pollingInterval": _COUNT,
        "fallback": _object(
            {
                "failureThreshold": _COUNT,
                "replicas": _COUNT,
                "behavior": {
                    "enum": ["static", "currentReplicas", "currentReplicasIfHigher",
                             "currentReplicasIfLower"]
                },
            },
            "failureThreshold", "replicas",
        ),
        "advanced": _object(
            {
                "horizontalPodAutoscalerConfig": _object(
                    {"behavior": _object({"scaleUp": _BEHAVIOR, "scaleDown": _BEHAVIOR})}
                )
            }
        ),
        "triggers": _list(
            _object(
                {
                    "type": {"const": "prometheus"},
                    "metricType": {"enum": ["AverageValue", "Value"]},
                    "metadata": {
                        **_object(
                            {
                                "serverAddress": {"type": "string", "pattern": "^https?://"},
                                "query": _TEXT,
                                "threshold": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
                                "ignoreNullValues": {"enum": ["true", "false"]},
                            },
                            "serverAddress", "query", "threshold",
                        ),
                    },
                    "authenticationRef": _object({"name": _TEXT}, "name"),
                },
                "type", "metadata",
            )
        ),
    },
    "scaleTargetRef", "triggers",
)  # fmt: skip

_POD_MONITOR = _object(
    {
        "selector": _object({"matchLabels": _LABELS}),
        "jobLabel": _TEXT,
        "podTargetLabels": _list(_TEXT),
        "podMetricsEndpoints": _list(
            _object(
                {
                    "port": _TEXT,
                    "path": {"type": "string", "pattern": "^/"},
                    "interval": _DURATION,
                    "scrapeTimeout": _DURATION,
                },
                "port",
            )
        ),
    },
    "selector", "podMetricsEndpoints",
)  # fmt: skip

_RULE = _object(
    {
        "alert": _TEXT, "record": _TEXT, "expr": {"type": ["string", "integer"]},
        "for": _DURATION, "keep_firing_for": _DURATION, "labels": _LABELS, "annotations": _LABELS,
    },
    "expr",
)  # fmt: skip

_PROMETHEUS_RULE = _object(
    {
        "groups": _list(
            _object({"name": _TEXT, "interval": _DURATION, "rules": _list(_RULE)}, "name", "rules")
        )
    },
    "groups",
)

SPECS: dict[tuple[str, str], Schema] = {
    ("keda.sh/v1alpha1", "ScaledObject"): _SCALED_OBJECT,
    ("monitoring.coreos.com/v1", "PodMonitor"): _POD_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): _PROMETHEUS_RULE,
}
