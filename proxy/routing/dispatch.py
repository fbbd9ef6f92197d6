"""Which instances serve a request, and on which path. Pure functions over what is known at that moment.

A producer and a consumer form a pair when both serve the model and their fingerprints (model, weights, cache dtype,
block layout) are equal; for an adapter, when its weights are equal too.

The consumer is the one with the least outstanding tokens, prompts and expected outputs: they are the KV cache that its
steps read, and the longer they are the longer is each step.

The producer is the one with the least prefill tokens: those in its queue and those of this prompt that it does not
hold; what it would load from a store that instances share counts as a load costs (`shared_store.py`). So a prompt goes
where its prefix is, and yields to another producer when the queue there is longer than what the hit saves; that one
computes the prefix, or loads it, and holds it from then on too. While a producer is idle its work costs nobody
anything: a token to compute counts as one in the queue, and the prompt is done as early as it can be. When all are
busy, what is computed a second time keeps all later prompts waiting as well, and so counts several times.

Aggregated instances, which compute prompts and answers alike, are for what no pair can take: in a fleet of them alone
for everything, beside pairs as their reserve, so that whoever set up pairs gets what pairs give. The one that would be
done first takes a request: the outstanding tokens of an aggregated instance are those of its answers, and those that it
has still to compute of prompts; what is missing of this prompt counts beside them as it does for producers. A prompt
is computed when the first token is here: to count it until the answer's end would make the mean TTFT a third longer
(docs/benchmarks/2026-11-23-aggregated.md).

Equals are taken in turn, the longest unused first, so that the same inputs always give the same route. A prompt of
which the consumer has little to compute goes to it alone where that costs less (`alone.py`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from proxy.errors import ModelNotFound, NoInstance
from proxy.request.prompt import EMPTY, Prompt
from proxy.routing.alone import Costs
from proxy.routing.pairing import PAIR, Candidates, Group, group_of, no_pair, of_role
from proxy.routing.prefill_order import PrefillOrder
from proxy.routing.prefix_cache import PrefixCache
from stack.instances.record import Instance

Reason = Literal[
    "disaggregated",
    "consumer_busy",  # the last that is with a producer
    "short_prompt",
    "prefix_on_consumer",
    "producer_busy",
    "parameters",
    "rank_not_taken",
    "no_producer",
    "aggregated",
]
NoProducer = Literal["refuse", "local"]


class Load(NamedTuple):
    """What one instance has in hand; `last_used` is the number of the dispatch that used it last.

    to_come: requests of which a consumer still waits for the KV cache, and so makes no tokens.
    """

    outstanding: int = 0
    last_used: int = 0
    tokens: int = 0
    to_come: int = 0

    @property
    def streams(self) -> int:
        """Requests for which a consumer makes tokens."""
        return self.outstanding - self.to_come


@dataclass(frozen=True)
class Demand:
    """What one request asks for. splittable: whether its parameters let two instances share it.

    takes_rank: whether vLLM sends it to the engine that it is told. Where it chooses among several by itself, no
    consumer could be told which of them computes the prompt.
    """

    model: str
    prompt: Prompt = EMPTY
    output_tokens: int = 0
    splittable: bool = True
    takes_rank: bool = True


@dataclass(frozen=True)
class Policy:
    """local_prompt_tokens: a consumer that has fewer to compute gets the request alone if it costs less, 0: never.

    no_producer: what becomes of a prompt that needs a producer when there is none.
    busy_miss_weight: how often a token to compute counts when no producer is idle. Where producers can bear the load
    only with their hits, 4 cuts the waiting to a quarter; more gains less, and lets the queues of hot prefixes grow
    (docs/benchmarks/2026-11-22-dispatch.md).
    """

    local_prompt_tokens: int
    no_producer: NoProducer
    busy_miss_weight: int = 4


@dataclass(frozen=True, slots=True)
class Route:
    """consumer: the instance whose answer is the client's; an aggregated one is its own producer.

    producer: None when the consumer computes the prompt itself, for the reason given.
    prefill_tokens, decode_tokens: what the request adds to the producer's and to the consumer's outstanding tokens; to
    an aggregated instance's both, the first until the prompt is computed.
    """

    consumer: Instance
    producer: Instance | None
    reason: Reason
    prefill_tokens: int
    decode_tokens: int


IDLE = Load()
SPLIT_ALL = Policy(local_prompt_tokens=0, no_producer="refuse")


def choose(
    instances: Sequence[Instance],
    loads: Mapping[str, Load],
    caches: Mapping[str, PrefixCache],
    demand: Demand,
    policy: Policy,
    avoid: Collection[str] = frozenset(),
    orders: Mapping[str, PrefillOrder] = MappingProxyType({}),
) -> Route:
    """The route for one request.

    Args: loads: by instance id, absent means idle; caches: by instance id, absent means that it holds nothing;
    avoid: instance ids that have just failed this request, or are not to be used for another reason; orders: of
    producers by instance id, absent means that nothing waits there.
    Raises: ModelNotFound: instances are known and none serves the model; NoInstance: none that can take the request.
    """
    return choose_among(Candidates(instances, demand.model), loads, caches, demand, policy, avoid, orders)


def choose_among(
    candidates: Candidates,
    loads: Mapping[str, Load],
    caches: Mapping[str, PrefixCache],
    demand: Demand,
    policy: Policy,
    avoid: Collection[str] = frozenset(),
    orders: Mapping[str, PrefillOrder] = MappingProxyType({}),
) -> Route:
    """As `choose`; the candidates are those of the demand's model."""
    if not candidates.serving and candidates.instances:
        raise ModelNotFound(demand.model)
    left = candidates.without(avoid) if avoid else candidates
    decode_tokens = demand.prompt.tokens + demand.output_tokens
    for consumer in _in_order(left.consumers, loads):
        if not demand.splittable:
            return Route(consumer, None, "parameters", 0, decode_tokens)
        producers = left.producers_for(consumer)
        pair: Route | None = None
        known = producers if demand.takes_rank else group_of(each for each in producers.instances if each.pin is None)
        if known:
            producer, missing = _first_to_prefill(known, loads, caches, demand.prompt, policy)
            pair = Route(consumer, producer, "disaggregated", missing, decode_tokens)
        tokens = _missing(demand.prompt, consumer, caches)
        if tokens < policy.local_prompt_tokens:
            reason: Reason = (
                "short_prompt" if demand.prompt.tokens < policy.local_prompt_tokens else "prefix_on_consumer"
            )
            alone = Route(consumer, None, reason, 0, decode_tokens)
            return alone if pair is None else _cheaper(alone, pair, tokens, loads, orders, policy)
        if pair is not None:
            return pair
        if producers:
            return Route(consumer, None, "rank_not_taken", 0, decode_tokens)
    if left.aggregated:
        chosen, missing = _first_to_prefill(left.aggregated, loads, caches, demand.prompt, policy)
        return Route(chosen, None, "aggregated", missing, demand.output_tokens)
    if left.consumers and policy.no_producer == "local":
        return Route(_least_loaded(left.consumers, loads), None, "no_producer", 0, decode_tokens)
    raise _nobody(left, demand.model)


def _nobody(candidates: Candidates, model: str) -> NoInstance:
    instances, serving = candidates.instances, candidates.serving
    if serving and len(of_role(serving, "aggregated")) == len(serving):
        return NoInstance(("aggregated",), "No aggregated instance is available.")
    if lacking := tuple(role for role in PAIR if of_role(instances, role) and not of_role(serving, role)):
        others = ", ".join(sorted(instance.instance_id for instance in serving))
        return NoInstance(lacking, f"No {' and no '.join(lacking)} instance serves `{model}`, which {others} does.")
    return no_pair(candidates.usable, model)


def _first_to_prefill(
    group: Group,
    loads: Mapping[str, Load],
    caches: Mapping[str, PrefixCache],
    prompt: Prompt,
    policy: Policy,
) -> tuple[Instance, int]:
    """The one of `group` that would be done with the prompt first, and the tokens of it that it has to compute."""
    missing = _missing_of_each(prompt, group.names, caches)
    if len(missing) == 1:
        return group.instances[0], missing[0]
    in_hand = [loads.get(name, IDLE) for name in group.names]
    weight = policy.busy_miss_weight if all(load.outstanding for load in in_hand) else 1
    costs = [load.tokens + weight * tokens for load, tokens in zip(in_hand, missing, strict=True)]
    first = _first_of(costs, group.names, loads)
    return group.instances[first], missing[first]


def _missing_of_each(prompt: Prompt, names: Sequence[str], caches: Mapping[str, PrefixCache]) -> list[int]:
    """Tokens of the prompt that each has to compute. Most hold nothing of it, which its first block tells."""
    whole = prompt.missing(0)
    if not prompt.blocks:
        return [whole] * len(names)
    first = prompt.blocks[0]
    return [
        cache.missing(prompt)
        if (cache := caches.get(name)) is not None and (first in cache.held or cache.store is not None)
        else whole
        for name in names
    ]


def _in_order(consumers: Group, loads: Mapping[str, Load]) -> Iterator[Instance]:
    """The least loaded first. Nearly always that one takes the request: the others are not sorted before."""
    if not consumers:
        return
    yield _least_loaded(consumers, loads)
    yield from sorted(consumers.instances, key=lambda consumer: _rank(consumer.instance_id, loads))[1:]


def _least_loaded(group: Group, loads: Mapping[str, Load]) -> Instance:
    if len(group.names) == 1:
        return group.instances[0]
    return group.instances[_first_of([loads.get(name, IDLE).tokens for name in group.names], group.names, loads)]


def _first_of(costs: Sequence[int], names: Sequence[str], loads: Mapping[str, Load]) -> int:
    """The place of the least cost; of equals in turn."""
    least = min(costs)
    first = costs.index(least)
    if costs.count(least) == 1:
        return first
    equals = [
        (loads.get(name, IDLE), name, place)
        for place, (name, cost) in enumerate(zip(names, costs, strict=True))
        if cost == least
    ]
    return min([(load.outstanding, load.last_used, name, place) for load, name, place in equals])[-1]


def _cheaper(
    alone: Route,
    pair: Route,
    tokens: int,
    loads: Mapping[str, Load],
    orders: Mapping[str, PrefillOrder],
    policy: Policy,
) -> Route:
    """The way that costs less now, of a prompt of which the consumer has `tokens` to compute."""
    streams = loads.get(alone.consumer.instance_id, IDLE).streams
    order = orders.get(pair.producer.instance_id) if pair.producer else None
    ahead = order.ahead(pair.prefill_tokens) if order else 0
    verdict = Costs(tokens, streams, pair.prefill_tokens, ahead, policy.local_prompt_tokens).verdict
    if verdict == "consumer_busy":
        return replace(pair, reason=verdict)
    return alone if verdict == "cheaper" else replace(alone, reason=verdict)


def _missing(prompt: Prompt, instance: Instance, caches: Mapping[str, PrefixCache]) -> int:
    cache = caches.get(instance.instance_id)
    return prompt.missing(cache.matched(prompt.blocks) if cache else 0)


def _rank(name: str, loads: Mapping[str, Load]) -> tuple[int, int, int, str]:
    load = loads.get(name, IDLE)
    return load.tokens, load.outstanding, load.last_used, name
