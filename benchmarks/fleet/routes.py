"""How long the proxy takes to choose, in its own process, of fleets of several sizes under load."""

import multiprocessing
import random
import time
from collections import deque

import psutil

from benchmarks.fleet.records import fleet
from benchmarks.fleet.run import Run
from benchmarks.proxy.upstreams.answers import MODEL
from proxy.request.prompt import Prompt
from proxy.routing.dispatch import Demand, Policy, Route
from proxy.routing.fleet import BLOCKS_REMEMBERED, Fleet, View
from proxy.settings import ProxySettings

PREFIXES, PREFIX_BLOCKS, MOST_OWN_BLOCKS, BLOCK_TOKENS = 300, 200, 100, 128
REQUESTS_IN_HAND = 2  # of each instance, in the mean
POLICY = Policy(ProxySettings.model_fields["proxy_local_prompt_tokens"].default, "refuse")


def measure(run: Run) -> None:
    """Adds a row to the tables `routes` and `remembered` for each size."""
    for number in run.options.instances:
        run.deadline.left()
        run.results.add("routes", instances=number, **_routes(number, run.options.routes))
        with multiprocessing.get_context("spawn").Pool(1) as process:  # its memory is that of nothing else
            run.results.add("remembered", instances=number, rss_mb=process.apply(_remembered_mb, (number,)))
        run.results.write()
        print(f"routes: {number} instances done", flush=True)


def _routes(number: int, routes: int) -> dict[str, list[float]]:
    """Microseconds of each route, and of what is counted for it: begun, held, ended."""
    known, dice = _known(number), random.Random(number)
    prefixes = [[hash((prefix, place)) for place in range(PREFIX_BLOCKS)] for prefix in range(PREFIXES)]
    in_hand: deque[Route] = deque()
    chosen_us, counted_us = [], []
    for _ in range(routes):
        demand = _demand(dice, prefixes)
        began = time.perf_counter()
        route = known.route(demand)
        chosen = time.perf_counter()
        _begin(known, route, demand)
        in_hand.append(route)
        if len(in_hand) > REQUESTS_IN_HAND * number:
            _end(known, in_hand.popleft())
        counted_us.append(_us(time.perf_counter() - chosen))
        chosen_us.append(_us(chosen - began))
    return {"chosen_us": chosen_us, "counted_us": counted_us}


def _known(number: int) -> Fleet:
    known = Fleet(POLICY)
    known.update(View(tuple(fleet(number, 8000)), revision=1))
    return known


def _demand(dice: random.Random, prefixes: list[list[int]]) -> Demand:
    """A conversation's next prompt: it begins like others, and goes on by itself."""
    shared = dice.choice(prefixes)[: dice.randrange(PREFIX_BLOCKS)]
    blocks = shared + [dice.getrandbits(60) for _ in range(dice.randrange(1, MOST_OWN_BLOCKS))]
    return Demand(MODEL, Prompt(len(blocks) * BLOCK_TOKENS, blocks, BLOCK_TOKENS), output_tokens=256)


def _begin(known: Fleet, route: Route, demand: Demand) -> None:
    known.begin(route.consumer, route.decode_tokens)
    known.holds(route.consumer, demand.prompt)
    if route.producer is not None:
        known.begin(route.producer, route.prefill_tokens)
        known.holds(route.producer, demand.prompt)


def _end(known: Fleet, route: Route) -> None:
    known.end(route.consumer, route.decode_tokens)
    if route.producer is not None:
        known.end(route.producer, route.prefill_tokens)


def _us(seconds: float) -> float:
    return round(1e6 * seconds, 1)


def _remembered_mb(number: int) -> float:
    """What the instances and a full memory of prefixes take, in a process that has nothing else."""
    process, dice = psutil.Process(), random.Random(number)
    before = process.memory_info().rss
    known = _known(number)
    for instance in known.view.instances:
        blocks = [dice.getrandbits(60) for _ in range(BLOCKS_REMEMBERED)]
        known.holds(instance, Prompt(len(blocks) * BLOCK_TOKENS, blocks, BLOCK_TOKENS))
    return float(process.memory_info().rss - before) / 1e6
