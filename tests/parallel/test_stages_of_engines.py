"""Pipelines of data-parallel engines: a stage belongs to an engine, and each engine to a request."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests import tiny_models
from tests.integration.parallel import engines
from tests.integration.parallel.engines import DATA_PARALLEL, ENGINES, Servers, pipe_of_facts
from tests.parallel.stacks import prompts
from tests.tiny_servers.instances import CONTROL_PORT, Fleet, Serving
from tests.unit.proxy.conftest import RunningProxy, running_proxy

STAGES = 2
LENGTHS = (1, 31, 32, 33, 300, 513, 700, 1200)


@pytest.fixture(scope="module")
def servers(fleet: Fleet, folder: Path) -> Iterator[Servers]:
    """A producer of two engines of two stages, a consumer of two engines, and a plain server."""
    serving = Serving(tiny_models.grouped_query(2).write(folder / "stages of engines"))
    several = Serving(serving.model, arguments=DATA_PARALLEL)
    found = Servers(
        producer=fleet.start("prefill", several, stages=STAGES),
        consumer=fleet.start("decode", replace(several, variables=pipe_of_facts(folder / "facts-of-stages"))),
        plain=fleet.start("aggregated", serving),
    )
    fleet.wait()
    yield found
    fleet.stop_all()


@pytest.fixture
async def proxy(servers: Servers) -> AsyncIterator[RunningProxy]:
    async with running_proxy(servers.view) as started:
        yield started


async def test_each_engine_is_a_pipeline(servers: Servers, proxy: RunningProxy) -> None:
    """Its stages listen behind those of the engine before it, and each gives its own layers."""
    for name in ("once", "twice"):
        told = await engines.facts_of_same_answers(servers, proxy, prompts(name, *LENGTHS))
        assert {engine for each in told for engine in each.engines} == {
            *engines.names_of(servers.producer),
            *engines.names_of(servers.consumer),
        }
    for engine in range(ENGINES):
        for stage in range(STAGES):
            port = CONTROL_PORT + engine * STAGES + stage
            assert f"rank {stage} (stage {stage + 1} of {STAGES}) at {servers.producer.address}{port}, " in (
                servers.producer.log
            )
