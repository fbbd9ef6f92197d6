"""The page of a comparison, made from its document and nothing else."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.serving.report.comparison import FEWEST_FOR_P99
from benchmarks.store.conversations import ratios
from benchmarks.store.conversations.figures import ALL, CONSUMERS, PRODUCERS
from benchmarks.store.conversations.loads import CHAT
from benchmarks.store.conversations.plan import AGAIN, OFF, STORE
from benchmarks.tables import Row, causes, groups, head, ms, table

MIB = 1 << 20
FIRST_TOKENS = (
    f"Of the same requests on every side. *Times* divides by *{OFF}*: there a prompt's beginning is found on the "
    f"producer that has computed it or nowhere, and prefix affinity sends it there; *{AGAIN}* is the control. In "
    f"brackets a P99 of fewer than {FEWEST_FOR_P99} values, hardly more than their maximum. Cached: tokens of the "
    "prompts, as the answers' usage says. From the store: what the proxy says of each request."
)
TOKENS = (
    "Tokens of prompts by where they came from, as the instances themselves count them. Those of a load that failed "
    "may count as loaded, and are computed after all; the proxy counts only loads that came. A split prompt is the "
    "producer's and the consumer's; what came to the consumer from the producer is left out here. Saved: what all "
    f"instances together have computed less than with *{OFF}*."
)


def render(document: dict[str, Any], raw_file: str) -> str:
    """`document` is what results.py writes into `raw_file`."""
    rows: list[Row] = document.get("requests", [])
    parts = [head(document, raw_file), table(("", ""), [(k, str(v)) for k, v in document["conditions"].items()])]
    if targets := list(_targets(document, rows)):
        parts += ["## The target", "\n".join(f"- {line}" for line in targets)]
    if rows:
        parts += ["## Time to the first token", FIRST_TOKENS, _first_tokens(rows)]
    if counted := document.get("prompt_tokens"):
        parts += ["## Tokens of prompts", TOKENS, _tokens(counted), *_most(rows)]
    if stores := document.get("store"):
        parts += ["## The store at the end", _stores(stores)]
    if wrong := [*causes(_errors(rows)), *_notes(rows)]:
        parts += ["## What went wrong", *wrong]
    return "\n\n".join(parts) + "\n"


def _targets(document: dict[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """A line for each size of caches."""
    if document["load"] != CHAT:
        return
    _, later = document["kinds"]
    for (cache,), group in groups(rows, "cache_bytes").items():
        name = f"Caches of {_mib(cache)}: TTFT P50 of {later} at most {ratios.AT_MOST:g} times"
        found = ratios.median_to_off(group, cache, STORE, later, "ttft_p50_s")
        control = ratios.median_to_off(group, cache, AGAIN, later, "ttft_p50_s")
        if found is None:
            yield f"{name}: not measured"
            continue
        verdict = "met" if found <= ratios.AT_MOST else "missed"
        judged = [row for row in group if row["requests"] == later and row["side"] in (OFF, STORE)]
        partly = "" if all(map(ratios.is_whole, judged)) else "; not all requests were answered"
        yield f"{name}: **{verdict}**, {found:.3f}; the control {_ratio(control) or 'is missing'}{partly}"


def _first_tokens(rows: Sequence[Row]) -> str:
    header = (
        *("caches", "requests", "side", "run", "answered", "failed", "TTFT ms P50", "times", "P99", "times"),
        *("prompt tokens", "cached", "from the store", "path"),
    )
    lines = []
    for (cache, kind), group in groups(rows, "cache_bytes", "requests").items():
        for row in sorted(group, key=lambda row: int(row["repeat"])):
            few = row["ttft_n"] < FEWEST_FOR_P99
            figures = [ms(row["ttft_p50_s"]), _times(rows, row, "ttft_p50_s")]
            figures += [_bracketed(text, few) for text in (ms(row["ttft_p99_s"]), _times(rows, row, "ttft_p99_s"))]
            completed = f"{row['outcomes'].get('completed', 0)} of {row['wanted']}"
            failed = str(sum(row["outcomes"].get(name, 0) for name in ("failed", "cut_off")))
            tokens = [f"{row['prompt_tokens']:,}", *(_share(row, name) for name in ("cached_tokens", "store_tokens"))]
            about = (_mib(cache), kind, row["side"], str(row["repeat"] + 1))
            path = ", ".join(f"{number} {name}" for name, number in row["paths"].items())
            lines.append((*about, completed, failed, *figures, *tokens, path))
    return table(header, lines)


def _tokens(rows: Sequence[Row]) -> str:
    header = (
        *("caches", "side", "run", "producers: prompts", "found locally", "from the store", "computed", "hit rate"),
        *(
            "as the proxy counts: loaded, of prompts",
            "consumers: found locally",
            "computed",
            "computed in all",
            "saved",
        ),
    )
    lines = []
    for row in sorted(rows, key=lambda row: (row["cache_bytes"], row["repeat"])):
        of_producers = [f"{row[f'{PRODUCERS}_{name}']:,}" for name in ("local", "external", "computed")]
        of_consumers = [f"{row[f'{CONSUMERS}_{name}']:,}" for name in ("local", "computed")]
        about = (_mib(row["cache_bytes"]), row["side"], str(row["repeat"] + 1))
        total, rate = f"{ratios.prompts(row, PRODUCERS):,}", _percent(ratios.hit_rate(row))
        asked = row["proxy_hit"] + row["proxy_miss"]
        proxy = f"{row['proxy_loaded_tokens']:,}, {row['proxy_hit']} of {asked}" if asked else ""
        in_all = f"{ratios.computed(row):,}"
        lines.append((*about, total, *of_producers, rate, proxy, *of_consumers, in_all, _saved(rows, row)))
    return table(header, lines)


def _saved(rows: Sequence[Row], row: Row) -> str:
    off = ratios.beside(rows, row, OFF)
    if off is None or row["side"] == OFF:
        return ""
    saved = ratios.computed(off) - ratios.computed(row)
    return f"{saved:,} ({_percent(ratios.quotient(saved, ratios.computed(off)))})"


def _most(rows: Sequence[Row]) -> list[str]:
    """What no cache could be better than; the same requests on every side."""
    whole = [row for row in rows if row["requests"] == ALL and ratios.is_whole(row)]
    if not whole:
        return []
    again, tokens = whole[0]["found_again"], whole[0]["prompt_tokens"]
    share = _percent(ratios.quotient(again, tokens))
    return [
        f"Of {tokens:,} tokens {again:,} ({share}) had been the beginning of an earlier prompt: more no cache can find."
    ]


def _stores(rows: Sequence[Row]) -> str:
    header = ("caches", "run", "memory", "keys", "keys that had to make room")
    return table(
        header,
        [
            (
                *(_mib(row["cache_bytes"]), str(row["repeat"] + 1), _mib(row["capacity_bytes"])),
                *(f"{row['keys']:,}", f"{row['evicted_keys']:,}"),
            )
            for row in rows
        ],
    )


def _errors(rows: Sequence[Row]) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows:
        if row["requests"] == ALL:
            found.update({f"{_where(row)}: {cause}": number for cause, number in row["errors"].items()})
    return found


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    for row in rows:
        if row["requests"] != ALL:
            continue
        made = sum(row["outcomes"].values())
        if made < row["wanted"]:
            notes.append(f"{_where(row)}: only {made} of {row['wanted']} requests were made in time")
        notes += [f"{_where(row)}: {row[name]}" for name in ("saturation", "generator_limit") if row[name]]
    return ["\n".join(f"- {note}" for note in notes)] if notes else []


def _where(row: Row) -> str:
    return f"{row['side']}, caches of {_mib(row['cache_bytes'])}, run {row['repeat'] + 1}"


def _times(rows: Sequence[Row], row: Row, figure: str) -> str:
    return "" if row["side"] == OFF else _ratio(ratios.to_off(rows, row, figure))


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _bracketed(text: str, few: bool) -> str:
    return f"({text})" if text and few else text


def _share(row: Row, name: str) -> str:
    return f"{row[name]:,} ({_percent(ratios.quotient(row[name], row['prompt_tokens']))})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"
