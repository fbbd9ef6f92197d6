"""`kubectl drain` of a node, with pods of the release on it, while clients stream."""

from tests.k8s.release.release import PARTS, START_LIMIT_S, Release
from tests.k8s.release.traffic import traffic


def test_its_pods_move_to_the_other_node_and_no_request_fails(release: Release) -> None:
    drained = release.pods("decode")[0].node
    with traffic(release.proxy_url()) as flowing:
        try:
            limit_s = 2 * START_LIMIT_S
            options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={limit_s:.0f}s")
            release.kubectl("drain", drained, *options, limit_s=limit_s + 10)
            for part, count in (("etcd", 1), ("prefill", 1), ("decode", 2), ("proxy", 2)):
                release.wait_for_pods(part, count)
            release.wait_for_instances(prefill=1, decode=2)
            nodes = {pod.node for pod in release.pods(*PARTS)}
        finally:
            release.kubectl("uncordon", drained)
    assert drained not in nodes
    assert len(nodes) == 1
    assert flowing.failures == []
