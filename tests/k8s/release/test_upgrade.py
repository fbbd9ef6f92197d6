"""`helm upgrade`: nothing restarts without a reason."""

from tests.k8s.release import values
from tests.k8s.release.release import Release
from tests.k8s.release.traffic import traffic


def identities(release: Release) -> dict[str, tuple[str, int]]:
    """uid and restarts of each pod, by name."""
    return {pod.name: (pod.uid, pod.restarts) for pod in release.pods()}


def test_an_upgrade_without_a_change_restarts_nothing(release: Release) -> None:
    before = identities(release)
    release.upgrade(values.FIRST)
    assert '"revision":"2"' in release.helm("list", "--output", "json")
    assert identities(release) == before


def test_a_changed_value_restarts_what_reads_it_and_no_request_fails(release: Release) -> None:
    before = identities(release)
    proxy = release.pod("proxy").name
    with traffic(release.proxy_url()) as flowing:
        release.upgrade(values.WITHOUT_A_GAP)
        release.wait_for_pods("proxy", 2)
    assert flowing.outcomes
    assert flowing.failures == []
    after = identities(release)
    assert proxy not in after
    assert {name for name in after if name not in before} == {pod.name for pod in release.pods("proxy")}
    assert {name: after[name] for name in after if name in before} == {n: before[n] for n in before if n != proxy}
