"""Which instances serve a request, and why: fixed inputs, one answer."""

from dataclasses import dataclass, field

import pytest

from proxy.dispatch import SPLIT_ALL, Demand, Load, NoProducer, Policy, Reason, choose, mismatch
from proxy.errors import ModelNotFound, NoInstance
from proxy.prefix_cache import PrefixCache
from proxy.prompt import Block, Prompt
from stack.instances import Instance
from tests.unit.proxy.scripted import MODEL, instance

P0, P1 = instance("prefill", "p0"), instance("prefill", "p1")
D0, D1 = instance("decode", "d0"), instance("decode", "d1")
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


@dataclass(frozen=True)
class Affinity:
    name: str
    held: dict[str, int]
    queued: dict[str, int]
    producer: str
    prefill_tokens: int


AFFINITIES = [
    Affinity("none holds anything", {}, {}, "p0", 1000),
    Affinity("where the prefix is", {"p1": 8}, {}, "p1", 200),
    Affinity("where more of it is", {"p0": 3, "p1": 8}, {}, "p1", 200),
    Affinity("all of it: the last token is computed", {"p1": 10}, {}, "p1", 1),
    Affinity("a queue shorter than what the hit saves", {"p1": 8}, {"p1": 799}, "p1", 200),
    Affinity("a queue longer than what the hit saves", {"p1": 8}, {"p1": 801}, "p0", 1000),
    Affinity("all busy: a hit saves others time too", {"p1": 8}, {"p0": 100, "p1": 3299}, "p1", 200),
    Affinity("all busy: a queue longer than even that", {"p1": 8}, {"p0": 100, "p1": 3301}, "p0", 1000),
]


@pytest.mark.parametrize("case", AFFINITIES, ids=lambda case: case.name)
def test_a_prompt_goes_where_it_is_done_first(case: Affinity) -> None:
    loads = {name: Load(1, 1, tokens) for name, tokens in case.queued.items()}
    caches = {name: holding(blocks) for name, blocks in case.held.items()}
    route = choose([P0, P1, D0], loads, caches, Demand(MODEL, PROMPT, output_tokens=50), SPLIT_ALL)
    assert route.producer is not None
    assert (route.producer.instance_id, route.prefill_tokens) == (case.producer, case.prefill_tokens)
    assert route.decode_tokens == 1050


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
        ([P0, LORA_D], "adapter", ("prefill",), "No prefill instance is available."),
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


def test_a_mismatch_that_no_field_explains() -> None:
    assert mismatch(P0, instance("decode", "d", fingerprint="x")) == "different fingerprints (p0, d)"
