"""The stacks of this folder, started once side by side and taken down whatever happens."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.compose.project import LOG_LINES, Project
from tests.gpu_host import gpus
from tests.gpu_host.stacks import AGGREGATED, DISAGGREGATED, ON_ONE_GPU, Stacks

LEFT_OVER_MIB = 64  # of GPU memory: the driver's own figure moves a little


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Failures last: on a host that is lent for a while, their minutes are the first that may be missing."""
    items.sort(key=lambda item: item.path.name == "test_failures.py")


@pytest.fixture(scope="session")
def stacks(request: pytest.FixtureRequest) -> Iterator[Stacks]:
    """All kinds, running. Their end leaves no container, volume, network or GPU memory."""
    before = gpus.memory_in_use()
    found = {kind: kind.project() for kind in (*DISAGGREGATED, AGGREGATED)}
    failed_before = request.session.testsfailed
    started = False
    with ThreadPoolExecutor(len(found)) as side_by_side:
        try:
            list(side_by_side.map(Project.up, found.values()))
            started = True
            yield found
        finally:
            if not started or request.session.testsfailed > failed_before:
                for kind, project in found.items():
                    print(f"== {kind}\n{project.compose('ps', '--all')}")
                    print(project.compose("logs", "--no-color", "--tail", LOG_LINES))
            list(side_by_side.map(lambda each: each.compose("down", "--volumes", "--remove-orphans"), found.values()))
    assert [project.remains() for project in found.values()] == [[] for _ in found]
    after = gpus.memory_in_use()
    assert {gpu: used for gpu, used in after.items() if used > before[gpu] + LEFT_OVER_MIB} == {}


@pytest.fixture(scope="session")
def project(stacks: Stacks) -> Project:
    """The stack whose containers share one GPU: for what holds of every kind."""
    return stacks[ON_ONE_GPU]
