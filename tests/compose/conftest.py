"""The stack in containers, built and started once for all tests of this folder, and taken down whatever happens."""

from collections.abc import Iterator

import pytest

from tests.compose.project import LOG_LINES, Project


@pytest.fixture(scope="session")
def project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """A running stack. Without a Docker engine this fails, as it should: the selection is made before pytest starts."""
    project = Project()
    failed_before = request.session.testsfailed
    started = False
    try:
        project.up()
        started = True
        yield project
    finally:
        if not started or request.session.testsfailed > failed_before:
            print(project.compose("ps", "--all"))
            print(project.compose("logs", "--no-color", "--tail", LOG_LINES))
        project.compose("down", "--volumes", "--remove-orphans")
    assert project.remains() == []
