"""Which instances serve a request, and why: fixed inputs, one answer."""

import re
from dataclasses import dataclass, field

import pytest

from proxy.errors import ModelNotFound, NoInstance
from proxy.request.prompt import Block, Prompt
from proxy.routing.dispatch import SPLIT_ALL, Demand, Load, NoProducer, Policy, Reason, choose
from proxy.routing.pairing import mismatch
from proxy.routing.prefix_cache import PrefixCache
from stack.instances.record import Adapter, Instance, Role
from tests.unit.proxy.scripted import MODEL, instance

P0, P1 = instance("prefill", "p0"), instance("prefill", "p1")
D0, D1 = instance("decode", "d0"), instance("decode", "d1")
A0, A1 = instance("aggregated", "a0"), instance("aggregated", "a1")
OTHER_P = instance("prefill", "p2", fingerprint="other", dtype="bfloat16")
OTHER_D = instance("decode", "d2", fingerprint="other", dtype="bfloat16")
LORA_D = instance("decode", "d3", served_models=(MODEL, "adapter"))


@dataclass(frozen=True)
class Case:
    name: str
    instances: list[Instance]
    pair: tuple[str, str]
    loads: dict[str, Load] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()


CASES = [
    Case("one of each", [P0, D0], ("p0", "d0")),
    Case("idle and unused: by name", [P1, P0, D1, D0], ("p0", "d0")),
    Case("fewer requests", [P0, P1, D0, D1], ("p1", "d1"), {"p0": Load(2, 1), "p1": Load(1, 9), "d0": Load(1, 2)}),
    Case(
        "fewer tokens", [P0, P1, D0, D1], ("p0", "d1"), {"p0": Load(2, 1, 10), "p1": Load(1, 9, 20), "d0": Load(1, 2)}
    ),
    Case("equally loaded: in turn", [P0, P1, D0, D1], ("p1", "d0"), {"p0": Load(1, 5), "p1": Load(1, 4)}),
    Case("avoid the failed", [P0, P1, D0], ("p1", "d0"), {"p1": Load(9, 1)}, frozenset({"p0"})),
    Case("only equal fingerprints", [P0, OTHER_D, D0], ("p0", "d0"), {"d0": Load(9, 1)}),
    Case("a consumer without a partner is passed over", [OTHER_P, D0, OTHER_D], ("p2", "d2"), {"d2": Load(9, 1)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_which_pair(case: Case) -> None:
    route = choose(case.instances, case.loads, {}, Demand(MODEL), SPLIT_ALL, case.avoid)
    assert route.producer is not None
    assert (route.producer.instance_id, route.consumer.instance_id) == case.pair


BLOCKS: list[Block] = [bytes([number]) for number in range(10)]
PROMPT = Prompt(tokens=1000, blocks=BLOCKS, block_tokens=100.0)


def holding(blocks: int) -> PrefixCache:
    cache = PrefixCache(len(BLOCKS))
    cache.insert(BLOCKS[:blocks])
    return cache


def queued(tokens: int) -> Load:
    return Load(1, 1, tokens)


@dataclass(frozen=True)
class Affinity:
    """held: blocks of the prompt by instance; prefill_tokens: what the chosen one has to compute of it."""

    name: str
    chosen: str
    prefill_tokens: int
    held: dict[str, int] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)


AFFINITIES = [
    Affinity("none holds anything: by name", "i0", 1000),
    Affinity("equally loaded: in turn", "i1", 1000, {}, {"i0": Load(1, 5, 10), "i1": Load(1, 4, 10)}),
    Affinity("fewer tokens, not fewer requests", "i1", 1000, {}, {"i0": Load(1, 1, 900), "i1": Load(3, 2, 300)}),
    Affinity("where the prefix is", "i1", 200, {"i1": 8}),
    Affinity("where more of it is", "i1", 200, {"i0": 3, "i1": 8}),
    Affinity("all of it: the last token is computed", "i1", 1, {"i1": 10}),
    Affinity("a queue shorter than what the hit saves", "i1", 200, {"i1": 8}, {"i1": queued(799)}),
    Affinity("a queue longer than what the hit saves", "i0", 1000, {"i1": 8}, {"i1": queued(801)}),
    Affinity("all busy: a hit saves others time too", "i1", 200, {"i1": 8}, {"i0": queued(100), "i1": queued(3299)}),
    Affinity("all busy: a queue longer than even that", "i0", 1000, {"i1": 8}, {"i0": queued(100), "i1": queued(3301)}),
]


@pytest.mark.parametrize("role", ["prefill", "aggregated"])
@pytest.mark.parametrize("case", AFFINITIES, ids=lambda case: case.name)
def test_a_prompt_goes_where_it_is_done_first(case: Affinity, role: Role) -> None:
    caches = {name: holding(blocks) for name, blocks in case.held.items()}
    instances = [instance(role, "i1"), instance(role, "i0"), D0]
    route = choose(instances, case.loads, caches, Demand(MODEL, PROMPT, output_tokens=50), SPLIT_ALL)
    first = route.producer or route.consumer
    assert (first.instance_id, route.prefill_tokens) == (case.chosen, case.prefill_tokens)
    assert (route.reason, route.decode_tokens) == (
        ("aggregated", 50) if first.role == "aggregated" else ("disaggregated", 1050)
    )


@dataclass(frozen=True)
class Path:
    name: str
    instances: list[Instance]
    consumer: str
    reason: Reason
    tokens: int = 1000
    held: dict[str, int] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)
    splittable: bool = True
    threshold: int = 64
    no_producer: NoProducer = "refuse"


PATHS = [
    Path("long", [P0, D0], "d0", "disaggregated"),
    Path("as long as the threshold", [P0, D0], "d0", "disaggregated", tokens=64),
    Path("short", [P0, D0], "d0", "short_prompt", tokens=63),
    Path("short, and the policy is to split all", [P0, D0], "d0", "disaggregated", tokens=1, threshold=0),
    Path("short needs no producer", [D0], "d0", "short_prompt", tokens=63),
    Path("short goes to the least loaded as well", [P0, D0, D1], "d1", "short_prompt", 63, loads={"d0": Load(1, 1, 9)}),
    Path("nearly all of it is on the consumer", [P0, D0], "d0", "prefix_on_consumer", held={"d0": 10}),
    Path("too little of it is on the consumer", [P0, D0], "d0", "disaggregated", held={"d0": 9}),
    Path("the prefix is on a busier consumer", [P0, D0, D1], "d1", "disaggregated", 1000, {"d0": 10}, {"d0": Load(1)}),
    Path("cannot be split", [P0, D0, D1], "d1", "parameters", splittable=False, loads={"d0": Load(1, 1, 9)}),
    Path("cannot be split, no producer", [D0], "d0", "parameters", splittable=False),
    Path("cannot be split, consumer without a partner", [OTHER_P, D0], "d0", "parameters", splittable=False),
    Path("no producer", [D0, D1], "d0", "no_producer", no_producer="local"),
    Path("no producer that fits", [OTHER_P, D0], "d0", "no_producer", no_producer="local"),
    Path("a producer for another consumer", [P0, OTHER_D, D0], "d0", "disaggregated", loads={"d0": Load(9)}),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_which_path(path: Path) -> None:
    prompt = Prompt(path.tokens, BLOCKS, 100.0)
    caches = {name: holding(blocks) for name, blocks in path.held.items()}
    demand = Demand(MODEL, prompt, output_tokens=50, splittable=path.splittable)
    route = choose(path.instances, path.loads, caches, demand, Policy(path.threshold, path.no_producer))
    assert (route.consumer.instance_id, route.reason) == (path.consumer, path.reason)
    assert (route.producer is not None) == (path.reason == "disaggregated")
    assert (route.prefill_tokens > 0) == (path.reason == "disaggregated")
    assert route.decode_tokens == path.tokens + 50


@pytest.mark.parametrize(
    ("instances", "model", "missing", "reason"),
    [
        ([], MODEL, ("prefill", "decode"), "No prefill and no decode instance is available."),
        ([P0], MODEL, ("decode",), "No decode instance is available."),
        ([D0], MODEL, ("prefill",), "No prefill instance is available."),
        ([P0, LORA_D], "adapter", ("prefill",), "No prefill instance serves `adapter`, which d3 does."),
        (
            [P0, OTHER_D],
            MODEL,
            ("prefill", "decode"),
            "No prefill and decode instance fit together: different dtype 'float32' and 'bfloat16' (p0, d2).",
        ),
    ],
)
def test_no_pair(instances: list[Instance], model: str, missing: tuple[str, ...], reason: str) -> None:
    with pytest.raises(NoInstance) as nobody:
        choose(instances, {}, {}, Demand(model, PROMPT), Policy(64, "refuse"))
    assert (nobody.value.missing, str(nobody.value)) == (missing, reason)


@pytest.mark.parametrize("demand", [Demand(MODEL, PROMPT), Demand(MODEL, PROMPT, splittable=False), Demand(MODEL)])
def test_nothing_goes_without_a_consumer(demand: Demand) -> None:
    with pytest.raises(NoInstance, match="No decode instance"):
        choose([P0], {}, {}, demand, Policy(64, "local"))


def test_a_model_that_no_instance_serves() -> None:
    with pytest.raises(ModelNotFound, match="`gpt-5` does not exist"):
        choose([P0, D0], {}, {}, Demand("gpt-5"), SPLIT_ALL)


ADAPTER = Adapter(id="extra", root="/a", parent=MODEL, identity="1")
OTHER_ADAPTER = ADAPTER.model_copy(update={"identity": "2"})


def adapted(role: Role, name: str, *adapters: Adapter) -> Instance:
    return instance(role, name, served_models=(MODEL, *(each.id for each in adapters)), adapters=adapters)


@pytest.mark.parametrize(
    ("instances", "missing", "reason"),
    [
        (
            [adapted("prefill", "p0"), adapted("decode", "d0", ADAPTER)],
            ("prefill",),
            "No prefill instance serves `extra`",
        ),
        (
            [adapted("prefill", "p0", ADAPTER), adapted("decode", "d0")],
            ("decode",),
            "No decode instance serves `extra`",
        ),
        (
            [adapted("prefill", "p0", ADAPTER), adapted("decode", "d0", OTHER_ADAPTER)],
            ("prefill", "decode"),
            "different weights of the adapter `extra`: 1 and 2 (p0, d0)",
        ),
    ],
)
def test_an_adapter_that_only_one_side_has(instances: list[Instance], missing: tuple[Role, ...], reason: str) -> None:
    """No pair computes with it, and the sentence names the side; a pair of the bare model they still are."""
    with pytest.raises(NoInstance, match=re.escape(reason)) as nobody:
        choose(instances, {}, {}, Demand("extra", PROMPT), SPLIT_ALL)
    assert nobody.value.missing == missing
    assert choose(instances, {}, {}, Demand(MODEL, PROMPT), SPLIT_ALL).reason == "disaggregated"


def test_an_adapter_that_the_consumer_has_is_served_by_it_alone_where_that_is_allowed() -> None:
    instances = [P0, adapted("decode", "d0", ADAPTER)]
    for policy, prompt in ((Policy(0, "local"), PROMPT), (Policy(64, "refuse"), Prompt(63))):
        route = choose(instances, {}, {}, Demand("extra", prompt), policy)
        assert (route.consumer.instance_id, route.producer) == ("d0", None)


def test_of_several_the_pair_with_equal_adapters_takes_it() -> None:
    instances = [adapted("prefill", "p0", OTHER_ADAPTER), adapted("prefill", "p1", ADAPTER), D0]
    route = choose([*instances, adapted("decode", "d1", ADAPTER)], {}, {}, Demand("extra", PROMPT), SPLIT_ALL)
    assert (route.producer, route.consumer.instance_id) == (instances[1], "d1")


def test_a_mismatch_names_the_facts_that_differ() -> None:
    facts = {"weights": "1a", "dtype": "float32"}
    ours = instance("prefill", "p", fingerprint="x", pairing=facts)
    theirs = instance("decode", "d", fingerprint="y", pairing=facts | {"weights": "2b", "--quantization": "fp8"})
    assert mismatch(ours, theirs) == "different weights '1a' and '2b', --quantization None and 'fp8' (p, d)"


def test_a_mismatch_that_no_field_explains() -> None:
    assert mismatch(P0, instance("decode", "d", fingerprint="x")) == "different fingerprints (p0, d)"


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
def test_beside_pairs_aggregated_instances_are_the_reserve(
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
def test_what_a_consumer_serves_alone_it_serves_beside_aggregated_ones_too(demand: Demand, reason: str) -> None:
    policy = Policy(local_prompt_tokens=64, no_producer="refuse")
    assert choose([A0, D0], {}, {}, demand, policy).reason == reason
    assert choose([A0, P0], {}, {}, demand, policy).reason == "aggregated"


def test_no_aggregated_instance_is_left() -> None:
    with pytest.raises(NoInstance, match="No aggregated instance is available") as nobody:
        choose([A0, A1], {}, {}, Demand(MODEL), SPLIT_ALL, {"a0", "a1"})
    assert nobody.value.missing == ("aggregated",)
    with pytest.raises(NoInstance, match="No decode instance is available"):
        choose([A0, P0], {}, {}, Demand(MODEL), SPLIT_ALL, {"a0"})
