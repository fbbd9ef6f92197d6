"""The baseline with data parallelism: an aggregated server of two engines, behind the proxy."""

from collections import Counter
from collections.abc import Iterator

import pytest

from stack.instances.record import engine_id
from tests.integration.answers import greedy
from tests.integration.proxy.bad_day_stack import Proxy
from tests.parallel.stacks import TinyStack, completion, names_of, prompts, shown, until_shown
from tests.real_stack import BLOCK_TOKENS, metrics, running
from tests.tiny_servers.instances import NAME

ENGINES = 2
BLOCKS = 10


class BaselineStack(TinyStack):
    """Without a connector, and so without control ports."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.with_model()
        self.variables |= {
            "COMPOSE_FILE": "compose.yaml:compose.baseline.yaml",
            "DECODE_REPLICAS": "0",
            "VLLM_EXTRA_ARGS": f"--data-parallel-size {ENGINES}",
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaselineStack]:
    with running(BaselineStack(tmp_path_factory.mktemp("baseline"))) as started:
        started.wait_for(servers=1)
        yield started


async def test_every_engine_answers_what_is_sent_to_it(stack: BaselineStack) -> None:
    records = stack.records()
    assert [(each.role, [engine.pin for engine in each.engines]) for each in records] == [("aggregated", [0, 1])]
    asked = prompts("baseline", 100, 200, 300, 400)
    expected = await greedy(records[0].url, asked, 1, model=NAME, cache_salt="alone")

    def counted() -> dict[str, float]:
        return {
            engine_id(record.instance_id, rank): metrics(record.url, rank)["vllm:prompt_tokens_total"]
            for record in records
            for rank in range(ENGINES)
        }

    async with Proxy.at(stack.api_url) as proxy:
        await until_shown(proxy, lambda names: names == set(names_of(records)))
        assert {each["data_parallel_rank"] for each in (await shown(proxy)).values()} == set(range(ENGINES))
        before, found = counted(), []
        for prompt in asked:
            found.append(await proxy.post(completion(prompt)))
    assert [each.tokens for each in found] == expected
    sent: Counter[str] = Counter()
    for prompt, answer in zip(asked, found, strict=True):
        assert (answer.headers["X-PD-Path"], answer.headers["X-PD-Reason"]) == ("local", "aggregated")
        sent[answer.headers["X-PD-Consumer"]] += len(prompt)
    assert {name: now - before[name] for name, now in counted().items()} == sent
    assert set(sent) == set(names_of(records))


async def test_a_prompt_returns_to_the_engine_that_has_its_beginning(stack: BaselineStack) -> None:
    one, other = prompts("prefixes", *[BLOCKS * BLOCK_TOKENS + 1] * 2)
    async with Proxy.at(stack.api_url) as proxy:
        seen = []
        for prompt in (one, other, one, other, other, one):
            answer = await proxy.post(completion(prompt))
            cached = answer.body["usage"]["prompt_tokens_details"]["cached_tokens"]
            seen.append((answer.headers["X-PD-Consumer"], cached))
    (first, _), (second, _), *later = seen
    held = BLOCKS * BLOCK_TOKENS
    assert first != second
    assert later == [(first, held), (second, held), (second, held), (first, held)]
