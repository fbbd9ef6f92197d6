"""`kubectl rollout restart` of each part while clients stream."""

import pytest

from tests.k8s.release.release import PARTS, Release
from tests.k8s.release.traffic import traffic


@pytest.mark.parametrize("part", PARTS)
def test_no_request_fails(release: Release, part: str) -> None:
    before = {pod.uid for pod in release.pods(part)}
    with traffic(release.proxy_url()) as flowing:
        release.rollout(part)
        release.wait_for_instances(prefill=1, decode=2)
        answered = len(flowing.outcomes)
        release.wait("more answers", lambda: len(flowing.outcomes) >= answered + 4, 120)
    assert flowing.failures == []
    assert flowing.outcomes[-1].path == "disaggregated"
    assert before.isdisjoint(pod.uid for pod in release.pods(part))
