"""external.metrics.k8s.io from the proxies' own /metrics, in place of Prometheus and its adapter.

Several proxies' values become one as the chart's queries for KEDA say: a sum of what each has in hand, the largest of
what each predicts or has been told.
"""

import datetime
import json
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.k8s.cluster import addresses
from tests.k8s.release.release import PROXY_PORT, Release

GROUP = "external.metrics.k8s.io"
VERSION = f"{GROUP}/v1beta1"
NAMESPACE = "kube-system"
PORT = 6444
SUMS = ("pd_proxy_prefill_tokens_waiting", "pd_proxy_running_streams")
LARGEST = ("pd_proxy_prefill_wait_seconds", "pd_proxy_kv_cache_usage_ratio")


def value(release: Release, metric: str, labels: dict[str, str]) -> float | None:
    """Over all proxies; None where none has a series with these labels."""
    found: list[float] = []
    for pod in release.pods("proxy"):
        if pod.ready:
            with urllib.request.urlopen(f"http://{pod.address}:{PROXY_PORT}/metrics", timeout=5) as answer:
                families = text_string_to_metric_families(answer.read().decode())
                found += [
                    sample.value
                    for family in families
                    for sample in family.samples
                    if sample.name == metric and labels.items() <= sample.labels.items()
                ]
    return (sum if metric in SUMS else max)(found) if found else None


@contextmanager
def served(release: Release) -> Iterator[None]:
    """The cluster asks here from the first line of the context to its end."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlparse(self.path)
            *_, namespaces, namespace, metric = ["", "", *url.path.strip("/").split("/")]
            if url.path.rstrip("/") == f"/apis/{VERSION}":
                resources = [
                    {
                        "name": name,
                        "singularName": "",
                        "namespaced": True,
                        "kind": "ExternalMetricValueList",
                        "verbs": ["get"],
                    }
                    for name in (*SUMS, *LARGEST)
                ]
                self._answer(
                    {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VERSION, "resources": resources}
                )
            elif (namespaces, namespace) == ("namespaces", release.namespace) and metric in (*SUMS, *LARGEST):
                selector = urllib.parse.parse_qs(url.query).get("labelSelector", [""])[0]
                labels = dict(part.split("=", 1) for part in selector.split(",") if part)
                self._answer(
                    {
                        "kind": "ExternalMetricValueList",
                        "apiVersion": VERSION,
                        "metadata": {},
                        "items": items(metric, labels),
                    }
                )
            else:
                self._answer({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}, 404)

        def _answer(self, body: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def items(metric: str, labels: dict[str, str]) -> list[dict[str, Any]]:
        found = value(release, metric, labels)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        item = {"metricName": metric, "metricLabels": labels, "timestamp": now}
        return [] if found is None else [{**item, "value": f"{round(found * 1000)}m"}]

    server = ThreadingHTTPServer((addresses.HOST, PORT), Answers)
    certificate = release.cluster.api.certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, name="external metrics")
    thread.start()
    registration = json.dumps({"apiVersion": "v1", "kind": "List", "items": _registration()})
    where = (f"--namespace={NAMESPACE}", "--filename", "-")
    try:
        release.kubectl("apply", *where, given=registration)
        yield
    finally:
        # An API that is registered and silent fails every listing of kinds, also those of other tests.
        try:
            release.kubectl("delete", *where, "--ignore-not-found", given=registration)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _registration() -> list[dict[str, Any]]:
    """A Service whose only address is here, the API that it stands for, and the autoscaler's right to read it.

    Kubernetes gives that right to nobody: whoever installs an adapter does.
    """
    place = {"name": "external-metrics", "namespace": NAMESPACE}
    reader = {"name": "external-metrics-reader"}
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": place, "spec": {"ports": [{"name": "https", "port": 443}]}},
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": place,
            "subsets": [{"addresses": [{"ip": addresses.HOST}], "ports": [{"name": "https", "port": PORT}]}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": "v1beta1",
                "service": place,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                # The server's certificate is the API server's, which has not this Service's name.
                "insecureSkipTLSVerify": True,
            },
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": reader,
            "rules": [{"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": reader,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", **reader},
            "subjects": [{"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": NAMESPACE}],
        },
    ]
