"""What helm makes of the chart, as objects; and what it says where it refuses values."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deploy.values_schema import CHART

Object = dict[str, Any]
LIMIT_S = 60
RELEASE = "pd"
NAMESPACE = "serving"
OLDEST, NEWEST = "1.20", "1.37"
KEY = {"env": {"STACK_KEY": "0123456789abcdef" * 4}}
# Everything that is off by default or has two forms, beside what the examples show.
EVERYTHING: dict[str, Any] = {
    "env": {"PROXY_API_KEYS": "alice:secret", "MODEL": "Qwen/Qwen2.5-7B-Instruct", "KV_CACHE_BYTES": 1 << 30},
    "images": {
        "registry": "registry.example.org:5000",
        "pullSecrets": ["pull"],
        "proxy": {"digest": "sha256:" + "a" * 64},
    },
    "model": {"volume": {"persistentVolumeClaim": {"claimName": "models"}}},
    "instances": {"extraEnv": [{"name": "NCCL_DEBUG", "value": "INFO"}], "podAnnotations": {"a": "b"}},
    "prefill": {
        "maxSurge": 1,
        "nodeSelector": {"zone": "a"},
        "runtimeClassName": "nvidia",
        "priorityClassName": "high",
    },
    "proxy": {"replicas": 3, "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
    "networkPolicies": {
        "clients": [{"podSelector": {}}],
        "instancesEgress": [{"ports": [{"port": 8443, "protocol": "TCP"}]}],
    },
    "autoscaling": {"kind": "hpa"},
    "ingress": {"enabled": True, "className": "nginx", "host": "api.example.org", "tls": [{"secretName": "tls"}]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["api.example.org"]},
    "loadtest": {"enabled": True, "files": "traces"},
}
ELSEWHERE: dict[str, Any] = {
    "secret": {"existing": "keys"},
    "env": {"ETCD_ENDPOINT": "etcd.other:2379", "LOADTEST_TARGET": "https://api.example.org", "LISTEN_HOST": "::"},
    "loadtest": {"enabled": True, "runs": {"persistentVolumeClaim": {"claimName": "runs"}}},
    "networkPolicies": {"enabled": False},
    "disruptionBudgets": {"enabled": False},
}
# Files of the chart, one after the other, and values after them.
EXAMPLES: dict[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "default": ((), {}),
    "gpu": (("values-gpu.yaml",), {}),
    "nvlink": (("values-gpu.yaml", "values-nvlink.yaml"), {}),
    "rdma": (("values-rdma.yaml",), {}),
    "gpu and rdma": (("values-gpu.yaml", "values-rdma.yaml"), {}),
    "observability": (("values-observability.yaml",), {}),
    "everything": ((), EVERYTHING),
    "elsewhere": ((), ELSEWHERE),
}


class Helm:
    def __init__(self, program: Path) -> None:
        self._program = program
        self._known: dict[tuple[str, str], list[Object]] = {}

    def example(self, name: str, version: str = NEWEST) -> list[Object]:
        """One of the examples, with a given key where none is elsewhere, so that nothing is random."""
        if (name, version) not in self._known:
            files, values = EXAMPLES[name]
            given = values if "secret" in values else _merged(values, KEY)
            self._known[name, version] = self.objects(given, *files, version=version)
        return self._known[name, version]

    def objects(self, values: Mapping[str, Any], *files: str, version: str = NEWEST) -> list[Object]:
        answer = self._template(values, files, version)
        assert answer.returncode == 0, answer.stderr
        return [content for content in yaml.safe_load_all(answer.stdout) if content]

    def refusal(self, values: Mapping[str, Any], *files: str) -> list[str]:
        """The lines that say why."""
        answer = self._template(values, files, NEWEST)
        assert answer.returncode != 0, "helm took the values"
        return answer.stderr.splitlines()

    def lint(self, *files: str) -> "subprocess.CompletedProcess[str]":
        return self._run("lint", "--strict", str(CHART), *_options(files))

    def _template(
        self, values: Mapping[str, Any], files: Sequence[str], version: str
    ) -> "subprocess.CompletedProcess[str]":
        options = ["--namespace", NAMESPACE, "--kube-version", version, *_options(files), "--values", "-"]
        return self._run("template", RELEASE, str(CHART), *options, given=yaml.safe_dump(dict(values)))

    def _run(self, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        command = [str(self._program), *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def of_kind(objects: list[Object], *kinds: str) -> dict[str, Object]:
    return {content["metadata"]["name"]: content for content in objects if content["kind"] in kinds}


def pods(objects: list[Object]) -> dict[str, Object]:
    """The specs of all pods, by the part that they are."""
    workloads = of_kind(objects, "Deployment", "StatefulSet", "Job").values()
    return {
        workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: workload["spec"]["template"][
            "spec"
        ]
        for workload in workloads
    }


def containers(pod: Object) -> Iterator[Object]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def environment(container: Object) -> dict[str, str]:
    """Variables with a value; of those from a Secret, the field in it as `secret:KEY`."""
    return {
        entry["name"]: entry["value"] if "value" in entry else _origin(entry["valueFrom"])
        for entry in container.get("env", [])
    }


def _origin(source: Object) -> str:
    return f"secret:{source['secretKeyRef']['key']}" if "secretKeyRef" in source else source["fieldRef"]["fieldPath"]


def _options(files: Sequence[str]) -> list[str]:
    return [word for file in files for word in ("--values", str(CHART / file))]


def _merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, **{name: {**values.get(name, {}), **content} for name, content in more.items()}}
