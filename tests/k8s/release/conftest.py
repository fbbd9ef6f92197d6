"""One cluster and one release for all tests of this folder, which run in the order that needs the fewest starts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.cluster import images
from tests.k8s.cluster.cluster import Cluster
from tests.k8s.release.release import Release

NODES = 2
# Each leaves a release that is whole, and the next begins with that.
ORDER = (
    "test_install",
    "test_upgrade",
    "test_scaling",
    "test_rolling_restart",
    "test_losses",
    "test_drained_node",
    "test_autoscaling",
    "test_uninstall",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else -1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes that have the stack's images. `python -m tests.k8s` says where everything lies."""
    cluster = Cluster(Path(os.environ["K8S_CACHE"]), Path(os.environ["K8S_PROGRAMS"]), NODES)
    try:
        cluster.start()
        images.copy(os.environ["K8S_IMAGES"].split(), cluster.nodes)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def namespace(cluster: Cluster) -> Release:
    """Where the release goes; nothing is installed yet."""
    return Release(cluster)


@pytest.fixture(scope="session")
def release(namespace: Release) -> Release:
    """Installed as a user begins: one instance of each role, everything else at its default."""
    namespace.install(VALUES)
    return namespace


# Small requests for memory, so that two cores and their memory hold all pods; decode beside prefill only where it must.
VALUES: dict[str, Any] = {
    "prefill": {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "5Gi"}}},
    "decode": {
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "5Gi"}},
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "prefill"}},
                        },
                    }
                ]
            }
        },
    },
}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    release = getattr(item, "funcargs", {}).get("namespace") or getattr(item, "funcargs", {}).get("release")
    if report.failed and isinstance(release, Release):
        try:
            report.sections.append(("the release", release.told()))
        except (AssertionError, OSError) as error:
            report.sections.append(("the release", f"cannot be asked: {error}"))
