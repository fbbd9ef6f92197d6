"""The page of a plan, and the same as a document of JSON."""

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.plan import settings_files
from benchmarks.plan.options import Options
from benchmarks.serving.report.sections import Section
from benchmarks.tables import ms
from planner.sizing.answer import Answer, Row

TITLE = "How many of each, and whether at all"
HOUR_S = 3600.0
MILLION = 1_000_000
LEGEND = (
    "Simulated, not measured: vLLM's scheduling, the transfers and the proxy's own dispatch with the profile's costs. "
    "Times and goodput are those at the rate that was asked for; **up to** is the largest rate within the objective. "
    "`1P3D`: one producer and three consumers. A split in which a queue grows is marked."
)


def sections(options: Options, answer: Answer) -> Iterator[Section]:
    yield _splits(options, answer)
    if answer.changes:
        yield _changes(answer)
    env, values = settings_files.env(options, answer), settings_files.helm_values(answer)
    yield Section("Settings", ["Lines for `.env`:"], code=env.strip())
    if values:
        yield Section("Values for Helm", code=values.strip())
    yield _about(options)
    yield _residuals(options)


def _splits(options: Options, answer: Answer) -> Section:
    header = [
        "split",
        "up to requests/s",
        "TTFT ms P50",
        "P99",
        "ITL ms P50",
        "P99",
        "TPOT ms P50",
        "goodput/s",
        "share",
    ]
    if options.price:
        header.append("a million tokens of answers")
    lines = []
    for row in answer.rows:
        asked = row.asked
        times = (asked.ttft_s.p50, asked.ttft_s.p99, asked.itl_s.p50, asked.itl_s.p99, asked.tpot_s.p50)
        name = f"**{row.split}**" if row is answer.chosen else str(row.split)
        line = [f"{name} (a queue grows)" if asked.saturation else name, f"{row.largest_per_s:.3g}", *map(ms, times)]
        line += [f"{asked.goodput_per_s or 0.0:.2f}", f"{asked.goodput_share or 0.0:.0%}"]
        if options.price:
            cost = cost_of_a_million(options, row)
            line.append("" if cost is None else f"{cost:.2f}")
        lines.append(line)
    return Section("Every split", [LEGEND], header, lines)


def _changes(answer: Answer) -> Section:
    text = (
        "The largest rates of the best pairs and of as many aggregated servers, where one thing is so many times what "
        "it is. Above 1 disaggregation bears more."
    )
    header = ("what", "times", "best pairs", "requests/s", "aggregated", "gain")
    lines = [
        (
            *(
                each.axis,
                f"{each.factor:g}",
                str(each.split),
                f"{each.pairs_per_s:.3g}",
                f"{each.aggregated_per_s:.3g}",
            ),
            "" if each.gain is None else f"{each.gain:.2f}",
        )
        for each in answer.changes
    ]
    return Section("What would change the answer", [text], header, lines)


def _about(options: Options) -> Section:
    case, profile = options.case, options.case.variant.profile
    facts = {
        "traffic": f"{case.workload.text}, {case.workload.rate:.3g} requests/s",
        "GPUs": f"{options.gpus}, {profile.gpus_per_instance} an instance",
        "objective": str(case.objective),
        "transport": case.variant.transport or next(iter(profile.transfers)),
        "PROXY_LOCAL_PROMPT_TOKENS": str(case.variant.policy.local_prompt_tokens),
        "a simulation": f"{case.effort.requests} requests or {case.effort.seconds:g} s, seed {case.effort.seed}",
        **profile.conditions,
    }
    return Section("What was planned, and the profile's conditions", header=("", ""), lines=list(facts.items()))


def _residuals(options: Options) -> Section:
    text = "How far the profile's costs are from what was measured for them; a plan is no better than that."
    lines = [
        (kind, str(each.samples), f"{each.median:.1%}", f"{each.worst:.1%}")
        for kind, each in options.case.variant.profile.residuals.items()
    ]
    return Section("The profile's residuals", [text], ("kind", "samples", "median", "worst"), lines)


def document(options: Options, answer: Answer, about: dict[str, Any]) -> dict[str, Any]:
    chosen = answer.chosen
    return {
        **about,
        "stand": answer.stand.value,
        "chosen": str(chosen.split),
        "gain": _finite(answer.gain),
        "gain_at_worst": _finite(answer.gain_at_worst),
        "rate": answer.rate,
        "objective": str(options.case.objective),
        "profile": options.case.variant.profile.model_dump(),
        "splits": [
            {
                "split": str(row.split),
                "producers": row.split.producers,
                "consumers": row.split.consumers,
                "aggregated": row.split.aggregated,
                "largest_per_s": row.largest_per_s,
                "cost_of_a_million": cost_of_a_million(options, row),
                "asked": row.asked.model_dump(),
            }
            for row in answer.rows
        ],
        "changes": [
            {
                "axis": each.axis,
                "factor": each.factor,
                "split": str(each.split),
                "pairs_per_s": each.pairs_per_s,
                "aggregated_per_s": each.aggregated_per_s,
                "gain": _finite(each.gain),
            }
            for each in answer.changes
        ],
    }


def cost_of_a_million(options: Options, row: Row) -> float | None:
    """Tokens of answers, at the largest rate within the objective."""
    tokens = row.asked.output_tokens.mean
    if not options.price or not row.largest_per_s or not tokens:
        return None
    return options.price * options.gpus / HOUR_S / (row.largest_per_s * tokens) * MILLION


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
