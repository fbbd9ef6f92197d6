"""One release of the chart in a namespace of its own, as its users handle it: with helm and kubectl."""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from stack.configuration.settings import REPOSITORY
from tests.k8s.cluster.cluster import Cluster

CHART = REPOSITORY / "deploy" / "chart"
COMMAND_LIMIT_S = 120.0
# An instance loads vLLM and the model, on two cores that others use as well.
START_LIMIT_S = 420.0
POLL_S = 0.3
LOG_LINES = "40"
PROXY_PORT = 8000
PORTS = {"prefill": 8100, "decode": 8200}
PARTS = ("etcd", "prefill", "decode", "proxy")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Pod:
    name: str
    uid: str
    part: str
    node: str
    address: str
    ready: bool
    leaving: bool
    restarts: int
    state: str  # in words, for a failure's message

    @classmethod
    def read(cls, pod: dict[str, Any]) -> "Pod":
        status = pod["status"]
        containers = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
        waiting = [c["state"]["waiting"]["reason"] for c in containers if "waiting" in c.get("state", {})]
        conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
        unscheduled = conditions.get("PodScheduled", {}).get("message", "")
        return cls(
            name=pod["metadata"]["name"],
            uid=pod["metadata"]["uid"],
            part=pod["metadata"]["labels"]["app.kubernetes.io/component"],
            node=pod["spec"].get("nodeName", ""),
            address=status.get("podIP", ""),
            ready=conditions.get("Ready", {}).get("status") == "True",
            leaving="deletionTimestamp" in pod["metadata"],
            restarts=sum(container["restartCount"] for container in containers),
            state=" ".join([status["phase"], *waiting, unscheduled]),
        )


class Release:
    def __init__(self, cluster: Cluster, name: str = "pd", namespace: str = "serving") -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = namespace
        self._environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "HOME": str(cluster.folder)}

    def kubectl(self, *arguments: str, given: str | None = None, limit_s: float = COMMAND_LIMIT_S) -> str:
        """Its output. Raises: AssertionError: it failed, with what it said."""
        return self._run([str(self.cluster.programs / "kubectl"), "-n", self.namespace, *arguments], given, limit_s)

    def helm(self, *arguments: str, values: Mapping[str, Any] | None = None, limit_s: float = COMMAND_LIMIT_S) -> str:
        """As `kubectl`; `values` go in by a file."""
        files = ["--values", "-"] if values is not None else []
        given = yaml.safe_dump(dict(values)) if values is not None else None
        command = [str(self.cluster.programs / "helm"), "--namespace", self.namespace, *arguments, *files]
        return self._run(command, given, limit_s)

    def make_namespace(self) -> None:
        """It begins with what the cluster puts into each one, soon after."""
        self.kubectl("create", "namespace", self.namespace)

        def complete() -> set[str] | None:
            found = self.inventory()
            token = any(name.startswith("secret/default-token-") for name in found)
            return found if token and {"serviceaccount/default", "configmap/kube-root-ca.crt"} <= found else None

        self.begun_with = self.wait("what the cluster puts into a namespace", complete, 30)

    def inventory(self) -> set[str]:
        """Every object in the namespace, and every one outside any; without events and the nodes' own reports."""
        kinds = self.kubectl("api-resources", "--verbs=list,delete", "--output", "name").split()
        wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
        return set(self.kubectl("get", wanted, "--output", "name", "--ignore-not-found").split())

    def install(self, values: Mapping[str, Any]) -> None:
        """Until every part is ready."""
        wait = ("--wait", "--timeout", f"{START_LIMIT_S:.0f}s")
        self.helm("install", self.name, str(CHART), *wait, values=values, limit_s=START_LIMIT_S + 30)

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """Until every part is ready again."""
        wait = ("--wait", "--timeout", f"{START_LIMIT_S:.0f}s")
        self.helm("upgrade", self.name, str(CHART), *wait, values=values, limit_s=START_LIMIT_S + 30)

    def object_name(self, part: str) -> str:
        return f"{self.name}-{part}"

    def workload(self, part: str) -> str:
        """As kubectl takes it."""
        return f"{'statefulset' if part == 'etcd' else 'deployment'}/{self.object_name(part)}"

    def pods(self, *parts: str) -> list[Pod]:
        """Those of these parts, or of all, that are still there."""
        found = self.cluster.api.items(
            f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app.kubernetes.io/instance={self.name}"
        )
        return [pod for pod in map(Pod.read, found) if not parts or pod.part in parts]

    def pod(self, part: str) -> Pod:
        (pod,) = self.pods(part)
        return pod

    def proxy_url(self) -> str:
        """The address of the proxy's Service, which outlives its pods."""
        service = self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/services/{self.object_name('proxy')}")
        return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"

    def instances(self, proxy: Pod) -> list[str]:
        """URLs of the instances that this proxy knows from etcd."""
        with urllib.request.urlopen(f"http://{proxy.address}:{PROXY_PORT}/instances", timeout=10) as answer:
            return [instance["url"] for instance in json.load(answer)["instances"]]

    def wait(self, what: str, found: Callable[[], Found | None], limit_s: float = START_LIMIT_S) -> Found:
        """Until `found` gives something true; an error of the network counts as nothing.

        Raises: AssertionError: that it did not come, and what the pods' states are.
        """
        deadline = time.monotonic() + limit_s
        while True:
            try:
                if result := found():
                    return result
                last = ""
            except OSError as error:
                last = f" ({error})"
            if time.monotonic() > deadline:
                states = "; ".join(f"{pod.name} on {pod.node}: ready={pod.ready}, {pod.state}" for pod in self.pods())
                raise AssertionError(f"{what}: not within {limit_s:.0f} s{last}; pods: {states}")
            time.sleep(POLL_S)

    def wait_for_pods(self, part: str, count: int, limit_s: float = START_LIMIT_S) -> list[Pod]:
        """Until so many are there, all ready, and none is leaving."""

        def settled() -> list[Pod] | None:
            pods = self.pods(part)
            return pods if len(pods) == count and all(pod.ready and not pod.leaving for pod in pods) else None

        return self.wait(f"{count} ready pods of {part}", settled, limit_s)

    def wait_for_instances(self, prefill: int, decode: int, limit_s: float = START_LIMIT_S) -> None:
        """Until every proxy's view holds exactly these, each at the address of a pod."""

        def known() -> bool:
            pods = self.pods("prefill", "decode")
            there = sorted(f"http://{pod.address}:{PORTS[pod.part]}" for pod in pods)
            counts = [sum(pod.part == role for pod in pods) for role in PORTS]
            return counts == [prefill, decode] and all(
                sorted(self.instances(proxy)) == there for proxy in self.pods("proxy") if not proxy.leaving
            )

        self.wait(f"{prefill} prefill and {decode} decode instances in each proxy's view", known, limit_s)

    def rollout(self, part: str) -> None:
        """`kubectl rollout restart`, until it has ended and the proxies know of it."""
        count = len(self.pods(part))
        limit_s = count * START_LIMIT_S
        self.kubectl("rollout", "restart", self.workload(part))
        watch = ("rollout", "status", self.workload(part), f"--timeout={limit_s:.0f}s")
        self.kubectl(*watch, limit_s=limit_s + 10)
        self.wait_for_pods(part, count)

    def told(self) -> str:
        """All that helps to understand a failure: pods, the newest events, what the containers said last."""
        parts = [
            self.kubectl("get", "pods,nodes", "--output", "wide"),
            "\n".join(self.kubectl("get", "events", "--sort-by", ".lastTimestamp").splitlines()[-40:]),
        ]
        for pod in self.pods():
            try:
                log = self.kubectl("logs", pod.name, "--all-containers", "--tail", LOG_LINES)
            except AssertionError as error:
                log = str(error)
            parts.append(f"--- {pod.name} on {pod.node}\n{log}")
        return "\n".join(parts)

    def _run(self, command: list[str], given: str | None, limit_s: float) -> str:
        result = subprocess.run(
            command,
            env=self._environment,
            input=given or "",
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert result.returncode == 0, f"`{' '.join(command)}`: {result.stdout[-2000:]}{result.stderr[-4000:]}"
        return result.stdout
