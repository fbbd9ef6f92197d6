"""A user's first minutes: the API server accepts the chart, `helm install`, the README's curl, across two nodes."""

import json
import subprocess

import pytest

from stack.configuration.settings import EMBEDDED_MODEL
from tests.k8s.cluster.binaries import VERSION
from tests.k8s.release.release import CHART, PARTS, Release
from tests.k8s.release.traffic import counting

ANSWER_LIMIT_S = 120
EXAMPLES = ("gpu", "rdma", "observability")  # `nvlink` needs Kubernetes 1.34
# Groups that an operator brings.
OF_OPERATORS = ("monitoring.coreos.com", "keda.sh", "gateway.networking.k8s.io")


@pytest.mark.parametrize("example", [None, *EXAMPLES])
def test_the_api_server_accepts_every_object_of_the_chart(vacant: Release, example: str | None) -> None:
    given = ["--values", str(CHART / f"values-{example}.yaml")] if example else []
    rendered = vacant.helm("template", vacant.name, str(CHART), "--kube-version", VERSION, *given)
    documents = [
        document
        for document in rendered.split("\n---\n")
        if not any(f"apiVersion: {group}/" in document for group in OF_OPERATORS)
    ]
    printed = vacant.kubectl("apply", "--dry-run=server", "--filename", "-", given="\n---\n".join(documents))
    accepted = [line for line in printed.splitlines() if line.endswith("created (server dry run)")]
    assert len(accepted) == sum("\nkind: " in f"\n{document}" for document in documents)
    assert {line.split()[0] for line in accepted} >= {
        *(f"service/{vacant.object_name(part)}" for part in ("etcd", "proxy")),
        *(f"deployment.apps/{vacant.object_name(part)}" for part in ("prefill", "decode", "proxy")),
        f"statefulset.apps/{vacant.object_name('etcd')}",
    }


def test_after_the_installation_every_pod_is_ready_and_none_has_restarted(release: Release) -> None:
    assert {pod.part: (pod.ready, pod.restarts) for pod in release.pods()} == dict.fromkeys(PARTS, (True, 0))


def test_the_curl_of_the_readme_is_answered_across_two_nodes(release: Release) -> None:
    """The KV cache is on the wire between the nodes: more bytes than the consumer says it got reach its node."""
    prefill, decode = release.pod("prefill"), release.pod("decode")
    assert {prefill.node, decode.node} == {node.name for node in release.cluster.nodes}
    body = {"model": EMBEDDED_MODEL, "prompt": counting(300), "max_tokens": 8}
    curl = [
        "curl",
        "-sS",
        "-D",
        "/dev/stderr",
        "--max-time",
        str(ANSWER_LIMIT_S),
        "-H",
        "Content-Type: application/json",
    ]
    before = release.cluster.node(decode.node).received_bytes()
    result = subprocess.run(
        [*curl, f"{release.proxy_url()}/v1/completions", "-d", json.dumps(body)],
        capture_output=True,
        text=True,
        check=True,
    )
    received = release.cluster.node(decode.node).received_bytes() - before
    headers = dict(line.lower().split(": ", 1) for line in result.stderr.splitlines() if ": " in line)
    answer = json.loads(result.stdout)
    assert headers["x-pd-path"] == "disaggregated", headers
    assert prefill.address in headers["x-pd-producer"]
    assert decode.address in headers["x-pd-consumer"]
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["kv_transfer_params"]["tokens"] == answer["usage"]["prompt_tokens"]
    assert received > answer["kv_transfer_params"]["bytes"] > 0
