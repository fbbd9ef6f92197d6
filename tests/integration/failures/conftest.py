"""One stack for all tests of failures, each of which must leave as many blocks free as it found."""

import random
from collections.abc import Callable, Iterator

import pytest

from tests.integration.answers import Tokens
from tests.integration.failures.failure_stack import FailureStack
from tests.real_stack import running, wait_until

BLOCKS_LIMIT_S = 30  # longer than every bound after which a producer or a consumer gives blocks up

Prompts = Callable[..., list[Tokens]]


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailureStack]:
    with running(FailureStack(tmp_path_factory.mktemp("failures"))) as started:
        yield started


@pytest.fixture(autouse=True)
def every_block_comes_back(stack: FailureStack) -> Iterator[None]:
    before = {server: server.free_blocks() for server in stack.servers}
    yield
    for server, free in before.items():
        wait_until(
            lambda s=server, n=free: s.free_blocks() == n, BLOCKS_LIMIT_S, f"{server.name} has {free} blocks free"
        )
        assert server.metric("pd_kv_free_blocks") == free, "the connector's own figure"
        assert server.metric("pd_kv_blocks_held") == 0


@pytest.fixture
def prompts(stack: FailureStack, request: pytest.FixtureRequest) -> Callable[..., list[Tokens]]:
    """Prompts of the given lengths that no other test uses, so that nothing of them is cached anywhere."""
    text = stack.english
    places = random.Random(request.node.name)

    def of_lengths(*lengths: int) -> list[Tokens]:
        starts = [places.randrange(len(text) - length) for length in lengths]
        return [text[start : start + length] for start, length in zip(starts, lengths, strict=True)]

    return of_lengths
