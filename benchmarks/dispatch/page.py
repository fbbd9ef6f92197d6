"""The page of one run: what was simulated, and tables of what came out."""

from collections.abc import Sequence
from statistics import mean

from benchmarks.dispatch.fleets import Hardware, Outcome
from benchmarks.tables import percentile, table
from planner.trace import Arrival
from proxy.routing.prefix_cache import PrefixCache

# A title, what the first column is, and rows with their value of it in front.
Section = tuple[str, str, list[list[str]]]

COLUMNS = (
    *("cache", "prefill", "busy", "TTFT mean s", "P50 s", "P99 s"),
    *("prefix hits", "producers", "consumers", "TPOT P50 ms", "P99 ms"),
)


def about(arrivals: Sequence[Arrival]) -> list[tuple[str, str]]:
    tokens = sum(arrival.prompt.tokens for arrival in arrivals)
    span_s = arrivals[-1].at_s - arrivals[0].at_s
    return [
        ("requests", f"{len(arrivals):,} in {span_s:,.0f} s"),
        ("prompt tokens", f"{tokens:,}, {tokens / len(arrivals):,.0f} a request"),
        ("output tokens a request", f"{mean(arrival.output_tokens for arrival in arrivals):,.0f}"),
        ("prefix hits with one cache without bounds", f"{unbounded_hit_rate(arrivals):.1%}"),
    ]


def unbounded_hit_rate(arrivals: Sequence[Arrival]) -> float:
    """The most that any choice of producers can reach."""
    cache = PrefixCache(sum(len(arrival.prompt.blocks) for arrival in arrivals))
    missing = 0
    for arrival in arrivals:
        missing += arrival.prompt.missing(cache.matched(arrival.prompt.blocks))
        cache.insert(arrival.prompt.blocks)
    return 1 - missing / sum(arrival.prompt.tokens for arrival in arrivals)


def row(hardware: Hardware, arrivals: Sequence[Arrival], outcome: Outcome) -> list[str]:
    computed = list(outcome.computed.values())
    capacity = hardware.prefill_rate * len(computed) * (arrivals[-1].at_s - arrivals[0].at_s)
    return [
        f"{hardware.cache_tokens:,}",
        f"{hardware.prefill_rate:,.0f}",
        f"{sum(computed) / capacity:.0%}",
        f"{mean(outcome.ttft_s):.2f}",
        f"{percentile(outcome.ttft_s, 50):.2f}",
        f"{percentile(outcome.ttft_s, 99):.2f}",
        f"{outcome.hit_rate:.1%}",
        f"{_unevenness(computed):.2f}",
        f"{mean(_unevenness(tokens) for tokens in outcome.consumer_tokens):.2f}",
        f"{(percentile(outcome.tpot_s, 50) or 0) * 1000:.1f}",
        f"{(percentile(outcome.tpot_s, 99) or 0) * 1000:.1f}",
    ]


def render(
    command: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section], explanation: str | None = None
) -> str:
    """`explanation`: of the columns, unset: for producers and consumers."""
    parts = [
        "# Choice of instances, simulated",
        f"```sh\n{command}\n```",
        table(("", ""), facts),
        explanation or EXPLANATION,
    ]
    for title, first_column, rows in sections:
        parts += [f"## {title}", table((first_column, *COLUMNS), rows)]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
No servers and no clock: the same command gives the same page. `cache`: tokens of one producer's KV cache;
`prefill`: tokens that one producer computes in a second; `busy`: the share of the time that the producers need for
what they compute. TTFT is queue and prefill, without transfer and first decode step. `producers`: tokens computed by
the busiest one, divided by the mean; `consumers`: the same of outstanding tokens, at each arrival and then the mean.
1.00 is perfect balance.

`ours` is the proxy's own code; `least tokens` the same, blind to prefixes; `cache aware` the default policy of
vllm-router, as its source describes it, with its default thresholds. The shared prefixes are made up
(`benchmarks/dispatch/shared_prefixes.py`); one cache holds all of them."""

AGGREGATED_EXPLANATION = """\
Aggregated servers, as `compose.baseline.yaml` starts them: each computes prompts in chunks and answers, in the same
steps. No servers and no clock: the same command gives the same page. `cache`: tokens of one server's KV cache, for
what runs and for what is kept; `prefill`: prompt tokens that one server computes in a second of its own; `busy`: the
share of the time that the servers need for prompts alone. `producers`: prompt tokens computed by the busiest one,
divided by the mean; `consumers`: the same of outstanding tokens, at each arrival and then the mean. 1.00 is perfect
balance.

`ours` is the proxy's own code; `until the end` the same, where a prompt's tokens count as outstanding until its answer
ends; `least tokens` the same as `ours`, blind to prefixes; `cache aware` the default policy of vllm-router, as its
source describes it, with its default thresholds."""


def _unevenness(values: Sequence[int]) -> float:
    return max(values) / mean(values)
