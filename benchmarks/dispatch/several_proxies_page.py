"""Simulates several proxies before one fleet and writes the page: python -m benchmarks.dispatch.several_proxies_page"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks.dispatch.fleets import Hardware
from benchmarks.dispatch.page import about
from benchmarks.dispatch.several_proxies import Setup, Waited, simulate
from benchmarks.option_types import count, counts
from benchmarks.tables import percentile, table
from planner.trace import Arrival, UnreadableTrace, read_trace
from proxy.instances.peers import PERIOD_S

CACHE_TOKENS = 1_000_000
TRACE_PRODUCERS = 4  # as many as bear the trace's hour with a little to spare, at 10,000 tokens/s each
ALONE = Setup(1)
OWN = (Setup(2), Setup(4))
TOLD = tuple(Setup(proxies, "random", every_s) for proxies in (2, 4) for every_s in (1.0, 0.1, PERIOD_S))
BY_CONVERSATION = (Setup(2, "conversation"), Setup(4, "conversation"))
BOTH = tuple(replace(setup, told_every_s=PERIOD_S) for setup in BY_CONVERSATION)
COLUMNS = (
    "proxies",
    "spread",
    "told",
    "TTFT mean s",
    "P50 s",
    "P99 s",
    "P99 to one proxy's",
    "prefix hits",
    "TPOT P99 ms",
)

EXPLANATION = f"""\
No servers and no clock: the same command gives the same page. Each proxy has the project's own code for choices, the
order of prompts and estimates. `told`: how often each hears what the others have in hand; never: it knows its own
requests only. `{PERIOD_S:g} s` is what `PROXY_PEERS` does. Prefixes are never told. `spread`: a request goes to a proxy
at random, or to the one of its conversation, as a load balancer does that keeps a client at one proxy. TTFT is queue
and prefill. `prefix hits`: what the proxies thought they would save."""


def main() -> int:
    options = _parser().parse_args()
    try:
        trace = read_trace(options.trace, options.requests)
    except UnreadableTrace as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    pace = options.producers / TRACE_PRODUCERS
    arrivals = [replace(each, at_s=each.at_s / pace) for each in trace]
    head = "# Several proxies before one fleet, simulated"
    words = "python -m benchmarks.dispatch.several_proxies_page --trace TRACE"
    if len(sys.argv) > 3:
        words += f" --requests {options.requests}"
    facts = [*about(arrivals), ("instances", f"{options.producers} producers, {options.consumers} consumers")]
    parts = [head, f"```sh\n{words}\n```", table(("", ""), facts), EXPLANATION]
    for rate in options.prefill_rates:
        parts += [f"## Producers of {rate:,} tokens/s", table(COLUMNS, _rows(options, arrivals, rate))]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{time.strftime('%Y-%m-%d', time.gmtime())}-several-proxies.md"
    file.write_text("\n\n".join(parts) + "\n")
    print(f"results: {file}")
    return 0


def _rows(options: argparse.Namespace, arrivals: Sequence[Arrival], rate: int) -> Iterator[list[str]]:
    hardware, one = Hardware(rate, CACHE_TOKENS), 0.0
    for setup in (ALONE, *OWN, *TOLD, *BY_CONVERSATION, *BOTH):
        waited = simulate(arrivals, options.producers, options.consumers, hardware, setup, options.seed)
        p99 = percentile(waited.ttft_s, 99) or 0.0
        one = one or p99
        yield _row(setup, waited, p99, p99 / one)
        print(f"{rate} tokens/s, {setup}: P99 {p99:.2f} s", flush=True)


def _row(setup: Setup, waited: Waited, p99: float, ratio: float) -> list[str]:
    several = setup.proxies > 1
    told = f"{setup.told_every_s:g} s" if setup.told_every_s is not None else "never"
    figures = (mean(waited.ttft_s), percentile(waited.ttft_s, 50) or 0.0, p99, ratio)
    return [
        str(setup.proxies),
        setup.spread if several else "",
        told if several else "",
        *(f"{figure:.2f}" for figure in figures),
        f"{1 - waited.computed / waited.prompt:.1%}",
        f"{1000 * (percentile(waited.tpot_s, 99) or 0.0):.1f}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch.several_proxies_page", description=__doc__)
    add = parser.add_argument
    add("--trace", type=Path, required=True, help="a file in Mooncake's format, e.g. its conversation_trace.jsonl")
    add("--requests", type=count, default=4000, help="so many from the trace's beginning")
    add("--producers", type=count, default=50, help="the trace comes so much faster that each has as much to do as 4")
    add("--consumers", type=count, default=50)
    add("--prefill-rates", type=counts, default=(10000, 12000), help="tokens/s of one producer, with commas")
    add("--seed", type=int, default=3, help="of the random spread")
    add("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
