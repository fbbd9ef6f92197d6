"""The choice of instances as `proxy.routing.dispatch` describes it, without anything that makes it fast."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from proxy.errors import ModelNotFound, NoInstance
from proxy.request.prompt import Prompt
from proxy.routing.alone import Costs
from proxy.routing.dispatch import IDLE, Demand, Load, Policy, Reason, Route
from proxy.routing.pairing import PAIR, mismatch, no_pair, of_role
from proxy.routing.prefill_order import PrefillOrder
from proxy.routing.prefix_cache import PrefixCache
from stack.instances.record import Instance


def plain_choose(
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


def _first_to_prefill(
    instances: Sequence[Instance],
    loads: Mapping[str, Load],
    caches: Mapping[str, PrefixCache],
    demand: Demand,
    policy: Policy,
) -> tuple[Instance, int]:
    """The one of `instances` that would be done with the prompt first, and the tokens of it that it has to compute."""
    missing = {each.instance_id: _cost(demand.prompt, each, caches) for each in instances}
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


def _cost(prompt: Prompt, instance: Instance, caches: Mapping[str, PrefixCache]) -> int:
    cache = caches.get(instance.instance_id)
    if cache is None or cache.store is None:
        return _missing(prompt, instance, caches)
    return cache.store.missing(prompt, cache.matched(prompt.blocks))


def _is_busy(instance: Instance, loads: Mapping[str, Load]) -> bool:
    return loads.get(instance.instance_id, IDLE).outstanding > 0


def _rank(instance: Instance, loads: Mapping[str, Load], more_tokens: int = 0) -> tuple[int, int, int, str]:
    load = loads.get(instance.instance_id, IDLE)
    return load.tokens + more_tokens, load.outstanding, load.last_used, instance.instance_id
