"""`kubectl scale` to fewer consumers while clients stream."""

from tests.k8s.release.release import Release
from tests.k8s.release.traffic import traffic


def test_the_leaving_consumer_ends_its_streams_first(release: Release) -> None:
    with traffic(release.proxy_url(), clients=6, tokens=64) as flowing:
        addresses = [pod.address for pod in release.pods("decode")]
        release.wait("a stream of each consumer", lambda: all(map(flowing.used, addresses)), 120)
        release.kubectl("scale", release.workload("decode"), "--replicas=1")
        release.wait_for_pods("decode", 1, limit_s=120)
        release.wait_for_instances(prefill=1, decode=1, limit_s=30)
    assert flowing.failures == []
