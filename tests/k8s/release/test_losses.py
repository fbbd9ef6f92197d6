"""What is lost without a word: the process of each part, and etcd with all its data. The release heals by itself."""

import time

import pytest

from tests.k8s.release.release import PARTS, Pod, Release
from tests.k8s.release.traffic import traffic

CLIENTS = 2
# A token that a client has cannot be made again elsewhere, so streams of a lost consumer break. Connections of a lost
# proxy break, and the Service goes on leading to it until its node has told the API server.
UNNOTICED = ("etcd", "prefill")
ETCDCTL = ("etcdctl", "--endpoints=127.0.0.1:2379")


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_process_comes_back(release: Release, part: str) -> None:
    killed = release.pods(part)[0]

    def back() -> Pod | None:
        found = [pod for pod in release.pods(part) if pod.name == killed.name]
        return found[0] if found and found[0].ready and found[0].restarts == killed.restarts + 1 else None

    with traffic(release.proxy_url(), CLIENTS) as flowing:
        release.wait("an answer", lambda: flowing.outcomes, 120)
        release.cluster.node(killed.node).kill(killed.uid, part)
        release.wait(f"{killed.name} after a kill", back)
        release.wait_for_instances(prefill=1, decode=2)
        healed, answered = time.monotonic(), len(flowing.outcomes)
        release.wait("more answers", lambda: len(flowing.outcomes) >= answered + 4, 120)
    failed = [outcome for outcome in flowing.outcomes if outcome.failure]
    assert [outcome for outcome in failed if part in UNNOTICED or outcome.began > healed] == []
    if part == "decode":
        assert len(failed) <= CLIENTS, failed
    assert flowing.outcomes[-1].path == "disaggregated"


def test_etcd_loses_its_data(release: Release) -> None:
    """Its pod goes with its volume. Instances register anew, and no request fails meanwhile."""
    lost = release.pod("etcd")
    release.kubectl("exec", lost.name, "--", *ETCDCTL, "put", "of-the-lost-one", "there")
    assert "there" in release.kubectl("exec", lost.name, "--", *ETCDCTL, "get", "of-the-lost-one")
    with traffic(release.proxy_url(), CLIENTS) as flowing:
        release.kubectl("delete", "pod", lost.name)
        release.wait("a new etcd", lambda: any(pod.uid != lost.uid and pod.ready for pod in release.pods("etcd")))
        release.wait_for_instances(prefill=1, decode=2)
        answered = len(flowing.outcomes)
        release.wait("more answers", lambda: len(flowing.outcomes) >= answered + 4, 120)
    assert flowing.failures == []
    assert release.kubectl("exec", release.pod("etcd").name, "--", *ETCDCTL, "get", "of-the-lost-one") == ""
