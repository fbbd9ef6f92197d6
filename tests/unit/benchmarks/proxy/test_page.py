"""The page made from a run's results, and its targets."""

from typing import Any

import pytest

from benchmarks.proxy.options import parse
from benchmarks.proxy.report import page, targets

SETTINGS = {name: value for name, value in vars(parse(["latency"])).items() if isinstance(value, int | float)}
HEAD = {
    "title": "A test",
    "command": "python -m benchmarks.proxy latency",
    "started": "2026-01-01",
    "ended": "complete",
    "machine": {"CPU": "none"},
    "versions": {"commit": "none"},
    "settings": SETTINGS,
}


def latency(peer: str, ttft_ms: float | None, **more: Any) -> dict[str, Any]:
    times = dict.fromkeys(("ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "delay_p50_ms", "delay_p99_ms"), 1.0)
    row = {"peer": peer, "streams": 1, "round": 0, "requests": 100, "cpu_s": 1.0, "errors": {}}
    return {**row, **times, "ttft_p50_ms": ttft_ms, **more}


def throughput(peer: str, rate: float, cpu_s: float = 1.0, **more: Any) -> dict[str, Any]:
    row = {"peer": peer, "connections": 32, "round": 0, "requests_per_s": rate, "requests": 1000, "cpu_s": cpu_s}
    return {**row, "p50_ms": 1.0, "p99_ms": 2.0, "errors": {}, **more}


def chunks(peer: str, rate: float, cpu_s: float, interval_ms: int) -> dict[str, Any]:
    row = {"peer": peer, "interval_ms": interval_ms, "round": 0, "requests": 10, "cpu_s": cpu_s, "events": 1000}
    return {
        **row,
        "reads": 500,
        "offered_per_s": 2560,
        "events_per_s": rate,
        "delay_p50_ms": 1.0,
        "delay_p99_ms": 2.0,
        "errors": {},
    }


def cells(text: str, *start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith("| " + " | ".join(start) + " |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_direct_way_is_shown_as_it_is_and_a_proxy_as_what_it_adds() -> None:
    text = page.render({**HEAD, "latency": [latency("direct", 0.25), latency("ours", 1.5)]}, "run.json")
    assert cells(text, "1", "direct")[2] == "0.25"
    assert cells(text, "1", "ours")[2] == "+1.25"
    assert cells(text, "1", "ours")[-2:] == ["1.50 to 1.50", "100"]


def test_failures_are_counted_and_named() -> None:
    failing = latency("toy", 3.0, errors={"HTTP 500": 3, "ended without [DONE]": 1})
    text = page.render({**HEAD, "latency": [latency("direct", 0.25), failing, failing]}, "run.json")
    assert cells(text, "1", "toy")[-1] == "200, 8 failed"
    assert "- 6 × toy: HTTP 500" in text
    assert "- 2 × toy: ended without [DONE]" in text


def test_a_proxy_of_which_nothing_came_has_no_figures() -> None:
    failing = latency("toy", None, requests=0, errors={"HTTP 500": 9})
    text = page.render({**HEAD, "latency": [latency("direct", 0.25), failing]}, "run.json")
    assert cells(text, "1", "toy")[2] == ""
    assert cells(text, "1", "toy")[-2:] == ["", "0, 9 failed"]


def test_requests_a_second_are_medians_with_their_spread() -> None:
    rows = [
        throughput("ours", rate, cpu_s, round=at) for at, (rate, cpu_s) in enumerate([(900, 1), (1000, 2), (400, 1)])
    ]
    text = page.render({**HEAD, "throughput": rows}, "run.json")
    assert cells(text, "32", "ours")[2:5] == ["900", "400 to 1,000", "90,000"]
    assert cells(text, "32", "ours")[-2:] == ["1.33", "3,000"]


def test_events_of_a_late_proxy_come_several_at_once() -> None:
    text = page.render({**HEAD, "chunks": [chunks("ours", 2500, 0.5, 100)]}, "run.json")
    assert cells(text, "100", "ours")[2:] == ["2,560", "2,500", "2,500 to 2,500", "2.0", "1.00", "2.00", "2,000", "10"]


def test_memory_is_compared_with_the_idle_proxy() -> None:
    rows = [
        {"peer": "ours", "state": "idle", "streams": 0, "rss_mb": [100.0]},
        {"peer": "ours", "state": "open", "streams": 2000, "rss_mb": [219.0, 220.0, 221.0]},
        {"peer": "ours", "state": "closed", "streams": 0, "rss_mb": [180.0], "errors": {}},
    ]
    text = page.render({**HEAD, "memory": rows}, "run.json")
    assert cells(text, "ours", "2,000 open")[2:] == ["220.0", "60.5", "+2.0"]
    assert cells(text, "ours", "closed")[2:] == ["180.0", "", ""]


def test_a_profile_is_two_tables_for_each_load() -> None:
    rows = [
        {"load": "32 requests at once", "kind": "package", "name": "quart", "share": 0.25},
        {"load": "32 requests at once", "kind": "function", "name": "send (quart/asgi.py)", "share": 0.1},
    ]
    text = page.render({**HEAD, "profile": rows}, "run.json")
    assert "| `quart` | 25.0% |" in text
    assert "| `send (quart/asgi.py)` | 10.0% |" in text


MET = {
    "latency": [latency("direct", 0.5), latency("ours", 1.5)],
    "throughput": [
        throughput("ours", 1000),
        throughput("ours-2-workers", 1900),
        throughput("seed", 200),
        throughput("toy", 100),
        throughput("vllm-router", 2000, cpu_s=0.5),
    ],
    "chunks": [
        *(chunks("ours", 2500, 0.1, interval_ms) for interval_ms in (100, 5)),
        *(chunks(peer, 500, 0.5, interval_ms) for peer in ("seed", "toy") for interval_ms in (100, 5)),
    ],
    "memory": [{"peer": "ours", "state": "open", "streams": 2000, "rss_mb": [200.0, 201.0]}],
}
MISSED = {
    "latency": [latency("direct", 0.5), latency("ours", 2.5)],
    "throughput": [
        throughput("ours", 1000, cpu_s=5.0),
        throughput("ours-2-workers", 1700),
        throughput("seed", 300),
        throughput("toy", 260),
        throughput("vllm-router", 2000),
    ],
    "chunks": [
        *(chunks("ours", 1900, 0.2, interval_ms) for interval_ms in (100, 5)),
        *(chunks(peer, 500, 0.5, interval_ms) for peer in ("seed", "toy") for interval_ms in (100, 5)),
    ],
    "memory": [{"peer": "ours", "state": "open", "streams": 2000, "rss_mb": [200.0, 210.0]}],
}


@pytest.mark.parametrize(("document", "expected"), [(MET, "yes"), (MISSED, "**no**")], ids=["met", "missed"])
def test_targets_stand_beside_what_was_measured(document: dict[str, Any], expected: str) -> None:
    lines = targets.lines(document)
    assert len(lines) == 1 + 4 + 6 + 1
    assert {met for *_, met in lines} == {expected}


def test_a_target_whose_proxies_were_not_measured_is_left_out() -> None:
    assert targets.lines({"throughput": [throughput("ours", 1000)]}) == []
    assert "## Targets" not in page.render({**HEAD, "throughput": [throughput("ours", 1000)]}, "run.json")


def test_what_the_console_costs_is_compared_with_the_checkout_before_and_with_itself_closed() -> None:
    rows = [throughput("ours-before", 1000), throughput("ours", 985), throughput("ours-console-open", 930)]
    ttft = [latency("ours-before", 1.0), latency("ours", 1.03), latency("ours-console-open", 1.07)]
    assert targets.lines({"throughput": rows, "latency": ttft}) == [
        ("TTFT P50 with 1 streams, `ours` against `ours-before`", "at most 1.02 times", "1.030 times", "**no**"),
        ("TTFT P50 with 1 streams, `ours-console-open` against `ours`", "at most 1.05 times", "1.039 times", "yes"),
        ("requests/s at 32, `ours` against `ours-before`", "at least 0.98 times", "0.985 times", "yes"),
        ("requests/s at 32, `ours-console-open` against `ours`", "at least 0.95 times", "0.944 times", "**no**"),
    ]
