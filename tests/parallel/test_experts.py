"""Data-parallel engines of a model with experts: they compute every layer with experts together, in step.

vLLM 0.32 cannot do that on a CPU, so that `tests/tiny_servers/on_cpus/experts.py` does. Sums are added up in another
order than in one engine.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.caches import models
from tests.integration.caches.models import MAX_MODEL_LEN
from tests.integration.parallel import engines
from tests.integration.parallel.engines import DATA_PARALLEL, ENGINES, Servers, pipe_of_facts
from tests.parallel.stacks import prompts
from tests.tiny_servers.instances import Fleet, Serving
from tests.tiny_servers.on_cpus import EXPERTS
from tests.unit.proxy.conftest import RunningProxy, running_proxy

SERVED = models.BY_NAME["deepseek-v3"]
VARIABLES = {"MAX_MODEL_LEN": str(MAX_MODEL_LEN), "MAX_NUM_BATCHED_TOKENS": str(SERVED.step_tokens)}
LENGTHS = (1, 15, 16, 17, 100, 300, 513, 700)


@pytest.fixture(scope="module")
def servers(fleet: Fleet, models_folder: Path) -> Iterator[Servers]:
    """The internal way on both sides, on one with expert parallelism, and one engine without any of it."""

    def serving(more: str = "", variables: Mapping[str, str] = VARIABLES) -> Serving:
        arguments = f"{SERVED.arguments} --max-num-seqs 16 {more}"
        return Serving(models_folder / SERVED.name, SERVED.block_size, SERVED.dtype, arguments, variables)

    several = f"{DATA_PARALLEL} {EXPERTS}"
    found = Servers(
        producer=fleet.start("prefill", serving(f"{several} --enable-expert-parallel")),
        consumer=fleet.start("decode", serving(several, VARIABLES | pipe_of_facts(models_folder / "facts-of-experts"))),
        plain=fleet.start("aggregated", serving()),
    )
    fleet.wait()
    yield found
    fleet.stop_all()


@pytest.fixture
async def proxy(servers: Servers) -> AsyncIterator[RunningProxy]:
    async with running_proxy(servers.view) as started:
        yield started


async def test_engines_in_step_answer_as_one(servers: Servers, proxy: RunningProxy) -> None:
    """All at once, of every length; those that wait for a cache compute along with the others."""
    for name in ("at once", "again"):
        told = await engines.facts_of_same_answers(servers, proxy, prompts(name, *LENGTHS))
        assert {engine for each in told for engine in each.engines} == {
            *engines.names_of(servers.producer),
            *engines.names_of(servers.consumer),
        }


async def test_an_engine_computes_beside_one_that_has_nothing_to_do(servers: Servers, proxy: RunningProxy) -> None:
    """Which takes part with steps of no request, and moves nothing."""
    (asked,) = prompts("alone", 300)
    before = engines.by_engine(servers.producer, "pd_kv_sent_bytes_total")
    (told,) = await engines.facts_of_same_answers(servers, proxy, [asked])
    after = engines.by_engine(servers.producer, "pd_kv_sent_bytes_total")
    moved = [now - then for now, then in zip(after, before, strict=True)]
    busy = engines.names_of(servers.producer).index(told.engines[0])
    assert moved[busy] == int(told.headers["X-PD-Kv-Bytes"]) > 0
    assert moved[ENGINES - 1 - busy] == 0
