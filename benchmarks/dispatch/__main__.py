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
from benchmarks.dispatch.choosers import CHOOSERS, fleet_of, ours
from benchmarks.dispatch.simulation import Hardware, simulate
from benchmarks.dispatch.trace import Arrival, UnreadableTrace, read_trace
from benchmarks.option_types import count, counts
from proxy.dispatch import SPLIT_ALL

WEIGHTS = (1, 2, 4, 8)
REMEMBERED = (4096, 8192, 16384, 32768, 131072)


def main() -> int:
    options = _parser().parse_args()
    try:
        arrivals = read_trace(options.trace, options.requests)
    except UnreadableTrace as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    hardware = [Hardware(rate, cache) for cache, rate in product(options.cache_tokens, options.prefill_rates)]
    # What follows from the policy's own numbers shows best where producers are nearly all the time busy.
    busiest = [Hardware(options.prefill_rates[0], cache) for cache in options.cache_tokens]
    sections = [
        ("Who chooses", "chosen by", list(_by_chooser(options, arrivals, hardware))),
        (
            "How often a token to compute counts when all are busy",
            "times",
            list(_by_weight(options, arrivals, busiest)),
        ),
        ("How much of each instance is remembered", "blocks", list(_by_memory(options, arrivals, busiest))),
    ]
    words = ["TRACE" if word == str(options.trace) else word for word in sys.argv[1:]]
    command = shlex.join(["python", "-m", "benchmarks.dispatch", *words])
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{time.strftime('%Y-%m-%d', time.gmtime())}-dispatch.md"
    file.write_text(page.render(command, page.about(arrivals), sections))
    print(f"results: {file}")
    return 0


def _by_chooser(
    options: argparse.Namespace, arrivals: Sequence[Arrival], hardware: Sequence[Hardware]
) -> Iterator[list[str]]:
    for each in hardware:
        for name, chooser in CHOOSERS.items():
            fleet = fleet_of(options.producers, options.consumers)
            yield [name, *page.row(each, arrivals, simulate(arrivals, fleet, each, chooser(fleet, options.seed)))]


def _by_weight(
    options: argparse.Namespace, arrivals: Sequence[Arrival], hardware: Sequence[Hardware]
) -> Iterator[list[str]]:
    for each, weight in product(hardware, WEIGHTS):
        fleet = fleet_of(options.producers, options.consumers, replace(SPLIT_ALL, busy_miss_weight=weight))
        yield [str(weight), *page.row(each, arrivals, simulate(arrivals, fleet, each, ours(fleet, options.seed)))]


def _by_memory(
    options: argparse.Namespace, arrivals: Sequence[Arrival], hardware: Sequence[Hardware]
) -> Iterator[list[str]]:
    for each, blocks in product(hardware, REMEMBERED):
        fleet = fleet_of(options.producers, options.consumers, blocks_remembered=blocks)
        yield [f"{blocks:,}", *page.row(each, arrivals, simulate(arrivals, fleet, each, ours(fleet, options.seed)))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__)
    add = parser.add_argument
    add("--trace", type=Path, required=True, help="a file in Mooncake's format, e.g. its conversation_trace.jsonl")
    add("--requests", type=count, help="so many from the trace's beginning; unset: all")
    add("--producers", type=count, default=4)
    add("--consumers", type=count, default=4)
    add(
        "--prefill-rates",
        type=counts,
        default=(8500, 10000, 12000, 16000),
        help="tokens/s of one producer, with commas",
    )
    add("--cache-tokens", type=counts, default=(1_000_000, 4_000_000), help="of one producer, with commas")
    add("--seed", type=int, default=1, help="of the random choice")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
