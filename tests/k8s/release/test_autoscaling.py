"""HorizontalPodAutoscalers on the proxies' metrics: ten times the load and back, and no stream breaks."""

from typing import Any

from tests.k8s.release import values
from tests.k8s.release.external_metrics import served
from tests.k8s.release.release import Release
from tests.k8s.release.traffic import traffic


def test_a_burst_brings_a_consumer_and_its_end_takes_it_away(release: Release) -> None:
    with served(release), traffic(release.proxy_url(), clients=1, tokens=64) as always:
        release.upgrade(values.AUTOSCALED)
        release.wait("an autoscaler that knows its metrics", lambda: active(release), 90)
        assert len(release.pods("decode")) == 1, "one client is no reason to scale"
        with traffic(release.proxy_url(), clients=9, tokens=64) as burst:
            release.wait("the autoscaler wants two consumers", lambda: wanted(release) == 2, 120)
            release.wait_for_pods("decode", 2)
            release.wait_for_instances(prefill=1, decode=2)
            addresses = [pod.address for pod in release.pods("decode")]
            release.wait("a stream of each consumer", lambda: all(map(burst.used, addresses)), 120)
        release.wait("the autoscaler wants one consumer", lambda: wanted(release) == 1, 180)
        release.wait_for_pods("decode", 1, limit_s=120)
        release.wait_for_instances(prefill=1, decode=1, limit_s=30)
    assert burst.failures == []
    assert always.failures == []


def autoscaler(release: Release) -> dict[str, Any]:
    path = f"/apis/autoscaling/v2beta2/namespaces/{release.namespace}/horizontalpodautoscalers"
    status: dict[str, Any] = release.cluster.api.get(f"{path}/{release.object_name('decode')}")["status"]
    return status


def active(release: Release) -> bool:
    conditions = autoscaler(release).get("conditions") or []
    return any(condition["type"] == "ScalingActive" and condition["status"] == "True" for condition in conditions)


def wanted(release: Release) -> int:
    return int(autoscaler(release).get("desiredReplicas", 0))
