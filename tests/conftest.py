"""The stack that the integration and browser tests share: started once, as a user would start it."""

from collections.abc import Iterator

import pytest

from stack.etcd import rpc  # noqa: F401  before whatever imports protobuf for something else
from tests.otlp_receiver import Receiver, receiver
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
def collector() -> Iterator[Receiver]:
    """Where the stack's spans go."""
    with receiver() as started:
        yield started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Iterator[RealStack]:
    """The processes-only stack, traced."""
    made = RealStack(tmp_path_factory.mktemp("stack"))
    made.variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "500"}  # ms
    with running(made) as started:
        yield started
