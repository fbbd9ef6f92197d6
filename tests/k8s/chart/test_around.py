"""What stands around the pods: policies, budgets, autoscalers, monitors, the way in, the load test."""

import re
from typing import Any

import pytest
import yaml

from proxy.settings import ProxySettings
from stack.configuration.settings import REPOSITORY
from tests.k8s.chart.rendering import EXAMPLES, KEY, NAMESPACE, RELEASE, Helm, Object, environment, of_kind, pods

PARTS_OF_INSTANCES = ["prefill", "decode", "pair"]
OBSERVED = {"proxy", "instances", "etcd"}


def named(objects: list[Object], kind: str, part: str) -> Object:
    spec: Object = of_kind(objects, kind)[f"{RELEASE}-{part}"]["spec"]
    return spec


def parts_of(peer: Object) -> list[str]:
    """Whom a rule of a policy lets in or out."""
    selector = peer["podSelector"]
    assert selector["matchLabels"]["app.kubernetes.io/instance"] == RELEASE
    (values,) = [each["values"] for each in selector.get("matchExpressions", [])] or [
        [selector["matchLabels"]["app.kubernetes.io/component"]]
    ]
    return list(values)


def test_etcd_and_the_instances_are_reached_by_the_release_alone(helm: Helm) -> None:
    objects = helm.example("default")
    (to_etcd,) = named(objects, "NetworkPolicy", "etcd")["ingress"]
    assert [parts_of(peer) for peer in to_etcd["from"]] == [[*PARTS_OF_INSTANCES, "proxy"]]
    assert named(objects, "NetworkPolicy", "etcd")["egress"] == []
    (to_instances,) = named(objects, "NetworkPolicy", "instances")["ingress"]
    assert [parts_of(peer) for peer in to_instances["from"]] == [[*PARTS_OF_INSTANCES, "proxy"]]
    assert "ports" not in to_instances  # Mooncake's is a random one
    assert named(objects, "NetworkPolicy", "proxy")["ingress"] == [{"ports": [{"port": 8000, "protocol": "TCP"}]}]


def outside(objects: list[Object], part: str) -> set[int]:
    """Ports to which a part may go anywhere; 0 stands for all."""
    return {
        port["port"]
        for rule in named(objects, "NetworkPolicy", part)["egress"]
        if "to" not in rule
        for port in rule.get("ports", [{"port": 0}])
    }


@pytest.mark.parametrize(
    ("env", "ports"),
    [
        ({}, {53}),
        ({"MODEL": "/models/mine"}, {53}),
        ({"MODEL": "Qwen/Qwen2.5-7B-Instruct"}, {53, 443}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, {53, 4318}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://[2001:db8::1]:4318/v1?x=1"}, {53, 4318}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example.org"}, {53, 443}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}, {53, 80}),
        ({"ETCD_ENDPOINT": "etcd.other:2390"}, {53, 2390}),
        ({"ETCD_ENDPOINT": "http://[2001:db8::1]"}, {53, 2379}),
        ({"ETCD_ENDPOINT": "etcd1"}, {53, 2379}),
    ],
    ids=str,
)
def test_an_instance_goes_out_for_what_it_was_told_to_and_nothing_else(
    helm: Helm, env: dict[str, Any], ports: set[int]
) -> None:
    assert outside(helm.objects({"env": {**KEY["env"], **env}}), "instances") == ports


def test_more_doors_are_opened_by_values(helm: Helm) -> None:
    objects = helm.example("everything")
    (to_proxy,) = named(objects, "NetworkPolicy", "proxy")["ingress"]
    assert to_proxy["from"][0] == {"podSelector": {}}
    assert parts_of(to_proxy["from"][-1]) == ["proxy", "loadtest"]
    assert 8443 in outside(objects, "instances")
    to_instances = named(helm.example("observability"), "NetworkPolicy", "instances")["ingress"]
    assert to_instances[-1]["ports"] == [{"port": 8100, "protocol": "TCP"}, {"port": 8200, "protocol": "TCP"}]
    assert "namespaceSelector" in to_instances[-1]["from"][0]


def test_a_load_test_reaches_the_proxy_unless_it_goes_elsewhere(helm: Helm) -> None:
    assert outside(helm.example("everything"), "loadtest") == {53}
    elsewhere = helm.objects({"env": {**KEY["env"], "LOADTEST_TARGET": "http://a"}, "loadtest": {"enabled": True}})
    assert outside(elsewhere, "loadtest") == {0}


@pytest.mark.parametrize("example", sorted(set(EXAMPLES) - {"elsewhere"}))
def test_a_drained_node_takes_one_pod_of_a_part_at_a_time(helm: Helm, example: str) -> None:
    objects = helm.example(example)
    budgets = of_kind(objects, "PodDisruptionBudget")
    served = {*pods(objects)} - {"etcd", "loadtest"}  # there is one etcd, which may go at any time
    assert set(budgets) == {f"{RELEASE}-{part}" for part in served}
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets.values())


def test_keda_asks_for_this_releases_proxies_what_the_docs_say(helm: Helm) -> None:
    objects = of_kind(helm.example("observability"), "ScaledObject")
    assert set(objects) == {f"{RELEASE}-prefill", f"{RELEASE}-decode"}
    own = f'namespace="{NAMESPACE}",pod=~"{RELEASE}-proxy-.*"'
    asked = {
        (trigger["metadata"]["query"], trigger["metricType"], trigger["metadata"]["threshold"])
        for found in objects.values()
        for trigger in found["spec"]["triggers"]
    }
    documented = re.findall(
        r'`(\w+\(pd_proxy_\w+\{role="\w+",)model="M"\}\)` \| (\w+), ([0-9.]+)',
        (REPOSITORY / "docs/scaling.md").read_text(),
    )
    assert asked == {(f"{query}{own}}})", kind, threshold) for query, kind, threshold in documented}
    assert len(asked) == 4


def test_the_other_autoscaler_has_the_same_targets(helm: Helm) -> None:
    found = of_kind(helm.example("everything"), "HorizontalPodAutoscaler")
    targets = {
        (metric["external"]["metric"]["name"], *sorted(metric["external"]["target"].items()))
        for autoscaler in found.values()
        for metric in autoscaler["spec"]["metrics"]
    }
    assert targets == {
        ("pd_proxy_prefill_wait_seconds", ("type", "Value"), ("value", "500m")),
        ("pd_proxy_prefill_tokens_waiting", ("averageValue", "16000000m"), ("type", "AverageValue")),
        ("pd_proxy_kv_cache_usage_ratio", ("type", "Value"), ("value", "700m")),
        ("pd_proxy_running_streams", ("averageValue", "96000m"), ("type", "AverageValue")),
    }


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_scaling_down_waits_and_goes_one_by_one(helm: Helm, kind: str) -> None:
    values = {**KEY, "autoscaling": {"kind": kind, "decode": {"runningStreams": 0}}}
    found = of_kind(helm.objects(values), "ScaledObject", "HorizontalPodAutoscaler")
    for autoscaler in found.values():
        spec = autoscaler["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"] if kind == "keda" else spec
        down = behavior["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] == 300
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
    decode = found[f"{RELEASE}-decode"]["spec"]
    assert len(decode["triggers" if kind == "keda" else "metrics"]) == 1  # a target of 0 does not count


def test_metrics_come_under_the_jobs_that_rules_and_dashboards_know(helm: Helm) -> None:
    monitors = of_kind(helm.example("observability"), "PodMonitor")
    assert set(monitors) == {f"{RELEASE}-{what}" for what in OBSERVED}
    known = yaml.safe_load((REPOSITORY / "observability/prometheus.yml").read_text())["scrape_configs"]
    for what in OBSERVED:
        job = "vllm" if what == "instances" else what
        for endpoint in monitors[f"{RELEASE}-{what}"]["spec"]["podMetricsEndpoints"]:
            assert {"targetLabel": "job", "replacement": job} in endpoint["relabelings"]
            (scrape,) = [each for each in known if each["job_name"] == job]
            assert endpoint.get("honorLabels", False) == scrape.get("honor_labels", False)


def test_a_monitors_ports_are_those_of_the_pods(helm: Helm) -> None:
    objects = helm.example("observability")
    for monitor in of_kind(objects, "PodMonitor").values():
        (parts,) = [each["values"] for each in monitor["spec"]["selector"]["matchExpressions"]]
        ports = {
            port["name"]
            for part in parts
            for container in pods(objects).get(part, {"containers": []})["containers"]
            for port in container["ports"]
        }
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} == ports


@pytest.mark.parametrize(("request_s", "longest"), [(None, 3660), (7200.5, 7261)])
def test_no_way_in_cuts_a_stream_before_the_proxy_does(helm: Helm, request_s: float | None, longest: int) -> None:
    env = {**KEY["env"], **({"PROXY_REQUEST_TIMEOUT_S": request_s} if request_s else {})}
    ways = {"ingress": {"enabled": True}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
    objects = helm.objects({"env": env, **ways})
    (ingress,) = of_kind(objects, "Ingress").values()
    annotations = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert annotations == {
        "proxy-read-timeout": str(longest),
        "proxy-send-timeout": str(longest),
        "proxy-buffering": "off",
        "proxy-body-size": str(ProxySettings.model_fields["proxy_max_body_bytes"].default),
    }
    (rule,) = named(objects, "HTTPRoute", "proxy")["rules"]
    assert rule == {"timeouts": {"request": f"{longest}s"}, "backendRefs": [{"name": f"{RELEASE}-proxy", "port": 8000}]}


def test_services_find_their_pods(helm: Helm) -> None:
    objects = helm.example("default")
    services = of_kind(objects, "Service")
    assert {name: [port["port"] for port in found["spec"]["ports"]] for name, found in services.items()} == {
        f"{RELEASE}-etcd": [2379],
        f"{RELEASE}-proxy": [8000],
    }
    for part in ("etcd", "proxy"):
        (container,) = pods(objects)[part]["containers"]
        (port,) = services[f"{RELEASE}-{part}"]["spec"]["ports"]
        assert port["targetPort"] in {each["name"] for each in container["ports"]}


@pytest.mark.parametrize(("replicas", "workers", "tell"), [(1, 1, False), (3, 1, True), (3, 2, False)])
def test_several_proxies_tell_each_other_what_they_have_in_hand(
    helm: Helm, replicas: int, workers: int, tell: bool
) -> None:
    objects = helm.objects({"env": {**KEY["env"], "PROXY_WORKERS": workers}, "proxy": {"replicas": replicas}})
    services = of_kind(objects, "Service")
    (container,) = pods(objects)["proxy"]["containers"]
    assert (f"{RELEASE}-proxies" in services) == tell
    assert environment(container).get("PROXY_PEERS") == (f"{RELEASE}-proxies:8000" if tell else None)
    assert services[f"{RELEASE}-proxy"]["spec"]["sessionAffinity"] == "None"
    if tell:
        assert services[f"{RELEASE}-proxies"]["spec"]["clusterIP"] == "None"
        assert services[f"{RELEASE}-proxies"]["spec"]["selector"] == services[f"{RELEASE}-proxy"]["spec"]["selector"]


def test_etcd_listens_for_both_families_where_the_rest_does(helm: Helm) -> None:
    (container,) = pods(helm.objects({"env": {**KEY["env"], "LISTEN_HOST": "::"}}))["etcd"]["containers"]
    assert "--listen-client-urls=http://[::]:2379" in container["args"]


def test_a_load_test_keeps_its_report_until_it_is_fetched(helm: Helm) -> None:
    (container,) = pods(helm.example("everything"))["loadtest"]["containers"]
    told = environment(container)
    assert (told["TARGET_READY"], told["KEEP_S"]) == (f"http://{RELEASE}-proxy:8000/ready", "600")
    assert container["args"] == ["--users", "10", "--spawn-rate", "2", "--run-time", "1m"]
    (elsewhere,) = pods(helm.example("elsewhere"))["loadtest"]["containers"]
    assert environment(elsewhere)["TARGET_READY"] == ""
    assert environment(elsewhere)["KEEP_S"] == "0"  # the files are in a volume that stays
