"""A measurement's rows, out of what lies on disk: times by kind of request, and where prompts' tokens came from."""

from collections.abc import Sequence
from typing import Any

from benchmarks.store.conversations.loads import TRACE
from benchmarks.store.conversations.plan import Measurement, Plan
from benchmarks.tables import Row
from benchmarks.whole_stack.run_folders import RunFolders
from loadtest.figures.record import RequestRecord
from loadtest.figures.slo import Slo
from loadtest.figures.summary import summarize
from loadtest.runs.run_folder import Run

ALL = "all"
PRODUCERS, CONSUMERS = "prefill", "decode"
TABLES = ("requests", "prompt_tokens", "store")


def tables(runs: RunFolders, plan: Plan) -> dict[str, list[Row]]:
    """Of all measurements that are complete, by the names of TABLES."""
    found: dict[str, list[Row]] = {name: [] for name in TABLES}
    for measurement in plan.measurements():
        if runs.run(measurement) is None:
            continue
        found["requests"] += rows(runs, plan, measurement)
        facts = runs.facts(measurement)
        found["prompt_tokens"].append({**_about(measurement), **_tokens(facts)})
        if store := facts.get("store"):
            found["store"].append({**_about(measurement), **store})
    return found


def rows(runs: RunFolders, plan: Plan, measurement: Measurement) -> list[Row]:
    """One of all its requests and one of each kind. Empty: it is not complete."""
    run = runs.run(measurement)
    if run is None or run.summary is None:
        return []
    records = list(runs.requests(measurement))
    kinds: dict[str, list[RequestRecord]] = {name: [] for name in plan.load.kinds}
    for record in records:
        kinds[plan.load.kinds[plan.load.is_later(record.index)]].append(record)
    wanted = dict.fromkeys(kinds, 0)
    for index in range(plan.load.requests):
        wanted[plan.load.kinds[plan.load.is_later(index)]] += 1
    whole = {**_about(measurement), **_row(run, ALL, records, plan.load.requests)}
    whole |= {"found_again": plan.load.found_again(records), "generator_limit": run.summary.generator_limit}
    # Chats are a closed loop, and their TTFT grows with their prompts: nothing is saturated by that.
    whole |= {"saturation": run.summary.saturation if plan.load.name == TRACE else None}
    return [whole, *({**_about(measurement), **_row(run, kind, some, wanted[kind])} for kind, some in kinds.items())]


def _about(measurement: Measurement) -> Row:
    return {"repeat": measurement.repeat, "cache_bytes": measurement.cache_bytes, "side": measurement.side}


def _row(run: Run, kind: str, records: Sequence[RequestRecord], wanted: int) -> Row:
    """`wanted`: requests of the kind that there were to be. Tokens are the answers' own counts."""
    assert run.summary is not None
    summary = summarize(records, Slo(), warmup_s=run.summary.from_s, until_s=run.summary.until_s)
    return {
        **{"requests": kind, "wanted": wanted, "outcomes": summary.outcomes, "errors": summary.errors},
        **{"ttft_n": summary.ttft_s.count, "ttft_p50_s": summary.ttft_s.p50, "ttft_p99_s": summary.ttft_s.p99},
        **{name: sum(getattr(record, name) or 0 for record in records) for name in ("prompt_tokens", "cached_tokens")},
        "store_tokens": sum(record.store_tokens or 0 for record in records),
        "paths": summary.paths,
    }


def _tokens(facts: dict[str, Any]) -> Row:
    """Of the producers' prompts and the consumers', by where they came from, and what the proxy counted."""
    row: Row = {}
    for role in (PRODUCERS, CONSUMERS):
        row |= {f"{role}_{name}": number for name, number in facts["tokens"][role].items()}
    return {**row, **{f"proxy_{name}": number for name, number in facts["proxy"].items()}}
