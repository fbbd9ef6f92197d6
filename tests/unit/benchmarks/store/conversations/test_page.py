"""The page of a comparison, from its rows alone."""

from typing import Any

from benchmarks.store.conversations import page
from benchmarks.store.conversations.plan import AGAIN, OFF, STORE
from tests.unit.benchmarks.conftest import ABOUT

MIB = 1 << 20
DOCUMENT = {
    **ABOUT,
    "ended": "complete",
    "load": "chat",
    "kinds": ["first turns", "later turns"],
    "conditions": {"seed": "0"},
}
OUTCOMES = {"completed": 120, "failed": 0, "cut_off": 0, "cancelled": 0}
TOKENS = {"prompt_tokens": 1000, "cached_tokens": 700, "store_tokens": 600}


def row(side: str, p50: float | None, kind: str = "later turns", **more: Any) -> dict[str, Any]:
    about = {"repeat": 0, "cache_bytes": 256 * MIB, "side": side, "requests": kind, "wanted": 120}
    times = {"ttft_n": 120, "ttft_p50_s": p50, "ttft_p99_s": 4.0}
    notes = {
        "errors": {},
        "paths": {"disaggregated": 118, "local": 2},
        "found_again": 800,
        "saturation": None,
        "generator_limit": None,
    }
    return {**about, "outcomes": OUTCOMES, **times, **TOKENS, **notes, **more}


def tokens(side: str, local: int, external: int, computed: int, **more: Any) -> dict[str, Any]:
    producers = {"prefill_local": local, "prefill_external": external, "prefill_computed": computed}
    consumers = {"decode_local": 5, "decode_external": 990, "decode_computed": 100}
    proxy = {"proxy_loaded_tokens": external, "proxy_hit": 3 if external else 0, "proxy_miss": 1 if external else 0}
    return {"repeat": 0, "cache_bytes": 256 * MIB, "side": side, **producers, **consumers, **proxy, **more}


def render(**tables: list[dict[str, Any]]) -> str:
    return page.render({**DOCUMENT, **tables}, "run.json")


def target(*rows: dict[str, Any]) -> str:
    (found,) = [line for line in render(requests=list(rows)).splitlines() if "at most 0.5 times" in line]
    return found


def test_the_target_is_judged_by_later_turns_of_the_same_run() -> None:
    sides = [row(OFF, 2.0), row(STORE, 0.9), row(AGAIN, 2.1)]
    assert target(*sides).endswith("**met**, 0.450; the control 1.050")
    assert target(row(OFF, 2.0), row(STORE, 1.1)).endswith("**missed**, 0.550; the control is missing")
    assert target(row(OFF, 2.0)).endswith("not measured")
    # First turns have nothing to find, and count for nothing here.
    assert target(*sides, row(OFF, 9.0, "first turns"), row(STORE, 9.0, "first turns")).endswith(
        "0.450; the control 1.050"
    )


def test_repeats_have_a_median_and_each_size_of_caches_its_line() -> None:
    rows = [
        row(side, p50, repeat=n) for n, p50 in enumerate((0.2, 0.4, 3.0)) for side, p50 in ((OFF, 1.0), (STORE, p50))
    ]
    assert "**met**, 0.400" in target(*rows)
    large = [row(OFF, 1.0, cache_bytes=1024 * MIB), row(STORE, 1.0, cache_bytes=1024 * MIB)]
    text = render(requests=[*rows, *large])
    assert "Caches of 256 MiB: TTFT P50 of later turns at most 0.5 times: **met**" in text
    assert "Caches of 1,024 MiB: TTFT P50 of later turns at most 0.5 times: **missed**, 1.000" in text


def test_a_side_whose_requests_failed_is_named() -> None:
    half = row(STORE, 0.9, outcomes={"completed": 60, "failed": 60})
    assert target(row(OFF, 2.0), half).endswith("; not all requests were answered")
    errors = row(STORE, 0.9, "all", outcomes={"completed": 60, "failed": 60}, errors={"HttpError": 60})
    assert "- 60 × store, caches of 256 MiB, run 1: HttpError" in render(requests=[row(OFF, 2.0, "all"), errors])


def test_each_row_has_its_times_and_a_p99_of_few_values_is_in_brackets() -> None:
    lines = render(requests=[row(OFF, 2.0), row(STORE, 0.5), row(AGAIN, 2.0, ttft_n=99)]).splitlines()
    cached = "1,000 | 700 (70.0%) | 600 (60.0%) | 118 disaggregated, 2 local |"
    about = "| 256 MiB | later turns |"
    assert f"{about} no store | 1 | 120 of 120 | 0 | 2000.0 |  | 4000.0 |  | {cached}" in lines
    assert f"{about} store | 1 | 120 of 120 | 0 | 500.0 | 0.250 | 4000.0 | 1.000 | {cached}" in lines
    assert f"{about} no store again | 1 | 120 of 120 | 0 | 2000.0 | 1.000 | (4000.0) | (1.000) | {cached}" in lines


def test_what_was_found_where_and_what_that_saved() -> None:
    counted = [tokens(OFF, 200, 0, 800), tokens(STORE, 100, 650, 250), tokens(AGAIN, 210, 0, 790)]
    lines = render(requests=[row(OFF, 2.0, "all")], prompt_tokens=counted).splitlines()
    assert "| 256 MiB | no store | 1 | 1,000 | 200 | 0 | 800 | 20.0% |  | 5 | 100 | 900 |  |" in lines
    saved = "5 | 100 | 350 | 550 (61.1%) |"
    assert f"| 256 MiB | store | 1 | 1,000 | 100 | 650 | 250 | 75.0% | 650, 3 of 4 | {saved}" in lines
    assert "| 256 MiB | no store again | 1 | 1,000 | 210 | 0 | 790 | 21.0% |  | 5 | 100 | 890 | 10 (1.1%) |" in lines
    assert "Of 1,000 tokens 800 (80.0%) had been the beginning of an earlier prompt" in "\n".join(lines)


def test_a_trace_has_no_target() -> None:
    rows = [row(OFF, 2.0, "prompts that go on"), row(STORE, 0.5, "prompts that go on")]
    document = {**DOCUMENT, "load": "trace", "kinds": ["new prompts", "prompts that go on"], "requests": rows}
    assert "## The target" not in page.render(document, "run.json")


def test_what_the_store_had_to_evict_is_said() -> None:
    store = {"repeat": 0, "cache_bytes": 256 * MIB, "side": STORE, "capacity_bytes": 3072 * MIB, "keys": 1200}
    assert "| 256 MiB | 1 | 3,072 MiB | 1,200 | 60 |" in render(store=[{**store, "evicted_keys": 60}])


def test_a_load_generator_at_its_limit_is_said() -> None:
    late = row(OFF, 2.0, "all", generator_limit="requests started late")
    assert "- no store, caches of 256 MiB, run 1: requests started late" in render(requests=[late])
