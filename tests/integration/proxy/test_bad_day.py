"""What a bad day looks like to a client: each failure on real servers, and that it leaves nothing behind on them.

The order matters: the last two tests kill servers that nobody waits for.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest

from tests import etcd_http
from tests.integration.answers import Tokens
from tests.integration.failures.failure_stack import Server
from tests.integration.failures.legs import answer, until
from tests.integration.proxy.bad_day_stack import (
    MOST_REQUESTS,
    START_S,
    BadDayStack,
    HttpAnswer,
    Proxy,
    absent,
    proxy_of,
)
from tests.real_stack import MAX_MODEL_LEN, MODEL, running, wait_until

LONG = 1000  # four chunks, seconds
RECOMPUTED = 'pd_proxy_transfers_total{result="recomputed"}'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadDayStack]:
    with running(BadDayStack(tmp_path_factory.mktemp("bad-day"))) as started:
        for server in started.servers:  # the stack is ready with its first pair
            wait_until(server.is_registered, START_S, f"{server.name} is in etcd")
        yield started


@pytest.fixture
async def proxy(stack: BadDayStack) -> AsyncIterator[Proxy]:
    """The stack's own."""
    async with Proxy.at(stack.api_url) as own:
        yield own


@pytest.fixture
def prompt(stack: BadDayStack, request: pytest.FixtureRequest) -> Callable[[int], Tokens]:
    """Of the given length, and such as no other test uses."""
    places = Random(request.node.name)

    def of_length(length: int) -> Tokens:
        start = places.randrange(len(stack.english) - length)
        return stack.english[start : start + length]

    return of_length


Prompt = Callable[[int], Tokens]


def completion(prompt: Tokens, **more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": 16,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }


@asynccontextmanager
async def nothing_left_on(*servers: Server) -> AsyncIterator[None]:
    """At the end no request is there that was not before, and every block is as free as it was."""
    before = {server: server.free_blocks() for server in servers}
    yield
    for server, free in before.items():
        await until(lambda s=server: requests(s) == 0, f"{server.name} has no request")  # type: ignore[misc]
        await until(lambda s=server, f=free: s.free_blocks() == f, f"{server.name} has {free} blocks free")  # type: ignore[misc]
        assert server.metric("pd_kv_blocks_held") == 0


def requests(server: Server) -> float:
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")


REFUSED: dict[str, tuple[str, bytes | dict[str, Any], int, str]] = {
    "no JSON": ("/v1/completions", b'{"model": ', 400, "JSON"),
    "no object": ("/v1/completions", b"[1, 2]", 400, "object"),
    "unknown model": ("/v1/completions", completion([1] * 100, model="no-such-model"), 404, "no-such-model"),
    "no prompt": ("/v1/completions", {"model": MODEL}, 400, "prompt"),
    "no messages": ("/v1/chat/completions", {"model": MODEL}, 400, "messages"),
    "prompt too long": ("/v1/completions", completion([1] * (MAX_MODEL_LEN + 1)), 400, str(MAX_MODEL_LEN)),
    "prompt too long, stream": (
        "/v1/completions",
        completion([1] * (MAX_MODEL_LEN + 1), stream=True),
        400,
        str(MAX_MODEL_LEN),
    ),
    "bad parameter": ("/v1/completions", completion([1] * 100, temperature=-1), 400, "temperature"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_request_that_cannot_work(stack: BadDayStack, proxy: Proxy, case: str) -> None:
    path, body, status, word = REFUSED[case]
    async with nothing_left_on(*stack.servers):
        refused = await proxy.post(body, path)
        assert refused.status == status, refused.raw
        assert word in refused.error["message"]


@pytest.mark.parametrize("missing", ["prefill", "decode"])
async def test_no_instance_of_a_role(stack: BadDayStack, tmp_path: Path, prompt: Prompt, missing: str) -> None:
    there = stack.producers[0] if missing == "decode" else stack.consumer
    async with nothing_left_on(there), proxy_of(tmp_path, there.record) as proxy:
        for refused in (await proxy.post(completion(prompt(100))), await proxy.get("/ready")):
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert f"No {missing} instance" in refused.raw.decode()
        assert (await proxy.get("/ready")).body["missing"] == [missing]


async def test_a_consumer_alone_where_that_is_wanted(stack: BadDayStack, tmp_path: Path, prompt: Prompt) -> None:
    tokens = prompt(100)
    async with proxy_of(tmp_path, stack.consumer.record, PROXY_NO_PRODUCER="local") as proxy:
        alone = await proxy.post(completion(tokens))
    assert alone.tokens == await answer(stack.producers[0], tokens)
    assert alone.headers["X-PD-Path"] == "local"
    assert alone.headers["X-PD-Reason"] == "no_producer"
    assert "X-PD-Producer" not in alone.headers


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_another_instance_answers(stack: BadDayStack, tmp_path: Path, prompt: Prompt, role: str) -> None:
    producer, consumer = stack.producers[0].record, stack.consumer.record
    nobody = absent("prefill", producer) if role == "prefill" else absent("decode", consumer)
    tokens = prompt(300)
    async with nothing_left_on(*stack.servers):
        async with proxy_of(tmp_path, nobody, producer, consumer) as proxy:
            found = await proxy.post(completion(tokens))
            assert await proxy.metric(f'pd_proxy_retries_total{{role="{role}"}}') == 1
        assert found.tokens == await answer(stack.producers[1], tokens)
        assert found.headers["X-PD-Producer"] == producer.instance_id
        assert found.headers["X-PD-Consumer"] == consumer.instance_id


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_no_other_instance_can_answer(stack: BadDayStack, tmp_path: Path, prompt: Prompt, role: str) -> None:
    producer, consumer = stack.producers[0], stack.consumer
    nobody = absent("prefill", producer.record) if role == "prefill" else absent("decode", consumer.record)
    there = consumer if role == "prefill" else producer
    async with nothing_left_on(there), proxy_of(tmp_path, nobody, there.record) as proxy:
        failed = await proxy.post(completion(prompt(300)))
        assert failed.status == 502, failed.raw
        assert failed.error["code"] == "instance_unreachable"
        assert nobody.instance_id in failed.error["message"]


@pytest.mark.parametrize("moment", ["prefill", "answer"])
async def test_the_client_leaves(stack: BadDayStack, proxy: Proxy, prompt: Prompt, moment: str) -> None:
    """One that waited for a stream during the prefill, one that read a stream, without a word."""
    async with nothing_left_on(*stack.servers):
        if moment == "prefill":
            request = asyncio.create_task(proxy.post(completion(prompt(LONG), stream=True)))
            await until(lambda: any(map(requests, stack.producers)), "a producer is at work")
            request.cancel()
        else:
            async with proxy.stream(completion(prompt(100), max_tokens=2500)) as response:
                await response.content.readany()  # the producer's token; the consumer may not have begun
                await until(lambda: requests(stack.consumer) > 0, "the consumer is at work")
        await until(lambda: not any(map(requests, stack.servers)), "both legs have ended")
        await until_idle(proxy)


async def until_idle(proxy: Proxy) -> None:
    while any(each["outstanding"] for each in (await proxy.get("/instances")).body["instances"]):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def test_the_kv_cache_does_not_arrive(stack: BadDayStack, proxy: Proxy, prompt: Prompt) -> None:
    tokens = prompt(300)
    failed = stack.consumer.failures()
    async with nothing_left_on(*stack.servers):
        recomputed = await proxy.metric(RECOMPUTED)
        stack.drop_writes.touch()
        try:
            found = await proxy.post(completion(tokens))
        finally:
            stack.drop_writes.unlink()
        assert found.headers["X-PD-Path"] == "disaggregated"
        assert (found.headers["X-PD-KV-Bytes"], found.headers["X-PD-KV-Tokens"]) == ("0", "0")
        assert await proxy.metric(RECOMPUTED) == recomputed + 1
        assert found.tokens == await answer(stack.consumer, tokens)
        await until(lambda: (stack.consumer.failures() - failed).total() == 1, "the failure is counted")


async def test_too_much_load(stack: BadDayStack, tmp_path: Path, prompt: Prompt) -> None:
    records = [server.record for server in stack.servers]
    limits = {"PROXY_MAX_RUNNING_REQUESTS": "1", "PROXY_MAX_QUEUED_REQUESTS": "0"}
    async with nothing_left_on(*stack.servers), proxy_of(tmp_path, *records, **limits) as proxy:
        async with proxy.stream(completion(prompt(100), max_tokens=40)) as response:
            await response.content.readany()
            refused = await proxy.post(completion(prompt(100)))
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.error["type"] == "rate_limit_error"
            assert (await response.content.read()).count(b"data: [DONE]") == 1
        assert (await proxy.post(completion(prompt(100)))).status == 200


async def test_an_instance_whose_queue_is_full(stack: BadDayStack, proxy: Proxy, prompt: Prompt) -> None:
    """vLLM's own limit (vllm-project/vllm#49445): its 503 is passed on, and when there is room again it is used at once
    (sgl-project/sglang#39464)."""
    async with nothing_left_on(*stack.servers):
        surplus = 'pd_proxy_leg_failures_total{cause="busy",role="decode"}'
        before = await proxy.metric(surplus)
        filling = [
            asyncio.create_task(proxy.post(completion(prompt(50), max_tokens=2500))) for _ in range(MOST_REQUESTS)
        ]
        await until(lambda: requests(stack.consumer) == MOST_REQUESTS, "the consumer is full")
        for _ in range(5):
            busy = await proxy.post(completion(prompt(50)))
            assert (busy.status, busy.headers["Retry-After"]) == (503, "1"), busy.raw
            assert "currently busy" in busy.error["message"]
        assert await proxy.metric(surplus) >= before + 5
        for request in filling:
            request.cancel()
        await until(lambda: requests(stack.consumer) == 0, "there is room again")
        assert (await proxy.post(completion(prompt(50)))).status == 200
        verdicts = [each["verdict"] for each in (await proxy.get("/instances")).body["instances"]]
        assert [(each["circuit"], each["failures"]) for each in verdicts] == [("closed", 0)] * len(stack.servers)


async def test_a_wiped_etcd(stack: BadDayStack, proxy: Proxy, prompt: Prompt) -> None:
    """Nobody notices: requests go on, between the same instances, before they have registered again.

    What Mooncake had written is there again too, for peers that start later.
    """
    segments = etcd_http.under(stack.etcd_url, "mooncake/")
    statuses: list[int] = []

    async def go_on() -> None:
        while True:
            statuses.append((await proxy.post(completion(prompt(100), max_tokens=1))).status)

    async def until_stale(stale: bool) -> None:
        while (await proxy.get("/instances")).body["stale"] is not stale:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async with asyncio.timeout(60), nothing_left_on(*stack.servers):
        requests = asyncio.create_task(go_on())
        etcd = psutil.Process(stack.pids["etcd"])
        await asyncio.to_thread(stack.supervisor.stop_service, "etcd")
        await until_stale(True)
        await asyncio.to_thread(etcd.wait, START_S)  # until then supervisord starts no other
        shutil.rmtree(stack.folder / "etcd")
        await asyncio.to_thread(stack.supervisor.start_service, "etcd")
        await until_stale(False)
        assert all(server.is_registered() for server in stack.servers)
        assert etcd_http.under(stack.etcd_url, "mooncake/") == segments
        requests.cancel()
        assert set(statuses) == {200}


async def test_a_producer_is_killed_in_mid_prefill(stack: BadDayStack, tmp_path: Path, prompt: Prompt) -> None:
    """Where another is known it answers instead; where none is, the client hears which instance failed."""
    victim, other, consumer = (server.record for server in stack.servers)
    tokens = prompt(LONG)
    async with (
        nothing_left_on(stack.producers[1], stack.consumer),
        proxy_of(tmp_path / "both", victim, other, consumer) as both,
        proxy_of(tmp_path / "one", victim, consumer) as one,
    ):
        saved = asyncio.create_task(both.post(completion(tokens)))
        lost = asyncio.create_task(one.post(completion(prompt(LONG))))
        await until(lambda: requests(stack.producers[0]) == 2, "both prefills have begun")
        stack.producers[0].kill()
        assert (await saved).headers["X-PD-Producer"] == other.instance_id
        assert await both.metric('pd_proxy_retries_total{role="prefill"}') == 1
        assert (await lost).status == 502
        assert victim.instance_id in (await lost).error["message"]
        assert (await saved).tokens == await answer(stack.producers[1], tokens)


async def test_the_consumer_is_killed(stack: BadDayStack, tmp_path: Path, prompt: Prompt) -> None:
    """Under a stream that has begun, which ends with an error event, and a request that waits for its KV cache."""
    producer, consumer = stack.producers[1], stack.consumer
    failed_id = consumer.record.instance_id
    async with nothing_left_on(producer), proxy_of(tmp_path, producer.record, consumer.record) as proxy:
        async with proxy.stream(completion(prompt(100), max_tokens=2500)) as response:
            begun = await response.content.readuntil(b"\n\n")
            # Twice as long: on a quiet machine LONG has been over before the producer's metrics showed it.
            waiting = asyncio.create_task(proxy.post(completion(prompt(2 * LONG))))
            await until(lambda: requests(producer) == 1, "the prefill has begun")
            consumer.kill()
            events = (begun + await response.content.read()).split(b"\n\n")
        assert all(event.startswith((b"data: ", b":")) for event in events[:-1]), "only whole events"
        assert events[-1] == b""
        error = json.loads(events[-2].removeprefix(b"data: "))["error"]
        assert failed_id in error["message"]
        assert error["code"] == "answer_broken"
        refused: HttpAnswer = await waiting
        assert refused.status == 502
        assert failed_id in refused.error["message"]
