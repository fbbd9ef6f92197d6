"""Pipelines on both sides, through launchers, etcd and proxy.

vLLM 0.32 cannot run a pipeline on a CPU, so that `tests/tiny_servers/on_cpus/pipelines.py` makes what it lacks.
The order matters: the last test ends a stage.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.proxy.bad_day_stack import Proxy
from tests.parallel.stacks import (
    TinyStack,
    completion,
    control_ports,
    listening,
    names_of,
    prompts,
    shown,
    transferred,
    until_shown,
)
from tests.real_stack import START_LIMIT_S, running, wait_until
from tests.tiny_servers.on_cpus import PIPELINES

STAGES = 2
LENGTHS = (1, 31, 32, 33, 300, 513, 700, 1200)


class PipelineStack(TinyStack):
    """Both sides are pipelines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.with_model()
        self.variables |= {"PIPELINE_PARALLEL_SIZE": str(STAGES), "VLLM_EXTRA_ARGS": PIPELINES}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineStack]:
    with running(PipelineStack(tmp_path_factory.mktemp("pipelines"))) as started:
        started.wait_for(servers=2)
        yield started


async def test_two_pipelines_as_a_user_starts_them(stack: PipelineStack) -> None:
    consumer, producer = stack.records()
    for record, name in ((consumer, "decode-0"), (producer, "prefill-0")):
        assert (record.pipeline_parallel_size, record.kv_transfer["pipeline_parallel_size"]) == (STAGES, STAGES)
        assert len(control_ports(record)) == STAGES
        assert set(control_ports(record)) <= listening(stack.launcher(name)).keys()
    async with Proxy.at(stack.api_url) as proxy:
        await until_shown(proxy, lambda names: names == set(names_of(stack.records())))
        assert {each["pipeline_parallel_size"] for each in (await shown(proxy)).values()} == {STAGES}
        await transferred(proxy, stack.decode_url, prompts("pipelines", *LENGTHS))


async def test_a_stage_that_dies_takes_its_server_with_it(stack: PipelineStack) -> None:
    """Until it is back no request can be split, and the client is told so."""
    _, producer = stack.records()
    _, second = control_ports(producer)
    listening(stack.launcher("prefill-0"))[second].kill()
    async with Proxy.at(stack.api_url) as proxy:
        await until_shown(proxy, lambda names: producer.instance_id not in names)
        refused = await proxy.post(completion(prompts("refused", 100)[0]))
        assert refused.status == 503
        assert "prefill" in refused.error["message"]
        await asyncio.to_thread(
            wait_until, lambda: len(stack.records()) == 2, START_LIMIT_S, "supervisord has started it again"
        )
        await until_shown(proxy, lambda names: names == set(names_of(stack.records())))
        await transferred(proxy, stack.decode_url, prompts("back", 300, 33))
    assert producer.instance_id not in names_of(stack.records())
