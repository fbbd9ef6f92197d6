"""`kubectl scale` to more consumers while clients stream."""

from tests.k8s.release.release import Release
from tests.k8s.release.traffic import traffic


def test_a_second_consumer_takes_part_and_no_stream_breaks(release: Release) -> None:
    with traffic(release.proxy_url(), clients=6, tokens=64) as flowing:
        release.kubectl("scale", release.workload("decode"), "--replicas=2")
        release.wait_for_pods("decode", 2)
        release.wait_for_instances(prefill=1, decode=2)
        addresses = [pod.address for pod in release.pods("decode")]
        release.wait("a request on each consumer", lambda: all(map(flowing.used, addresses)), 120)
    assert flowing.failures == []
