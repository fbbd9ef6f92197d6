"""An upgrade without a change changes nothing, one with a change restarts what it concerns, and nothing more."""

from typing import Any

import pytest

from tests.k8s.chart.rendering import EXAMPLES, KEY, RELEASE, Helm, Object, of_kind

WORKLOADS = ("Deployment", "StatefulSet")


def templates(objects: list[Object]) -> dict[str, Object]:
    """What makes new pods where it is another: of each workload the template."""
    return {name: found["spec"]["template"] for name, found in of_kind(objects, *WORKLOADS).items()}


def restarted(helm: Helm, before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    first, second = templates(helm.objects(before)), templates(helm.objects(after))
    return {name.removeprefix(f"{RELEASE}-") for name in first | second if first.get(name) != second.get(name)}


@pytest.mark.parametrize("example", EXAMPLES)
def test_no_change_renders_equal(helm: Helm, example: str) -> None:
    files, _ = EXAMPLES[example]
    values = {**EXAMPLES[example][1]}
    values = values if "secret" in values else {**values, "env": {**values.get("env", {}), **KEY["env"]}}
    assert helm.objects(values, *files) == helm.example(example)


def test_only_the_secret_holds_something_random(helm: Helm) -> None:
    first, second = helm.objects({}), helm.objects({})
    assert [one["kind"] for one, other in zip(first, second, strict=True) if one != other] == ["Secret"]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"env": {**KEY["env"], "PROXY_TOKEN_TIMEOUT_S": 5}}, {"proxy"}),
        ({"env": {**KEY["env"], "BLOCK_SIZE": 16}}, {"prefill", "decode"}),
        ({"env": {**KEY["env"], "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}}, {"prefill", "decode", "proxy"}),
        ({"env": {**KEY["env"], "LOADTEST_RATE": 2}}, set()),
        ({"env": {"STACK_KEY": "another key, for everybody"}}, {"prefill", "decode"}),
        ({"env": {**KEY["env"], "PROXY_API_KEYS": "alice:secret"}}, {"proxy"}),
        ({**KEY, "prefill": {"replicas": 3}}, set()),
        ({**KEY, "decode": {"resources": {"limits": {"memory": "8Gi"}}}}, {"decode"}),
        ({**KEY, "podMonitors": {"enabled": True}, "ingress": {"enabled": True}}, set()),
        ({**KEY, "autoscaling": {"kind": "hpa"}}, set()),
        ({**KEY, "loadtest": {"enabled": True}}, set()),
        ({**KEY, "networkPolicies": {"enabled": False}, "disruptionBudgets": {"enabled": False}}, set()),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_a_change_restarts_what_it_concerns(helm: Helm, change: dict[str, Any], parts: set[str]) -> None:
    assert restarted(helm, KEY, change) == parts


def test_labels_of_pods_and_selectors_know_no_version(helm: Helm) -> None:
    for found in of_kind(helm.example("everything"), *WORKLOADS).values():
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert labels == found["spec"]["selector"]["matchLabels"]
        assert set(labels) == {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}


def test_instances_go_one_by_one_and_the_next_waits_until_the_last_is_known(helm: Helm) -> None:
    deployments = of_kind(helm.example("default"), "Deployment")
    for role in ("prefill", "decode"):
        spec = deployments[f"{RELEASE}-{role}"]["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
        assert spec["minReadySeconds"] == 10
    assert deployments[f"{RELEASE}-proxy"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_long_lease_is_looked_at_less_often(helm: Helm) -> None:
    deployments = of_kind(helm.objects({"env": {**KEY["env"], "LEASE_TTL_S": 60}}), "Deployment")
    assert deployments[f"{RELEASE}-decode"]["spec"]["minReadySeconds"] == 25


def test_with_a_spare_gpu_the_new_instance_comes_first(helm: Helm) -> None:
    spec = of_kind(helm.example("everything"), "Deployment")[f"{RELEASE}-prefill"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_an_autoscaler_is_alone_in_saying_how_many(helm: Helm) -> None:
    for example, scaled in (("default", False), ("everything", True), ("observability", True)):
        deployments = of_kind(helm.example(example), "Deployment")
        assert all(("replicas" in deployments[f"{RELEASE}-{role}"]["spec"]) != scaled for role in ("prefill", "decode"))
        assert deployments[f"{RELEASE}-proxy"]["spec"]["replicas"] >= 1


def test_a_load_test_is_made_again_when_it_is_another(helm: Helm) -> None:
    values: dict[str, Any] = {**KEY, "loadtest": {"enabled": True}}
    names = [
        next(iter(of_kind(helm.objects(given), "Job")))
        for given in (
            values,
            values,
            {**KEY, "loadtest": {"enabled": True, "run": "second"}},
            {**values, "env": {**KEY["env"], "LOADTEST_SEED": 1}},
        )
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_an_existing_secret_and_an_existing_etcd_take_the_place_of_ours(helm: Helm) -> None:
    objects = helm.example("elsewhere")
    assert not of_kind(objects, "Secret", "StatefulSet")
    assert "secretKeyRef': {'name': 'keys', 'key': 'STACK_KEY'" in str(objects)
    assert "'value': 'etcd.other:2379'" in str(objects)
