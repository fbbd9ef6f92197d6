"""Where records say that engines listen, they do, and nobody else."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.instance import vllm_command
from connector.vllm_hooks.options import ConnectorOptions
from stack.configuration.environment import load
from stack.instances.record import Engine, engine_id
from stack.instances.settings import PORTS_PER_INSTANCE, LauncherSettings


@dataclass(frozen=True)
class Parallel:
    """As much of vLLM's parallel configuration as is looked at, inside an engine."""

    data_parallel_index: int
    world_size: int


# Ranks of an engine, engines of a server, rank of the first one.
sizes = st.tuples(st.integers(1, PORTS_PER_INSTANCE), st.integers(1, PORTS_PER_INSTANCE), st.integers(0, 8)).filter(
    lambda size: size[0] * size[1] <= PORTS_PER_INSTANCE
)


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_looked_up() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vllm_command, "vllm_version", lambda: "0.32.0+cpu")
        patched.setattr(vllm_command, "pairing", lambda _: {})
        yield


def launcher(index: int, size: tuple[int, int, int]) -> LauncherSettings:
    ranks, engines, first = size
    return load(
        LauncherSettings,
        vllm_distributed_kv_role="producer",
        vllm_host_ip="127.0.0.1",
        stack_key="0123456789abcdef",
        model=str(Path(__file__).parent),
        instance_index=index,
        tensor_parallel_size=ranks,
        vllm_extra_args=f"-dp {first + engines} -dph -dpl {engines} -dpr {first}",
    )


@settings(deadline=None)
@given(st.lists(sizes, min_size=1, max_size=4))
def test_every_rank_of_every_engine_of_every_server_on_a_host(servers: list[tuple[int, int, int]]) -> None:
    taken: list[str] = []
    for index, size in enumerate(servers):
        given_settings, name = launcher(index, size), f"i{index}"
        config: Any = vllm_command.kv_transfer_config(given_settings, name)["kv_connector_extra_config"]
        told = ConnectorOptions.from_extra_config(config)
        alone = Engine(rank=0, kv_transfer=vllm_command.kv_transfer(given_settings, name))
        listed = vllm_command.engines(given_settings, name)
        assert len(listed) == (size[1] if sum(size[1:]) > 1 else 0)
        for engine in listed or (alone,):
            within = engine_id(name, engine.rank) if listed else name
            options = told.of_engine(Parallel(engine.rank, size[0]), within)
            listening = [f"tcp://127.0.0.1:{options.control_port + rank}" for rank in range(size[0])]
            assert (engine.kv_transfer["engine_id"], engine.kv_transfer["control"]) == (within, listening)
            taken += listening
    assert len(set(taken)) == len(taken)
