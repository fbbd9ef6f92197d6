"""What the tests install, as values of the chart."""

from typing import Any

# Small requests, so that one node holds all pods of the release: the other one is drained.
_RESOURCES = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "5Gi"}}
_APART_FROM_PREFILL = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "prefill"}},
                },
            }
        ]
    }
}
# One pod of each part; everything else is the chart's default.
FIRST: dict[str, Any] = {
    "prefill": {"resources": _RESOURCES},
    "decode": {"resources": _RESOURCES, "affinity": _APART_FROM_PREFILL},
}
# Two proxies, and prompts go on being answered while the only producer is away.
WITHOUT_A_GAP: dict[str, Any] = {**FIRST, "env": {"PROXY_NO_PRODUCER": "local"}, "proxy": {"replicas": 2}}
# A consumer for each three streams, at most two; back soon after the load has gone.
AUTOSCALED: dict[str, Any] = {
    **WITHOUT_A_GAP,
    "autoscaling": {
        "kind": "hpa",
        "scaleDownWindowSeconds": 20,
        "prefill": {"minReplicas": 1, "maxReplicas": 1},
        "decode": {"minReplicas": 1, "maxReplicas": 2, "runningStreams": 3},
    },
}
