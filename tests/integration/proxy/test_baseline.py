"""The baseline as a user starts it: two aggregated servers behind the proxy answer as one plain server does.

The order matters: the last test kills a server.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest

from tests.integration.answers import Tokens, assert_same_answers
from tests.integration.proxy.answers import ask_both, differences
from tests.integration.proxy.bad_day_stack import HttpAnswer, Proxy
from tests.real_stack import BLOCK_TOKENS, CHUNK_TOKENS, MODEL, START_LIMIT_S, PlainVllm, RealStack, metrics, running

BLOCKS = 10


class BaselineStack(RealStack):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.variables |= {
            "COMPOSE_FILE": "compose.yaml:compose.baseline.yaml",
            "STACK_SERVICES": "etcd,prefill,decode,proxy",
        }


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaselineStack]:
    with running(BaselineStack(tmp_path_factory.mktemp("baseline"))) as started:
        yield started


@pytest.fixture
async def proxy(baseline: BaselineStack) -> AsyncIterator[Proxy]:
    async with Proxy.at(baseline.api_url) as own:
        yield own


def completion(prompt: Tokens, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 8, "ignore_eos": True, **more}


def cached_tokens(answer: HttpAnswer) -> int:
    assert answer.status == 200, answer.raw
    return int(answer.body["usage"]["prompt_tokens_details"]["cached_tokens"])


async def instances(proxy: Proxy) -> list[dict[str, Any]]:
    return list((await proxy.get("/instances")).body["instances"])


async def test_both_are_aggregated_and_that_is_all_there_is(proxy: Proxy) -> None:
    async with asyncio.timeout(START_LIMIT_S):
        while len(found := await instances(proxy)) < 2:  # noqa: ASYNC110  the stack is ready with the first
            await asyncio.sleep(0.2)
    assert [each["role"] for each in found] == ["aggregated"] * 2
    assert len({each["fingerprint"] for each in found}) == 1
    assert (await proxy.get("/ready")).status == 200


async def test_answers_are_a_plain_servers_and_both_servers_give_them(
    baseline: BaselineStack, plain: PlainVllm
) -> None:
    lengths = (40, 2 * CHUNK_TOKENS + 7, 200)  # the second is more than a step may compute: it takes chunked prefill
    starts = range(0, 3000, 1000)
    prompts = [baseline.english[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    await assert_same_answers(baseline, plain, prompts, at_once=2)
    for url in (baseline.prefill_url, baseline.decode_url):
        assert metrics(url)["vllm:prompt_tokens_total"] > 0


@pytest.mark.parametrize(
    "more",
    [{}, {"stream": True, "stream_options": {"include_usage": True}}, {"n": 2, "seed": 7, "temperature": 1}],
    ids=["whole", "stream", "n"],
)
async def test_text_and_usage_are_a_plain_servers(
    baseline: BaselineStack, plain: PlainVllm, more: dict[str, Any]
) -> None:
    start = 5000 + 500 * len(more)  # a beginning that neither server has seen
    body = completion(baseline.english[start : start + 100], **more)
    found, expected = await ask_both(baseline.api_url, plain.url, "/v1/completions", body)
    assert (found.status, differences(found.content, expected.content)) == (200, [])
    assert (found.headers["X-PD-Path"], found.headers["X-PD-Reason"]) == ("local", "aggregated")


async def test_a_prompt_returns_to_the_server_that_has_its_prefix(baseline: BaselineStack, proxy: Proxy) -> None:
    one, other = (baseline.english[start : start + BLOCKS * BLOCK_TOKENS + 1] for start in (10_000, 20_000))
    seen = []
    for prompt in (one, other, one, other, other, one):
        answer = await proxy.post(completion(prompt))
        seen.append((answer.headers["X-PD-Consumer"], cached_tokens(answer)))
    (first, _), (second, _), *later = seen
    assert first != second
    held = BLOCKS * BLOCK_TOKENS
    assert later == [(first, held), (second, held), (second, held), (first, held)]


async def test_when_one_is_killed_the_other_goes_on(baseline: BaselineStack, proxy: Proxy) -> None:
    killed = baseline.vllm_server("decode")
    (name,) = [each["instance_id"] for each in await instances(proxy) if each["url"] == baseline.decode_url]
    bodies = [completion(baseline.english[start : start + 100], max_tokens=2000) for start in (30_000, 31_000)]
    async with proxy.stream(bodies[0]) as one, proxy.stream(bodies[1]) as other:
        streams = {stream.headers["X-PD-Consumer"]: stream for stream in (one, other)}
        broken = streams.pop(name)
        (whole,) = streams.values()
        killed.kill()
        psutil.wait_procs([killed], timeout=30)
        assert f"The aggregated instance {name} broke the connection off".encode() in await broken.read()
        await whole.content.readuntil(b"\n\n")
    for start in (40_000, 41_000, 42_000, 43_000):
        answer = await proxy.post(completion(baseline.english[start : start + 50]))
        assert (answer.status, answer.headers["X-PD-Reason"]) == (200, "aggregated")
        assert answer.headers["X-PD-Consumer"] != name
    assert (await proxy.get("/ready")).status == 200
