"""Simulates the choice of instances on a trace and writes the page: python -m benchmarks.dispatch --trace PATH"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from benchmarks.dispatch import page
from benchmarks.dispatch.choosers import AGGREGATED_CHOOSERS, CHOOSERS, with_seed
from benchmarks.dispatch.fleets import Hardware, aggregated, pairs, run
from benchmarks.dispatch.shared_prefixes import shared_prefixes
from benchmarks.option_types import count, counts
from planner.simulation.run import ours
from planner.trace import Arrival, UnreadableTrace, read_trace
from proxy.routing.dispatch import SPLIT_ALL

WEIGHTS = (1, 2, 4, 8, 16)
REMEMBERED = (4096, 8192, 16384, 32768, 131072)
# 40 shared prefixes of which a producer's cache holds all, and as many requests as producers bear only with their hits.
PREFIXES, SHARED_REQUESTS, REQUESTS_PER_PRODUCER_S = 40, 3000, 7.5
SHARED_HARDWARE = Hardware(prefill_rate=10_000, cache_tokens=500_000)


def main() -> int:
    options = _parser().parse_args()
    try:
        arrivals = read_trace(options.trace, options.requests)
    except UnreadableTrace as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    words = ["TRACE" if word == str(options.trace) else word for word in sys.argv[1:]]
    command = shlex.join(["python", "-m", "benchmarks.dispatch", *words])
    options.out.mkdir(parents=True, exist_ok=True)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    if options.aggregated is None:
        file, explanation = options.out / f"{today}-dispatch.md", page.EXPLANATION
        sections = list(_sections(options, arrivals))
    else:
        file, explanation = options.out / f"{today}-aggregated.md", page.AGGREGATED_EXPLANATION
        sections = list(_sections_of_aggregated(options, arrivals))
    file.write_text(page.render(command, page.about(arrivals), sections, explanation))
    print(f"results: {file}")
    return 0


def _sections(options: argparse.Namespace, arrivals: Sequence[Arrival]) -> Iterator[page.Section]:
    everything = [Hardware(rate, cache) for cache, rate in product(options.cache_tokens, options.prefill_rates)]
    # What follows from the policy's own numbers shows best where producers are busy nearly all the time.
    busiest = [Hardware(options.prefill_rates[0], cache) for cache in options.cache_tokens]
    requests_per_s = REQUESTS_PER_PRODUCER_S * options.producers
    shared = shared_prefixes(SHARED_REQUESTS, requests_per_s, PREFIXES, options.seed)
    yield "Who chooses: the trace", "chosen by", _by_chooser(options, arrivals, everything)
    yield "Who chooses: a few prefixes that all share", "chosen by", _by_chooser(options, shared, [SHARED_HARDWARE])
    yield "`busy_miss_weight`: the trace", "weight", _by_weight(options, arrivals, busiest)
    yield "`busy_miss_weight`: shared prefixes", "weight", _by_weight(options, shared, [SHARED_HARDWARE])
    yield "Blocks remembered of each instance: the trace", "blocks", _by_memory(options, arrivals, busiest)


def _sections_of_aggregated(options: argparse.Namespace, arrivals: Sequence[Arrival]) -> Iterator[page.Section]:
    everything = [Hardware(rate, cache) for cache, rate in product(options.cache_tokens, options.prefill_rates)]
    shared = shared_prefixes(SHARED_REQUESTS, REQUESTS_PER_PRODUCER_S * options.aggregated, PREFIXES, options.seed)
    for title, traffic, hardware in (
        ("the trace", arrivals, everything),
        ("a few prefixes that all share", shared, [SHARED_HARDWARE]),
    ):
        rows = []
        for each, (name, chooser) in product(hardware, AGGREGATED_CHOOSERS.items()):
            outcome = run(traffic, aggregated(each, options.aggregated), with_seed(chooser, options.seed))
            rows.append([name, *page.row(each, traffic, outcome)])
        yield f"Who chooses: {title}", "chosen by", rows
        rows = []
        for each, weight in product(hardware[:1], WEIGHTS):
            policy = replace(SPLIT_ALL, busy_miss_weight=weight)
            outcome = run(traffic, aggregated(each, options.aggregated, policy), ours)
            rows.append([str(weight), *page.row(each, traffic, outcome)])
        yield f"`busy_miss_weight`: {title}", "weight", rows


def _by_chooser(
    options: argparse.Namespace, arrivals: Sequence[Arrival], hardware: Sequence[Hardware]
) -> list[list[str]]:
    rows = []
    for each, (name, chooser) in product(hardware, CHOOSERS.items()):
        fleet = pairs(each, options.producers, options.consumers)
        rows.append([name, *page.row(each, arrivals, run(arrivals, fleet, with_seed(chooser, options.seed)))])
    return rows


def _by_weight(
    options: argparse.Namespace, arrivals: Sequence[Arrival], hardware: Sequence[Hardware]
) -> list[list[str]]:
    rows = []
    for each, weight in product(hardware, WEIGHTS):
        fleet = pairs(each, options.producers, options.consumers, replace(SPLIT_ALL, busy_miss_weight=weight))
        rows.append([str(weight), *page.row(each, arrivals, run(arrivals, fleet, ours))])
    return rows


def _by_memory(
    options: argparse.Namespace, arrivals: Sequence[Arrival], hardware: Sequence[Hardware]
) -> list[list[str]]:
    rows = []
    for each, blocks in product(hardware, REMEMBERED):
        fleet = pairs(each, options.producers, options.consumers, blocks_remembered=blocks)
        rows.append([f"{blocks:,}", *page.row(each, arrivals, run(arrivals, fleet, ours))])
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__)
    add = parser.add_argument
    add("--trace", type=Path, required=True, help="a file in Mooncake's format, e.g. its conversation_trace.jsonl")
    add("--requests", type=count, help="so many from the trace's beginning; unset: all")
    add("--producers", type=count, default=4)
    add("--consumers", type=count, default=4)
    add("--aggregated", type=count, help="so many aggregated servers in place of them, on a page of their own")
    add(
        "--prefill-rates",
        type=counts,
        default=(8500, 10000, 12000, 16000),
        help="tokens/s of one producer, with commas",
    )
    add("--cache-tokens", type=counts, default=(1_000_000, 4_000_000), help="of one producer, with commas")
    add("--seed", type=int, default=1, help="of the random choice and of the made-up traffic")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
