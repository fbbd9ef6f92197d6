"""The stack that the integration and browser tests share: started once, as a user would start it."""

from collections.abc import Iterator

import pytest

from tests.real_stack import PlainVllm, RealStack, running


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, stack: RealStack) -> Iterator[PlainVllm]:
    """A plain vLLM server, to compare answers with."""
    server = PlainVllm(tmp_path_factory.mktemp("plain"))
    process = server.start()
    try:
        server.wait(process)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStack]:
    """The processes-only stack."""
    with running(RealStack(tmp_path_factory.mktemp("stack"))) as started:
        yield started
