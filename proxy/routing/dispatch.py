"""Which instances serve a request, and on which path. Pure functions over what is known at that moment.

A producer and a consumer form a pair when both serve the model and their fingerprints (model, weights, cache dtype,
block layout) are equal; for an adapter, when its weights are equal too.

The consumer is the one with the least outstanding tokens, prompts and expected outputs: they are the KV cache that its
steps read, and the longer they are the longer is each step.

The producer is the one with the least prefill tokens: those in its queue and those of this prompt that it does not
hold. So a prompt goes where its prefix is, and yields to another producer when the queue there is longer than what the
hit saves; that one computes the prefix, and holds it from then on too. While a producer is idle its work costs nobody
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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from proxy.errors import ModelNotFound, NoInstance
from proxy.request.prompt import EMPTY, Prompt
from proxy.routing.alone import Costs
from proxy.routing.prefill_order import PrefillOrder
from proxy.routing.prefix_cache import PrefixCache
from stack.instances.record import Instance, Role

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

PAIR: tuple[Role, ...] = ("prefill", "decode")


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
    serving = [instance for instance in instances if demand.model in instance.served_models]
    if instances and not serving:
        raise ModelNotFound(demand.model)
    usable = [instance for instance in serving if instance.instance_id not in avoid]
    consumers = sorted(of_role(usable, "decode"), key=lambda consumer: _rank(consumer, loads))
    decode_tokens = demand.prompt.tokens + demand.output_tokens
    if not demand.splittable and consumers:
        return Route(consumers[0], None, "parameters", 0, decode_tokens)
    for consumer in consumers:
        producers = [each for each in of_role(usable, "prefill") if mismatch(each, consumer, demand.model) is None]
        pair: Route | None = None
        known = [each for each in producers if demand.takes_rank or each.pin is None]
        if known:
            producer, missing = _first_to_prefill(known, loads, caches, demand, policy)
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
    if aggregated := of_role(usable, "aggregated"):
        chosen, missing = _first_to_prefill(aggregated, loads, caches, demand, policy)
        return Route(chosen, None, "aggregated", missing, demand.output_tokens)
    if consumers and policy.no_producer == "local":
        return Route(consumers[0], None, "no_producer", 0, decode_tokens)
    if serving and len(of_role(serving, "aggregated")) == len(serving):
        raise NoInstance(("aggregated",), "No aggregated instance is available.")
    if lacking := tuple(role for role in PAIR if of_role(instances, role) and not of_role(serving, role)):
        others = ", ".join(sorted(instance.instance_id for instance in serving))
        raise NoInstance(
            lacking, f"No {' and no '.join(lacking)} instance serves `{demand.model}`, which {others} does."
        )
    raise no_pair(usable, demand.model)


def no_pair(instances: Sequence[Instance], model: str | None = None) -> NoInstance:
    """Why `instances`, of which none form a pair and none is aggregated, cannot serve."""
    missing = tuple(role for role in PAIR if not of_role(instances, role))
    if missing:
        return NoInstance(missing, f"No {' and no '.join(missing)} instance is available.")
    reason = mismatch(of_role(instances, "prefill")[0], of_role(instances, "decode")[0], model)
    return NoInstance(
        PAIR, f"No prefill and decode instance fit together: {reason or 'they serve no model in common'}."
    )


def of_role(instances: Sequence[Instance], role: Role) -> list[Instance]:
    return [instance for instance in instances if instance.role == role]


def mismatch(producer: Instance, consumer: Instance, model: str | None = None) -> str | None:
    """Why these two cannot exchange KV blocks, of `model` if that is an adapter, or None when they can."""
    both = f"({producer.instance_id}, {consumer.instance_id})"
    if producer.fingerprint == consumer.fingerprint:
        ours, theirs = _adapter(producer, model), _adapter(consumer, model)
        return None if ours == theirs else f"different weights of the adapter `{model}`: {ours} and {theirs} {both}"
    differing = _differing(producer.pairing, consumer.pairing)
    if not differing:
        compared = ("model", "dtype", "block_size", "vllm_version", "connector_version")
        differing = _differing(*({name: getattr(each, name) for name in compared} for each in (producer, consumer)))
    return f"different {', '.join(differing) or 'fingerprints'} {both}"


def _adapter(instance: Instance, name: str | None) -> str | None:
    """What its weights are told apart by; None for what is no adapter there."""
    return next((adapter.identity for adapter in instance.adapters if adapter.id == name), None)


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [f"{name} {one.get(name)!r} and {other.get(name)!r}" for name in names]


def _first_to_prefill(
    instances: Sequence[Instance],
    loads: Mapping[str, Load],
    caches: Mapping[str, PrefixCache],
    demand: Demand,
    policy: Policy,
) -> tuple[Instance, int]:
    """The one of `instances` that would be done with the prompt first, and the tokens of it that it has to compute."""
    missing = {each.instance_id: _missing(demand.prompt, each, caches) for each in instances}
    weight = policy.busy_miss_weight if all(_is_busy(each, loads) for each in instances) else 1
    first = min(instances, key=lambda each: _rank(each, loads, weight * missing[each.instance_id]))
    return first, missing[first.instance_id]


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


def _is_busy(instance: Instance, loads: Mapping[str, Load]) -> bool:
    return loads.get(instance.instance_id, IDLE).outstanding > 0


def _rank(instance: Instance, loads: Mapping[str, Load], more_tokens: int = 0) -> tuple[int, int, int, str]:
    load = loads.get(instance.instance_id, IDLE)
    return load.tokens + more_tokens, load.outstanding, load.last_used, instance.instance_id
