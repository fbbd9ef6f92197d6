"""The external way: a server with a launcher and a record of its own for each rank of a model with experts.

vLLM 0.32 has it for such models alone, and cannot run it on a CPU: see `tests/tiny_servers/on_cpus/experts.py`.
The order matters: the last test ends a rank.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.caches import models
from tests.integration.caches.models import MAX_MODEL_LEN
from tests.integration.proxy.bad_day_stack import Proxy
from tests.parallel.stacks import (
    TinyStack,
    completion,
    control_ports,
    listening,
    names_of,
    pairs,
    prompts,
    running_together,
    transferred,
    until_shown,
)
from tests.real_stack import START_LIMIT_S, metrics, wait_until
from tests.tiny_servers.on_cpus import EXPERTS

ENGINES = 2
SERVED = models.BY_NAME["deepseek-v3"]
VARIABLES = {"MAX_MODEL_LEN": str(MAX_MODEL_LEN), "MAX_NUM_BATCHED_TOKENS": str(SERVED.step_tokens)}
LENGTHS = (100, 300, 513, 700, 333, 222)


class ExternalStack(TinyStack):
    """The external way: the producer's rank 0, the consumer, etcd and the proxy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rpc_port = int(self.variables["CONTROL_PORT"]) + 40
        self.variables |= VARIABLES | {
            "BLOCK_SIZE": str(SERVED.block_size),
            "VLLM_EXTRA_ARGS": f"{SERVED.arguments} --max-num-seqs 16",
            "PREFILL_VLLM_EXTRA_ARGS": self.arguments(0, self.rpc_port),
            "GLOO_SOCKET_IFNAME": "lo",
        }

    @staticmethod
    def arguments(rank: int, rpc_port: int) -> str:
        external = f"--data-parallel-size {ENGINES} --data-parallel-rank {rank} --data-parallel-rpc-port {rpc_port}"
        return f"{external} --enable-expert-parallel {EXPERTS}"


class OtherRank(TinyStack):
    """The producer's rank 1, as another host would have it. Its ports lie behind the first stack's."""

    def beside(self, first: ExternalStack) -> "OtherRank":
        port = first.rpc_port + 20
        self.variables |= {
            **{name: first.variables[name] for name in (*VARIABLES, "BLOCK_SIZE", "VLLM_EXTRA_ARGS", "MODEL")},
            "STACK_SERVICES": "prefill",
            "ETCD_ENDPOINT": first.etcd_url.removeprefix("http://"),
            "PREFILL_PORT": str(port),
            "CONTROL_PORT": str(port + 1),
            "PREFILL_VLLM_EXTRA_ARGS": first.arguments(1, first.rpc_port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        return self


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Iterator[ExternalStack]:
    first = ExternalStack(tmp_path_factory.mktemp("rank-0"))
    first.with_model(models_folder / SERVED.name)
    second = OtherRank(tmp_path_factory.mktemp("rank-1")).beside(first)
    with running_together(first, second):
        first.wait_for(servers=3)
        yield first


async def test_a_server_for_each_rank(stack: ExternalStack) -> None:
    """Each has a record with its one engine, to which a request needs no rank."""
    consumer, *ranks = stack.records()
    assert [[(engine.rank, engine.pin) for engine in each.engines] for each in ranks] == [[(0, None)], [(1, None)]]
    assert not consumer.engines
    async with Proxy.at(stack.api_url) as proxy:
        await until_shown(proxy, lambda names: names == set(names_of(stack.records())))
        found = await transferred(proxy, stack.decode_url, prompts("external", *LENGTHS))
    assert {producer for producer, _ in pairs(found)} == set(names_of(ranks))
    for each in ranks:
        assert metrics(each.url)["vllm:prompt_tokens_total"] > 0


async def test_when_a_rank_dies_all_are_started_again(stack: ExternalStack) -> None:
    """The other one could compute nothing without it. Nobody is asked any more who cannot answer."""
    _, *ranks = stack.records()
    (port,) = control_ports(ranks[0].engines[0])
    listening(stack.launcher("prefill-0"))[port].kill()
    async with Proxy.at(stack.api_url) as proxy:
        await until_shown(proxy, lambda names: names.isdisjoint(names_of(ranks[:1])))
        answer = await proxy.post(completion(prompts("a rank is gone", 100)[0]))
        print(answer.status, answer.raw)
        assert answer.status in (500, 502, 503)
        await until_shown(proxy, lambda names: names.isdisjoint(names_of(ranks)))
        await asyncio.to_thread(wait_until, lambda: len(stack.records()) == 3, START_LIMIT_S, "both ranks are back")
        await until_shown(proxy, lambda names: names == set(names_of(stack.records())))
        found = await transferred(proxy, stack.decode_url, prompts("back", 300, 333, 222, 111))
    assert {producer for producer, _ in pairs(found)} == set(names_of(stack.records()[1:]))
