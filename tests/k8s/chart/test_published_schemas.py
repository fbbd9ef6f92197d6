"""Everything that the chart renders is what Kubernetes, KEDA and Prometheus' operator know, field by field."""

import copy

import pytest

from tests.k8s.chart.conftest import Faults
from tests.k8s.chart.rendering import EXAMPLES, NEWEST, OLDEST, Helm, Object, of_kind

VERSIONS = ("1.25", "1.33", "1.37")  # the oldest of which schemas are published, and the latest
# A pod's resourceClaims became what they are in 1.31, and no beta in 1.34.
SINCE = {"nvlink": "1.33"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_valid(helm: Helm, faults: Faults, example: str) -> None:
    versions = [version for version in VERSIONS if version >= SINCE.get(example, "")]
    assert faults(helm.example(example), *versions) == []


def test_all_kinds_are_looked_at(helm: Helm) -> None:
    kinds = {content["kind"] for example in EXAMPLES for content in helm.example(example)}
    assert kinds == {
        *("Deployment", "StatefulSet", "Job", "Service", "Secret", "PodDisruptionBudget", "NetworkPolicy"),
        *("HorizontalPodAutoscaler", "ScaledObject", "PodMonitor", "Ingress", "HTTPRoute"),
    }


def _misspelt_probe(objects: list[Object]) -> None:
    container = of_kind(objects, "Deployment")["pd-proxy"]["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")


def _threshold_as_a_number(objects: list[Object]) -> None:
    of_kind(objects, "ScaledObject")["pd-decode"]["spec"]["triggers"][0]["metadata"]["threshold"] = 0.7


def _unknown_bound(objects: list[Object]) -> None:
    of_kind(objects, "ScaledObject")["pd-decode"]["spec"]["maxReplicas"] = 4


def _unknown_port(objects: list[Object]) -> None:
    of_kind(objects, "PodMonitor")["pd-proxy"]["spec"]["podMetricsEndpoints"][0]["portName"] = "http"


@pytest.mark.parametrize("break_it", [_misspelt_probe, _threshold_as_a_number, _unknown_bound, _unknown_port])
def test_a_fault_is_found(helm: Helm, faults: Faults, break_it: object) -> None:
    objects = copy.deepcopy(helm.example("observability"))
    assert callable(break_it)
    break_it(objects)
    assert len(faults(objects, NEWEST)) == 1


@pytest.mark.parametrize(
    ("version", "budget", "autoscaler"),
    [
        (OLDEST, "policy/v1beta1", "autoscaling/v2beta2"),
        ("1.21", "policy/v1", "autoscaling/v2beta2"),
        ("1.23", "policy/v1", "autoscaling/v2"),
        ("v1.37.1-gke.100", "policy/v1", "autoscaling/v2"),
    ],
)
def test_api_versions_follow_the_clusters(helm: Helm, version: str, budget: str, autoscaler: str) -> None:
    objects = helm.example("everything", version)
    found = {content["kind"]: content["apiVersion"] for content in objects}
    assert (found["PodDisruptionBudget"], found["HorizontalPodAutoscaler"]) == (budget, autoscaler)
    # The spec is the same in both.
    assert [content["spec"] for content in objects if "spec" in content] == [
        content["spec"] for content in helm.example("everything") if "spec" in content
    ]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_port_says_its_protocol(helm: Helm, example: str) -> None:
    """Server-side apply knows an entry of a list of ports by number and protocol."""
    for content in helm.example(example):
        for ports in _ports_in(content):
            assert all(port.get("protocol") in ("TCP", "UDP") for port in ports), content["metadata"]["name"]


def _ports_in(content: object) -> list[list[Object]]:
    if isinstance(content, dict):
        own = [content["ports"]] if isinstance(content.get("ports"), list) else []
        return own + [found for value in content.values() for found in _ports_in(value)]
    return [found for value in content for found in _ports_in(value)] if isinstance(content, list) else []
