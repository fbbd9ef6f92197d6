"""What each pod may do, how it is asked whether it is well, and how it ends."""

import pytest

from tests.k8s.chart.rendering import EXAMPLES, KEY, RELEASE, Helm, Object, containers, environment, of_kind, pods

INSTANCES = ("prefill", "decode", "pair")
FOR_GOOD = ("etcd", "proxy", *INSTANCES)
PREPARE = "prepare"
SHORTEST_DRAIN_S = 15  # what the launcher gives vLLM after the grace, before it kills it


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_pod_is_an_ordinary_user_without_a_token(helm: Helm, example: str) -> None:
    for part, pod in pods(helm.example(example)).items():
        assert pod["automountServiceAccountToken"] is False, part
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert not {"hostIPC", "serviceAccountName"} & set(pod)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_container_is_confined_and_bounded(helm: Helm, example: str) -> None:
    for part, pod in pods(helm.example(example)).items():
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, part
            assert container["resources"]["limits"]["memory"]
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_written_goes_to_memory_or_a_volume_that_was_asked_for(helm: Helm, example: str) -> None:
    for part, pod in pods(helm.example(example)).items():
        for volume in pod["volumes"]:
            assert "hostPath" not in volume
            if volume["name"] in ("tmp", "shm"):
                assert volume["emptyDir"]["medium"] == "Memory", part
                assert volume["emptyDir"]["sizeLimit"]


def test_the_hosts_namespaces_are_shared_only_where_it_was_said(helm: Helm) -> None:
    for example in EXAMPLES:
        for part, pod in pods(helm.example(example)).items():
            assert ("hostNetwork" in pod) == ("rdma" in example and part in INSTANCES), (example, part)
            assert "hostPID" not in pod
            assert pod.get("shareProcessNamespace", False) == (part == "pair")


def test_on_the_nodes_network_instances_listen_at_the_nodes_address_alone(helm: Helm) -> None:
    for example, listening in (("rdma", "status.podIP"), ("default", "0.0.0.0")):
        for role in ("prefill", "decode"):
            assert environment(pods(helm.example(example))[role]["containers"][0])["LISTEN_HOST"] == listening


def test_root_with_one_capability_is_for_rdma_where_the_node_limits_locked_memory(helm: Helm) -> None:
    objects = helm.objects({**KEY, "instances": {"lockMemoryAsRoot": True}}, "values-rdma.yaml")
    for part, pod in pods(objects).items():
        for container in containers(pod):
            context = container["securityContext"]
            as_root = part in INSTANCES and container["name"] != PREPARE
            assert context.get("runAsUser", 10001) == (0 if as_root else 10001)
            assert context["capabilities"] == ({"drop": ["ALL"], "add": ["IPC_LOCK"]} if as_root else {"drop": ["ALL"]})
            assert context["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_stays_is_asked_at_the_start_for_traffic_and_for_life(helm: Helm, example: str) -> None:
    for part, pod in pods(helm.example(example)).items():
        if part in FOR_GOOD:
            for container in pod["containers"]:
                paths = {probe: container[probe]["httpGet"]["path"] for probe in _PROBES}
                assert paths == {**dict.fromkeys(_PROBES, "/health"), **_READY.get(part, {})}, part
                ports = {port["name"] for port in container["ports"]}
                assert {container[probe]["httpGet"]["port"] for probe in _PROBES} <= ports
                # Of life a server that only computes may be silent about for a minute.
                alive = container["livenessProbe"]
                assert alive["periodSeconds"] * alive["failureThreshold"] >= 60


_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_READY = {"proxy": {"readinessProbe": "/ready"}}


@pytest.mark.parametrize(("timeout_s", "failures"), [(900, 180), (7200, 1440), (1, 1), (61.5, 13)])
def test_an_instance_may_start_for_as_long_as_make_up_waits(helm: Helm, timeout_s: float, failures: int) -> None:
    found = pods(helm.objects({"env": {**KEY["env"], "STACK_START_TIMEOUT_S": timeout_s}}))["prefill"]["containers"][0]
    assert found["startupProbe"]["periodSeconds"] == 5
    assert found["startupProbe"]["failureThreshold"] == failures


@pytest.mark.parametrize("grace_s", [0, 30, 600.5])
def test_the_kubelet_waits_longer_than_a_drain(helm: Helm, grace_s: float) -> None:
    given = {**KEY["env"], "SHUTDOWN_GRACE_S": grace_s, "PROXY_SHUTDOWN_GRACE_S": grace_s or 1}
    found = pods(helm.objects({"env": given, "proxy": {"preStopSeconds": 7}}))
    for role in ("prefill", "decode"):
        (container,) = found[role]["containers"]
        assert found[role]["terminationGracePeriodSeconds"] >= grace_s + SHORTEST_DRAIN_S
        assert "lifecycle" not in container  # the launcher leaves etcd at once, and then waits for its requests
    (proxy,) = found["proxy"]["containers"]
    assert proxy["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert found["proxy"]["terminationGracePeriodSeconds"] >= 7 + (grace_s or 1) + SHORTEST_DRAIN_S


def test_of_one_part_pods_are_spread_over_nodes(helm: Helm) -> None:
    for part, pod in pods(helm.example("everything")).items():
        (spread,) = pod["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == part
        assert spread["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == RELEASE


def test_each_program_has_its_role_its_address_and_its_secrets(helm: Helm) -> None:
    found = pods(helm.example("everything"))
    told = {part: environment(pod["containers"][0]) for part, pod in found.items()}
    roles = {part: told[part]["VLLM_DISTRIBUTED_KV_ROLE"] for part in ("prefill", "decode")}
    assert roles == {"prefill": "producer", "decode": "consumer"}
    assert {told[part]["ETCD_ENDPOINT"] for part in ("prefill", "decode", "proxy")} == {f"{RELEASE}-etcd:2379"}
    assert told["prefill"]["VLLM_HOST_IP"] == "status.podIP"
    assert told["prefill"]["KV_CACHE_BYTES"] == "1073741824"
    assert told["prefill"]["NCCL_DEBUG"] == "INFO"
    secrets = {
        part: {name for name, value in each.items() if value.startswith("secret:")} for part, each in told.items()
    }
    assert secrets == {
        "etcd": set(),
        "prefill": {"STACK_KEY", "OPENAI_API_KEY", "OTEL_EXPORTER_OTLP_HEADERS"},
        "decode": {"STACK_KEY", "OPENAI_API_KEY", "OTEL_EXPORTER_OTLP_HEADERS"},
        "proxy": {"OPENAI_API_KEY", "OTEL_EXPORTER_OTLP_HEADERS", "PROXY_API_KEYS"},
        "loadtest": {"OPENAI_API_KEY"},
    }
    prepare = environment(found["prefill"]["initContainers"][0])
    assert {name for name, value in prepare.items() if value.startswith("secret:")} == {"STACK_KEY", "HF_TOKEN"}
    assert "HF_HUB_OFFLINE" not in prepare
    assert told["prefill"]["HF_HUB_OFFLINE"] == "1"
    # The load test is a Job without a page, to which the console would have a link.
    assert told["proxy"]["LOCUST_PORT"] == "0"


def test_no_secret_is_anywhere_but_in_the_secret(helm: Helm) -> None:
    given = {"STACK_KEY": "k" * 32, "OPENAI_API_KEY": "o" * 32, "HF_TOKEN": "h" * 32, "PROXY_API_KEYS": "a:" + "p" * 32}
    objects = helm.objects({"env": given})
    (secret,) = of_kind(objects, "Secret").values()
    assert set(secret["data"]) == set(given)
    others = str([content for content in objects if content["kind"] != "Secret"])
    assert not any(value in others for value in ("k" * 32, "o" * 32, "h" * 32, "p" * 32))


def test_a_value_is_what_was_given_to_the_letter(helm: Helm) -> None:
    """Helm reads numbers as floats, and the kubelet replaces $(NAME)."""
    given = {"VLLM_EXTRA_ARGS": "--a '$(HOME) \"<&>\"'", "PROXY_TOKEN_TIMEOUT_S": 1.5, "TRANSFER_CHECKSUM": True}
    found = pods(helm.objects({"env": {**KEY["env"], **given, "PROXY_MAX_BUFFERED_BYTES": 1 << 40, "MC_X": 3}}))
    instance, proxy = (environment(found[part]["containers"][0]) for part in ("decode", "proxy"))
    assert instance["VLLM_EXTRA_ARGS"] == "--a '$$(HOME) \"<&>\"'"  # which the kubelet makes $(HOME) of
    assert instance["TRANSFER_CHECKSUM"] == "true"
    assert instance["MC_X"] == "3"
    assert proxy["PROXY_TOKEN_TIMEOUT_S"] == "1.5"
    assert proxy["PROXY_MAX_BUFFERED_BYTES"] == str(1 << 40)
    assert "MC_X" not in proxy


def test_a_pair_is_one_pod_of_both_roles_with_one_claim(helm: Helm) -> None:
    objects = helm.example("nvlink")
    assert set(pods(objects)) == {"etcd", "proxy", "pair"}
    pod = pods(objects)["pair"]
    assert [container["name"] for container in pod["containers"]] == ["prefill", "decode"]
    assert pod["resourceClaims"] == [{"name": "gpus", "resourceClaimTemplateName": "two-gpus"}]
    for index, container in enumerate(pod["containers"]):
        assert container["resources"]["claims"] == [{"name": "gpus"}]
        assert environment(container)["CUDA_VISIBLE_DEVICES"] == str(index)
        assert environment(container)["MOONCAKE_PROTOCOL"] == "nvlink_intra"
        assert not any("gpu" in resource for resource in container["resources"]["limits"])
    ports = [port["containerPort"] for container in pod["containers"] for port in container["ports"]]
    assert ports == [8100, 8200]


@pytest.mark.parametrize("example", ["gpu", "rdma", "gpu and rdma"])
def test_an_instance_asks_for_its_devices(helm: Helm, example: str) -> None:
    wanted = {name for part, name in (("gpu", "nvidia.com/gpu"), ("rdma", "rdma/hca")) if part in example}
    for role in ("prefill", "decode"):
        limits: Object = pods(helm.example(example))[role]["containers"][0]["resources"]["limits"]
        assert {name: limits[name] for name in limits if "/" in name} == dict.fromkeys(wanted, "1")
