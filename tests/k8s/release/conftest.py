"""One cluster and one release for all tests of this folder, which run in the order that needs the fewest starts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.cluster import images
from tests.k8s.cluster.cluster import Cluster
from tests.k8s.release import values
from tests.k8s.release.release import Release

HERE = Path(__file__).parent
NODES = 2
# Each leaves a release that is whole, and the next begins with that.
ORDER = (
    "test_install",
    "test_upgrade",
    "test_scale_up",
    "test_rolling_restart",
    "test_losses",
    "test_drained_node",
    "test_scale_down",
    "test_autoscaling",
    "test_uninstall",
)
KNOWN = pytest.StashKey[Release]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of other folders, which need no cluster, come first."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.parent == HERE else -1)


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
def vacant(cluster: Cluster, request: pytest.FixtureRequest) -> Release:
    """Its namespace is there and empty."""
    release = Release(cluster)
    request.config.stash[KNOWN] = release
    release.make_namespace()
    return release


@pytest.fixture(scope="session")
def release(vacant: Release) -> Release:
    """Installed as a user begins, with one pod of each part."""
    vacant.install(values.FIRST)
    return vacant


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure comes with the state of the release at that time."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and (release := item.config.stash.get(KNOWN, None)) is not None:
        try:
            told = release.told()
        except (AssertionError, OSError) as error:
            told = f"cannot be asked: {error}"
        report.sections.append(("the release", told))
