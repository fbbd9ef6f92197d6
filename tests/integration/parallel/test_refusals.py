"""What cannot be moved is refused, with the reason: at the start, or when instances of different caches are paired."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from tests.real_stack import START_LIMIT_S, wait_until
from tests.tiny_models import END_OF_TEXT, TinyModel
from tests.tiny_servers.instances import (
    BLOCK_TOKENS,
    FP8_CACHES,
    Fleet,
    Server,
    Serving,
    answers_by_transfer,
    answers_of,
    token_ids,
)

IDLE_LIMIT_S = 30


@pytest.mark.parametrize(
    ("model", "arguments", "variables", "reason"),
    [
        pytest.param(
            tiny_models.grouped_query(2),
            "--pipeline-parallel-size 2 --distributed-executor-backend mp",
            {},
            "pipeline_parallel_size=2: expected 1, which peers are told: set PIPELINE_PARALLEL_SIZE=2 ",
            id="a pipeline that peers are not told of",
        ),
        pytest.param(
            tiny_models.grouped_query(4),
            """--speculative-config '{"method": "ngram", "num_speculative_tokens": 2}'""",
            {"PIPELINE_PARALLEL_SIZE": "2"},
            "pipeline_parallel_size=2 together with speculative decoding: KV transfer supports only one of them",
            id="a pipeline that speculates",
        ),
        pytest.param(
            tiny_models.latent(),
            "--data-parallel-size 2 --attention-backend CPU_MLA --block-size 16",
            {},
            "data_parallel_size=2: vLLM cannot exchange experts' tokens between engines on a CPU",
            id="data parallelism of a model with experts",
        ),
    ],
)
def test_at_the_start(
    fleet: Fleet, folder: Path, model: TinyModel, arguments: str, variables: dict[str, str], reason: str
) -> None:
    serving = Serving(model.write(folder / "refused"), arguments=arguments, variables=variables)
    server = fleet.start("prefill", serving)
    wait_until(lambda: server.has_ended, START_LIMIT_S, "the server ends")
    fleet.stop_all()
    assert f"ValueError: {reason}" in server.log


MODEL = tiny_models.grouped_query(2)
E4M3, E5M2 = "--kv-cache-dtype fp8_e4m3", "--kv-cache-dtype fp8_e5m2"  # bytes either way
ARGUMENTS = E4M3 if FP8_CACHES else ""
Other = tuple[TinyModel, dict[str, Any]]
OTHERS: dict[str, Other] = {
    "model": (tiny_models.grouped_query(1), {}),
    "block size": (MODEL, {"block_size": 2 * BLOCK_TOKENS}),
    "type": (MODEL, {"dtype": "bfloat16"}),
}
if FP8_CACHES:
    OTHERS["type of the cache"] = (MODEL, {"arguments": E5M2})


@pytest.fixture(scope="module")
def servers(fleet: Fleet, folder: Path) -> Iterator[dict[str, Server]]:
    """A consumer, and by the one thing in which they differ from it, producers."""
    consumer = Serving(MODEL.write(folder / "consumer"), arguments=ARGUMENTS)
    found = {"consumer": fleet.start("decode", consumer)}
    for difference, (model, other) in OTHERS.items():
        serving = replace(consumer, model=model.write(folder / difference), **other)
        found[difference] = fleet.start("prefill", serving)
    fleet.wait()
    yield found
    fleet.stop_all()


@pytest.mark.parametrize("difference", OTHERS)
async def test_at_the_pairing(servers: dict[str, Server], difference: str) -> None:
    """The consumer computes the prompt itself, and both say why."""
    producer, consumer = servers[difference], servers["consumer"]
    numbers = random.Random(difference)
    prompts = [[numbers.randrange(END_OF_TEXT) for _ in range(100)]]
    expected = await answers_of(consumer, prompts)
    (answer,) = await answers_by_transfer(producer, consumer, prompts)
    assert [token_ids(answer)] == expected
    assert answer["kv_transfer_params"] is None  # there are facts only of a cache that came
    for server, peer in ((producer, consumer), (consumer, producer)):
        assert any("wrong layout" in line and peer.address in line for line in server.log.splitlines()), server.log
    # The producer's blocks wait for a consumer that fits, for TRANSFER_PATIENCE_S.
    wait_until(consumer.is_idle, IDLE_LIMIT_S, "the consumer holds no block")
