"""Simulates the order of prompts at producers, and writes the page: python -m benchmarks.dispatch.prefill_order_page"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.dispatch.fleets import Hardware
from benchmarks.dispatch.prefill_order import Scheduling, Waited, waits
from benchmarks.option_types import count
from benchmarks.tables import percentile, table
from planner.trace import TRACE_BLOCK, Arrival, UnreadableTrace, prompt_of, read_trace

FACTORS = (1, 2, 4, 8, 16)
SHARING = (
    *(Scheduling(8), Scheduling(8, 512), Scheduling(8, 1024), Scheduling(8, 1920, adaptive=False)),
    *(Scheduling(1, 512), Scheduling(1, 1920, adaptive=False)),
)
CACHE_TOKENS = 1_000_000
SHORT_TOKENS, LONG_TOKENS = 2_000, 16_000  # of the trace
SHARE_OF_LONG = 0.3
GPU_LENGTHS, GPU_RATE = (64, 8000), 34_000.0  # tokens; tokens/s of one H200 with the shape of Qwen2.5-7B
CPU_LENGTHS, CPU_RATE = (48, 1500), 300.0  # a core with the model that comes along
STEPS = (256, 512, 1024, 2048, 4096)
COLUMNS = ("order", "short: mean s", "P50", "P99", "long: mean s", "P50", "P99", "all: mean s", "P99", "worst factor")


def mixture(requests: int, requests_per_s: float, lengths: tuple[int, int], seed: int = 1) -> list[Arrival]:
    """Prompts of two lengths that share nothing, at random times."""
    dice, at_s, arrivals = random.Random(seed), 0.0, []
    for number in range(requests):
        at_s += dice.expovariate(requests_per_s)
        tokens = lengths[dice.random() < SHARE_OF_LONG]
        blocks = [number * 100 + block for block in range(-(-tokens // TRACE_BLOCK))]
        arrivals.append(Arrival(at_s, prompt_of(tokens, blocks), 1))
    return arrivals


def row(
    waited: Sequence[Waited], by_arrival: Sequence[Waited], scheduling: Scheduling, limits: tuple[int, int]
) -> list[str]:
    short = [each.ttft_s for each in waited if each.tokens <= limits[0]]
    long = [each.ttft_s for each in waited if each.tokens >= limits[1]]
    before = {each.at_s: each.ttft_s for each in by_arrival}
    worst = max(each.ttft_s / before[each.at_s] for each in waited)
    figures = [*_of(short), *_of(long), mean(each.ttft_s for each in waited)]
    figures += [percentile([each.ttft_s for each in waited], 99) or 0.0]
    return [_name(scheduling), *(f"{figure:.2f}" for figure in figures), f"{worst:.1f}"]


def _of(ttft_s: Sequence[float]) -> tuple[float, float, float]:
    return mean(ttft_s), percentile(ttft_s, 50) or 0.0, percentile(ttft_s, 99) or 0.0


def _name(scheduling: Scheduling) -> str:
    order = "arrival" if scheduling.factor == 1 else f"shortest, factor {scheduling.factor}"
    if scheduling.step_tokens != 2048:
        order += f", steps of {scheduling.step_tokens:,}"
    if not scheduling.threshold:
        return order
    return f"{order}; shared at {scheduling.threshold}{', adaptive' if scheduling.adaptive else ''}"


def sections(arrivals: Sequence[Arrival]) -> Iterator[str]:
    for rate in (8_500.0, 10_000.0):
        title = f"The trace, four producers of {rate:,.0f} tokens/s"
        yield _section(title, arrivals, 4, Hardware(rate, CACHE_TOKENS), [Scheduling(each) for each in FACTORS])
    yield _section("The same, long prompts share steps", arrivals, 4, Hardware(10_000.0, CACHE_TOKENS), SHARING)
    for per_s in (6.0, 10.0):
        made_up, hardware = mixture(4000, per_s, GPU_LENGTHS), Hardware(GPU_RATE, CACHE_TOKENS)
        title = f"64 tokens and 30 % of 8,000, {per_s:g} a second, one producer of {GPU_RATE:,.0f} tokens/s"
        orders = [*(Scheduling(each) for each in FACTORS), *SHARING[1:]]
        yield _section(title, made_up, 1, hardware, orders, GPU_LENGTHS)
    orders = [Scheduling(factor, step_tokens=step) for factor in (1, 8) for step in STEPS]
    yield _section("The same at 10 a second, by the tokens of a step", made_up, 1, hardware, orders, GPU_LENGTHS)
    made_up, hardware = mixture(4000, 0.45, CPU_LENGTHS), Hardware(CPU_RATE, CACHE_TOKENS)
    title = f"48 tokens and 30 % of 1,500, 0.45 a second, one producer of {CPU_RATE:,.0f} tokens/s"
    yield _section(title, made_up, 1, hardware, orders, CPU_LENGTHS)


def _section(
    title: str,
    arrivals: Sequence[Arrival],
    producers: int,
    hardware: Hardware,
    orders: Sequence[Scheduling],
    limits: tuple[int, int] = (SHORT_TOKENS, LONG_TOKENS),
) -> str:
    by_arrival: dict[int, list[Waited]] = {}
    rows = []
    for each in orders:
        if each.step_tokens not in by_arrival:
            first_come = Scheduling(1, step_tokens=each.step_tokens)
            by_arrival[each.step_tokens] = waits(arrivals, producers, hardware, first_come)
        waited = waits(arrivals, producers, hardware, each)
        rows.append(row(waited, by_arrival[each.step_tokens], each, limits))
    return f"## {title}\n\n{table(COLUMNS, rows)}"


EXPLANATION = """\
No servers and no clock: the same command gives the same page. The order is the proxy's own code; a producer takes
what waits step by step as vLLM's scheduler does (`planner/simulation/engine/instance.py`). TTFT is queue and prefill.
Short are prompts of which at most 2,000 tokens are to be computed, long those of 16,000 or more; in the mixture it is
one or the other. `shared`: `--long-prefill-token-threshold`. `worst factor`: of all prompts the largest quotient of
the TTFT and that in the order of arrival with the same steps. The bound is the factor where one producer serves all
and steps are not shared; with several, which one a prompt goes to depends on the order too."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch.prefill_order_page", description=__doc__)
    parser.add_argument("--trace", type=Path, required=True, help="a file in Mooncake's format")
    parser.add_argument("--requests", type=count, help="so many from the trace's beginning; unset: all")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the page")
    options = parser.parse_args()
    try:
        arrivals = read_trace(options.trace, options.requests)
    except UnreadableTrace as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    command = "python -m benchmarks.dispatch.prefill_order_page --trace TRACE"
    command += f" --requests {options.requests}" if options.requests else ""
    parts = [
        "# The order of prompts at producers, simulated",
        f"```sh\n{command}\n```",
        EXPLANATION,
        *sections(arrivals),
    ]
    file = options.out / f"{time.strftime('%Y-%m-%d', time.gmtime())}-prefill-order.md"
    file.write_text("\n\n".join(parts) + "\n")
    print(f"results: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
