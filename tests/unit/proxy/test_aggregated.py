"""Instances that serve whole requests: which one, when they are taken beside pairs, and what is said of it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from proxy.dispatch import SPLIT_ALL, Demand, Load, Policy, choose
from proxy.errors import NoInstance
from proxy.prefix_cache import PrefixCache
from proxy.prompt import Block, Prompt
from stack.instances import Instance
from tests.unit.proxy.conftest import StartStack, without_comment
from tests.unit.proxy.scripted import DONE, MODEL, breaks, error, instance, prefilled, replies, streams, token

A0, A1 = (instance("aggregated", name, kv_transfer={}) for name in ("a0", "a1"))
P0, D0 = instance("prefill", "p0"), instance("decode", "d0")
OTHER_D = instance("decode", "d1", fingerprint="other")

BLOCKS: list[Block] = [bytes([number]) for number in range(10)]
PROMPT = Prompt(tokens=1000, blocks=BLOCKS, block_tokens=100.0)
STREAM = {"model": MODEL, "prompt": "San Francisco is a", "stream": True}
WHOLE = {"model": MODEL, "prompt": "San Francisco is a"}


def holding(blocks: int) -> PrefixCache:
    cache = PrefixCache(len(BLOCKS))
    cache.insert(BLOCKS[:blocks])
    return cache


@dataclass(frozen=True)
class Affinity:
    """held: blocks of the prompt by instance; prefill_tokens: what the chosen one has to compute of it."""

    name: str
    chosen: str
    prefill_tokens: int
    held: dict[str, int] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)


AFFINITIES = [
    Affinity("none holds anything: by name", "a0", 1000),
    Affinity("equally loaded: in turn", "a1", 1000, {}, {"a0": Load(1, 5, 10), "a1": Load(1, 4, 10)}),
    Affinity("fewer tokens, not fewer requests", "a1", 1000, {}, {"a0": Load(1, 1, 900), "a1": Load(3, 2, 300)}),
    Affinity("where the prefix is", "a1", 200, {"a1": 8}),
    Affinity("where more of it is", "a1", 200, {"a0": 3, "a1": 8}),
    Affinity("more in hand than what the hit saves", "a0", 1000, {"a1": 8}, {"a1": Load(1, 1, 801)}),
    Affinity(
        "all busy: a hit saves others time too", "a1", 200, {"a1": 8}, {"a0": Load(1, 1, 1), "a1": Load(1, 1, 3200)}
    ),
]


@pytest.mark.parametrize("case", AFFINITIES, ids=lambda case: case.name)
def test_a_request_goes_where_it_is_done_first(case: Affinity) -> None:
    caches = {name: holding(blocks) for name, blocks in case.held.items()}
    route = choose([A1, A0], case.loads, caches, Demand(MODEL, PROMPT, output_tokens=50), SPLIT_ALL)
    assert (route.consumer.instance_id, route.prefill_tokens) == (case.chosen, case.prefill_tokens)
    assert (route.producer, route.reason, route.decode_tokens) == (None, "aggregated", 50)


@pytest.mark.parametrize(
    ("instances", "avoid", "chosen", "reason"),
    [
        ([A0, P0, D0], set(), "d0", "disaggregated"),
        ([A0, P0, D0], {"p0"}, "a0", "aggregated"),
        ([A0, P0, D0], {"d0"}, "a0", "aggregated"),
        ([A0, P0, OTHER_D], set(), "a0", "aggregated"),
        ([A0, D0], set(), "a0", "aggregated"),
        ([A0, P0], set(), "a0", "aggregated"),
    ],
)
def test_beside_pairs_they_are_the_reserve(
    instances: list[Instance], avoid: set[str], chosen: str, reason: str
) -> None:
    loads = {"d0": Load(9, 1, 99_999)}
    for policy in (SPLIT_ALL, Policy(local_prompt_tokens=64, no_producer="local")):
        route = choose(instances, loads, {}, Demand(MODEL, PROMPT), policy, avoid)
        assert (route.consumer.instance_id, route.reason) == (chosen, reason)


@pytest.mark.parametrize(
    ("demand", "reason"),
    [(Demand(MODEL, PROMPT, splittable=False), "parameters"), (Demand(MODEL, Prompt(63)), "short_prompt")],
)
def test_what_a_consumer_serves_alone_it_serves_beside_them_too(demand: Demand, reason: str) -> None:
    policy = Policy(local_prompt_tokens=64, no_producer="refuse")
    assert choose([A0, D0], {}, {}, demand, policy).reason == reason
    assert choose([A0, P0], {}, {}, demand, policy).reason == "aggregated"


def test_none_of_them_is_left() -> None:
    with pytest.raises(NoInstance, match="No aggregated instance is available") as nobody:
        choose([A0, A1], {}, {}, Demand(MODEL), SPLIT_ALL, {"a0", "a1"})
    assert nobody.value.missing == ("aggregated",)
    with pytest.raises(NoInstance, match="No decode instance is available"):
        choose([A0, P0], {}, {}, Demand(MODEL), SPLIT_ALL, {"a0"})


async def test_the_whole_request_goes_to_one_of_them(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [streams(token(" city"), DONE)])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert without_comment(await answer.read()) == token(" city") + DONE
    told = {name: answer.headers.get(f"X-PD-{name}") for name in ("Path", "Reason", "Consumer", "Producer")}
    assert told == {"Path": "local", "Reason": "aggregated", "Consumer": "a0", "Producer": None}
    assert {part.partition(";")[0] for part in answer.headers["Server-Timing"].split(", ")} == {"queue", "first_step"}
    (received,) = stack.aggregated[0].received
    assert received.body == STREAM
    assert "X-PD-Transfer-Id" not in received.headers
    assert await stack.proxy.metric('pd_proxy_dispatched_total{path="local",reason="aggregated"}') == 1
    assert await stack.proxy.metric('pd_proxy_instances{role="aggregated"}') == 1
    assert await stack.proxy.metric('pd_proxy_outstanding_tokens{instance="a0",role="aggregated"}') == 0


async def test_the_reason_is_theirs_whatever_the_parameters(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [replies(200, {"choices": []})])
    async with stack.proxy.post("/v1/completions", json={**WHOLE, "n": 2}) as answer:
        assert (answer.status, answer.headers["X-PD-Reason"]) == (200, "aggregated")
    assert await stack.proxy.status("/tokenize", json=WHOLE) == 200


async def test_a_prompt_comes_back_to_where_its_prefix_is(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [replies(200, {"choices": []})] * 2)
    for text in ("one ", "two ", "one ", "one ", "two "):
        assert await stack.proxy.status("/v1/completions", json={**WHOLE, "prompt": text * 1000}) == 200
    prompts = [[received.body["prompt"][:3] for received in each.received] for each in stack.aggregated]
    assert prompts == [["one"] * 3, ["two"] * 2]


async def test_a_prompt_is_in_hand_until_the_first_token(start_stack: StartStack) -> None:
    begin, end = asyncio.Event(), asyncio.Event()
    stack = await start_stack([], [], [streams(begin, token(" city"), end, DONE)])
    tokens = 'pd_proxy_outstanding_tokens{instance="a0",role="aggregated"}'
    body = {**STREAM, "prompt": [1] * 1000, "max_tokens": 50}
    asked = asyncio.create_task(stack.proxy.client.post(stack.proxy.url + "/v1/completions", json=body))
    await stack.aggregated[0].arrived.wait()
    assert await stack.proxy.metric(tokens) == 1050
    begin.set()
    async with await asked as answer:
        assert await stack.proxy.metric(tokens) == 50
        end.set()
        await answer.read()
    assert await stack.proxy.metric(tokens) == 0


async def test_another_one_takes_over_before_the_first_token(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [breaks(), replies(200, {"choices": []})])
    assert await stack.proxy.status("/v1/completions", json=WHOLE) == 200
    assert await stack.proxy.metric('pd_proxy_retries_total{role="aggregated"}') == 1
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="broken_answer",role="aggregated"}') == 1


async def test_a_pair_that_fails_is_helped_out(start_stack: StartStack) -> None:
    stack = await start_stack([error(500, "broken")], [prefilled()], [replies(200, {"choices": []})])
    stack.consumers[0].script = breaks()
    async with stack.proxy.post("/v1/completions", json=WHOLE) as answer:
        assert (answer.status, answer.headers["X-PD-Reason"]) == (200, "aggregated")


async def test_a_stream_that_breaks_names_its_role(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [streams(token(" city"), end=breaks())])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert b"The aggregated instance a0 broke the connection off" in await answer.read()
    assert await stack.proxy.metric('pd_proxy_leg_failures_total{cause="broken_answer",role="aggregated"}') == 1


async def test_a_stream_that_ends_early_names_its_role(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [streams(token(" city"))])
    async with stack.proxy.post("/v1/completions", json=STREAM) as answer:
        assert b"The aggregated instance a0 ended its stream early" in await answer.read()


async def test_readiness_over_a_socket(start_stack: StartStack) -> None:
    stack = await start_stack([], [], [prefilled()])
    async with stack.proxy.client.get(stack.proxy.url + "/ready") as answer:
        assert (answer.status, (await answer.json())["missing"]) == (200, [])
