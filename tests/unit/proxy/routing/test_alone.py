"""Who computes a short prompt: a table of situations, and what of them reaches the route."""

from dataclasses import dataclass, field

import pytest

from proxy.request.prompt import Block, Prompt
from proxy.routing.alone import Costs, Verdict
from proxy.routing.dispatch import Demand, Load, Policy, Reason, choose
from proxy.routing.prefill_order import FACTORS, PrefillOrder
from proxy.routing.prefix_cache import PrefixCache
from stack.instances.record import Instance
from tests.unit.proxy.scripted import MODEL, instance

LIMIT = 96  # PROXY_LOCAL_PROMPT_TOKENS


@pytest.mark.parametrize(
    ("tokens", "streams", "tokens_there", "ahead", "verdict"),
    [
        (1, 0, 1, 0, "cheaper"),
        (95, 0, 95, 0, "cheaper"),
        (95, 0, 1, 0, "cheaper"),  # the producer holds nearly all of it
        (95, 1, 95, 0, "cheaper"),  # as it was measured: equal at 96 with one stream
        (96, 1, 96, 0, "consumer_busy"),
        (47, 2, 47, 0, "cheaper"),
        (48, 2, 48, 0, "consumer_busy"),
        (12, 8, 12, 0, "consumer_busy"),
        (11, 8, 11, 0, "cheaper"),
        (95, 8, 95, 0, "consumer_busy"),
        (95, 8, 95, 664, "consumer_busy"),
        (95, 8, 95, 665, "producer_busy"),
        (95, 8, 95, 8000, "producer_busy"),
        (95, 100, 95, 8000, "consumer_busy"),
        (1, 100, 1, 0, "consumer_busy"),
        (40, 1, 1, 0, "cheaper"),
        (60, 1, 1, 0, "consumer_busy"),  # nothing is left to compute there
    ],
)
def test_what_costs_less(tokens: int, streams: int, tokens_there: int, ahead: int, verdict: Verdict) -> None:
    assert Costs(tokens, streams, tokens_there, ahead, LIMIT).verdict == verdict


P0, P1 = instance("prefill", "p0"), instance("prefill", "p1")
D0, D1 = instance("decode", "d0"), instance("decode", "d1")
OTHER_P = instance("prefill", "p2", fingerprint="other")
BLOCKS: list[Block] = [bytes([number]) for number in range(10)]
SHORT, LONG = Prompt(80), Prompt(1000, BLOCKS, 95.0)  # ten blocks leave 50 of the long one


def streams(many: int, to_come: int = 0) -> Load:
    return Load(many + to_come, 1, 1000, to_come)


@dataclass(frozen=True)
class Case:
    """queue: tokens of the prompts that wait at p0, in their order; held: blocks of the prompt by instance."""

    name: str
    loads: dict[str, Load]
    reason: Reason
    producer: str | None = None
    queue: tuple[int, ...] = ()
    prompt: Prompt = SHORT
    held: dict[str, int] = field(default_factory=dict)
    instances: tuple[Instance, ...] = (P0, D0)
    limit: int = LIMIT


CASES = [
    Case("nobody streams", {}, "short_prompt"),
    Case("nobody streams, a long queue", {}, "short_prompt", queue=(8000,)),
    Case("one stream", {"d0": streams(1)}, "short_prompt"),
    Case("eight streams", {"d0": streams(8)}, "consumer_busy", "p0"),
    Case("what has not arrived does not stream", {"d0": streams(0, to_come=8)}, "short_prompt"),
    Case("eight streams, a queue", {"d0": streams(8)}, "producer_busy", queue=(8000,)),
    Case("a queue that it would overtake", {"d0": streams(8)}, "consumer_busy", "p0", queue=(40, 500, 500)),
    Case("a queue that it would not overtake", {"d0": streams(8)}, "producer_busy", queue=(40, *[79] * 8)),
    Case("another producer is idle", {"d0": streams(8), "p0": Load(1, 1, 8000)}, "consumer_busy", "p1", (8000,),
         instances=(P0, P1, D0)),
    Case("another consumer is idle", {"d0": streams(8)}, "short_prompt", instances=(P0, D0, D1)),
    Case("no producer fits", {"d0": streams(8)}, "short_prompt", instances=(OTHER_P, D0)),
    Case("no producer", {"d0": streams(8)}, "short_prompt", instances=(D0,)),
    Case("its prefix is there", {"d0": streams(1)}, "prefix_on_consumer", prompt=LONG, held={"d0": 10}),
    Case("its prefix is there, streams too", {"d0": streams(8)}, "consumer_busy", "p0", prompt=LONG,
         held={"d0": 10, "p0": 10}),
    Case("its prefix is there alone", {"d0": streams(8)}, "prefix_on_consumer", prompt=LONG, held={"d0": 10}),
    Case("a long one", {}, "disaggregated", "p0", prompt=Prompt(96)),
    Case("switched off", {}, "disaggregated", "p0", limit=0),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_where_a_short_prompt_goes(case: Case) -> None:
    order = PrefillOrder(FACTORS["shortest"])
    for tokens in case.queue:
        order.enter(tokens, 1000.0)
    caches = {name: PrefixCache(len(BLOCKS)) for name in case.held}
    for name, blocks in case.held.items():
        caches[name].insert(BLOCKS[:blocks])
    policy = Policy(case.limit, "refuse")
    route = choose(case.instances, case.loads, caches, Demand(MODEL, case.prompt), policy, frozenset(), {"p0": order})
    assert (route.reason, route.producer.instance_id if route.producer else None) == (case.reason, case.producer)
    assert route.prefill_tokens == (0 if route.producer is None else 50 if case.held else case.prompt.tokens)
