"""The paragraph at the top: what to run, what is gained, where the break-even lies, what would change the answer."""

import math
from collections.abc import Iterator

from benchmarks.plan.options import Options
from planner.sizing.answer import Answer, Axis, Row, Stand

THINGS: dict[Axis, str] = {
    "prompts": "prompts are {} times as long",
    "answers": "answers are {} times as long",
    "bandwidth": "the transport has {} of its bandwidth",
}


def paragraph(options: Options, answer: Answer) -> str:
    return " ".join(_sentences(options, answer))


def _sentences(options: Options, answer: Answer) -> Iterator[str]:
    case, chosen, pairs = options.case, answer.chosen, answer.pairs
    traffic = f"{case.workload.text}, at {_rate(answer.rate)} on {_many(options.gpus, 'GPU')}"
    if answer.stand is Stand.NEITHER:
        yield f"**No split keeps the objective** for {traffic}, at any rate that was tried: {case.objective}."
        return
    if answer.stand is Stand.FOR:
        yield f"**Disaggregate: run {chosen.split.words}** for {traffic}."
    else:
        yield f"**Do not disaggregate: run {chosen.split.words}** for {traffic}."
    yield f"They keep the objective ({case.objective}) up to {_rate(chosen.largest_per_s)}."
    if pairs is not None:
        yield from _gained(answer, pairs)
    if answer.rate > chosen.largest_per_s:
        needed = math.ceil(options.gpus * answer.rate / chosen.largest_per_s)
        yield f"**That is less than is asked for**: in proportion it takes about {_many(needed, 'GPU')}."
    yield from _changes(answer)
    if answer.is_sure is not None and pairs is not None:
        error = f"the profile's error ({case.variant.profile.error:.0%} of a step)"
        if answer.is_sure:
            yield f"With {error} against whoever bears more, that one still does."
        else:
            yield f"**It is not sure**: with {error} against whoever bears more, the other one does."


def _gained(answer: Answer, pairs: Row) -> Iterator[str]:
    other, asked, of_aggregated = answer.aggregated, pairs.asked, answer.aggregated.asked
    ratios = f"ITL P99 {_ratio(asked.itl_s.p99, of_aggregated.itl_s.p99)}"
    ratios += f", TTFT P50 {_ratio(asked.ttft_s.p50, of_aggregated.ttft_s.p50)}"
    at_rate = (
        f"At {_rate(answer.rate)} the best pairs ({pairs.split}) have, against as many aggregated servers, {ratios}"
    )
    match answer.stand:
        case Stand.EXCHANGE:
            yield f"{at_rate}: an **exchange**, and they bear as much (up to {_rate(pairs.largest_per_s)})."
        case Stand.EVEN:
            bear = f"bear as much (up to {_rate(pairs.largest_per_s)})"
            yield f"{at_rate}, and {bear}: even, and aggregated servers are simpler."
        case _:
            gain = answer.gain or 0.0
            bear = f"{gain:.2f} times as much" if math.isfinite(gain) else "something, where those bear nothing"
            yield f"{at_rate}, and bear {bear}: {_rate(pairs.largest_per_s)} against {_rate(other.largest_per_s)}."
    low, high = sorted((pairs.largest_per_s, other.largest_per_s))
    if low and high > 1.1 * low:
        more = "disaggregation alone" if pairs.largest_per_s == high else "aggregated servers alone"
        yield f"Break-even: up to {_rate(low)} both keep the objective, from there to {_rate(high)} {more}."


def _changes(answer: Answer) -> Iterator[str]:
    turns, gain = [], answer.gain
    for axis, words in THINGS.items():
        if (at := answer.break_even(axis)) is not None:
            turns.append(words.format(f"{at:.2g}"))
    if turns:
        yield f"The two bear the same where {', or '.join(turns)}."
    elif answer.changes and gain is not None:
        simulated = ", ".join(
            f"{axis} × {min(factors):g} to {max(factors):g}"
            for axis in THINGS
            if (factors := [each.factor for each in answer.changes if each.axis == axis])
        )
        yield f"Nothing that was simulated turns it round ({simulated})."


def _rate(per_s: float) -> str:
    return f"{per_s:.3g} requests/s"


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f} times" if one and other else "unknown"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
