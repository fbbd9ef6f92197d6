"""`helm uninstall` leaves nothing: no object of any kind, no container."""

from tests.k8s.release.release import Release


def test_nothing_is_left(release: Release) -> None:
    release.helm("uninstall", release.name, "--wait", "--timeout", "120s", limit_s=150)
    release.wait("no pods", lambda: not release.pods(), 120)
    # Endpoints go some moments after their Service.
    release.wait("nothing that was not there", lambda: release.inventory() == release.begun_with, 60)
    release.wait("no containers", lambda: not any(node.containers() for node in release.cluster.nodes), 60)
