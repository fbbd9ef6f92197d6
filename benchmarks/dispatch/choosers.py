"""Who chooses: the proxy's own functions, what other routers do, and ours without one of its halves."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from planner.simulation.exchange import Choose
from planner.simulation.run import Chooser
from proxy.routing.dispatch import Demand, Route
from proxy.routing.fleet import BLOCKS_REMEMBERED, Fleet
from proxy.routing.prefix_cache import PrefixCache
from stack.instances.record import Instance

Seeded = Callable[[Fleet, int], Choose]


def ours(fleet: Fleet, seed: int) -> Choose:
    return fleet.route


def least_tokens(fleet: Fleet, seed: int) -> Choose:
    """Ours, blind to prefixes."""
    return lambda demand: fleet.route(replace(demand, prompt=replace(demand.prompt, blocks=())))


def until_the_end(fleet: Fleet, seed: int) -> Choose:
    """Ours, where an aggregated server's prompts count until their answers end."""

    def choose(demand: Demand) -> Route:
        route = fleet.route(demand)
        return replace(route, prefill_tokens=0, decode_tokens=route.prefill_tokens + route.decode_tokens)

    return choose


def cache_aware(fleet: Fleet, seed: int) -> Choose:
    """The default policy of vllm-router, with its default thresholds; its consumers are those with the fewest requests.

    A producer that holds more than 30 % of the prompt gets it, unless requests are spread unevenly (more than 64
    between the most and the fewest, and half as many again); otherwise the one with the fewest requests does.
    """
    producers, consumers = _sides(fleet)
    caches = {producer.instance_id: PrefixCache(BLOCKS_REMEMBERED) for producer in producers}
    turns = count()

    def choose(demand: Demand) -> Route:
        turn, blocks = next(turns), demand.prompt.blocks
        requests = [fleet.outstanding(producer.instance_id) for producer in producers]
        uneven = max(requests) - min(requests) > 64 and max(requests) > 1.5 * min(requests)
        best = max(producers, key=lambda each: caches[each.instance_id].matched(blocks))
        matches = caches[best.instance_id].matched(blocks) > 0.3 * len(blocks)
        producer = best if matches and not uneven else _least(fleet, producers, turn)
        caches[producer.instance_id].insert(blocks)
        return _route(demand, producer, _least(fleet, consumers, turn))

    return choose


def least_requests(fleet: Fleet, seed: int) -> Choose:
    producers, consumers = _sides(fleet)
    turns = count()

    def choose(demand: Demand) -> Route:
        turn = next(turns)
        return _route(demand, _least(fleet, producers, turn), _least(fleet, consumers, turn))

    return choose


def round_robin(fleet: Fleet, seed: int) -> Choose:
    producers, consumers = _sides(fleet)
    turns = count()

    def choose(demand: Demand) -> Route:
        turn = next(turns)
        return _route(demand, producers[turn % len(producers)], consumers[turn % len(consumers)])

    return choose


def at_random(fleet: Fleet, seed: int) -> Choose:
    producers, consumers = _sides(fleet)
    dice = random.Random(seed)
    return lambda demand: _route(demand, dice.choice(producers), dice.choice(consumers))


def with_seed(chooser: Seeded, seed: int) -> Chooser:
    return lambda fleet: chooser(fleet, seed)


CHOOSERS: dict[str, Seeded] = {
    "ours": ours,
    "least tokens": least_tokens,
    "cache aware": cache_aware,
    "least requests": least_requests,
    "round robin": round_robin,
    "random": at_random,
}
AGGREGATED_CHOOSERS: dict[str, Seeded] = {"ours": ours, "until the end": until_the_end} | CHOOSERS


def _sides(fleet: Fleet) -> tuple[list[Instance], list[Instance]]:
    """Producers and consumers; an aggregated server is both."""
    instances = fleet.view.usable
    if aggregated := [each for each in instances if each.role == "aggregated"]:
        return aggregated, aggregated
    return [each for each in instances if each.role == "prefill"], [each for each in instances if each.role == "decode"]


def _least(fleet: Fleet, instances: Sequence[Instance], turn: int) -> Instance:
    """With the fewest requests; equals take turns."""
    in_turn = [instances[(turn + number) % len(instances)] for number in range(len(instances))]
    return min(in_turn, key=lambda each: fleet.outstanding(each.instance_id))


def _route(demand: Demand, producer: Instance, consumer: Instance) -> Route:
    tokens = demand.prompt.tokens
    if producer.role == "aggregated":
        return Route(producer, None, "aggregated", tokens, demand.output_tokens)
    return Route(consumer, producer, "disaggregated", tokens, tokens + demand.output_tokens)
