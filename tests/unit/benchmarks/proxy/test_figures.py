"""Figures of rounds and loads: percentiles, what a proxy adds, what several load generators saw together."""

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.proxy.clients import streams, wrk
from benchmarks.proxy.clients.histogram import Histogram
from benchmarks.proxy.measurements import profile
from benchmarks.proxy.report.summary import added, cpu_s_per_1000, events_per_cpu_s, median, times


def histogram(*times_us: float) -> Histogram:
    found = Histogram()
    for time_us in times_us:
        found.add_us(time_us)
    return found


def test_percentiles_are_to_10_us() -> None:
    times = histogram(*range(0, 100_000, 1000))
    assert times.percentile_ms(50) == pytest.approx(49.005)
    assert times.percentile_ms(99) == pytest.approx(98.005)
    assert times.percentile_ms(100) == pytest.approx(99.005)


def test_nothing_has_no_percentile() -> None:
    assert Histogram().percentile_ms(50) is None


def test_a_histogram_survives_json_and_merging() -> None:
    sent = json.loads(json.dumps(histogram(5, 15, 15).counts))
    assert Histogram.merged([Histogram.of_json(sent), histogram(15)]).counts == Counter({1: 3, 0: 1})


def rounds(*values: float | None) -> list[dict[str, Any]]:
    return [{"round": number, "ttft_p50_ms": value} for number, value in enumerate(values)]


def test_what_a_proxy_adds_is_compared_round_by_round() -> None:
    # The direct way was slow in the round in which the proxy was: that is the machine, not the proxy.
    assert added(rounds(1.5, 9.0, 1.7), rounds(0.5, 8.1, 0.6), "ttft_p50_ms") == pytest.approx(1.0)


def test_how_many_times_it_is_is_taken_round_by_round() -> None:
    assert times(rounds(1.1, 8.0, 1.2), rounds(1.0, 10.0, 1.0), "ttft_p50_ms") == pytest.approx(1.1)
    assert times(rounds(1.1, None, 1.2), rounds(1.0, 10.0), "ttft_p50_ms") == pytest.approx(1.1)
    assert times(rounds(None), rounds(1.0), "ttft_p50_ms") is None


def test_a_round_in_which_nothing_came_does_not_count() -> None:
    assert median(rounds(3.0, None, 1.0), "ttft_p50_ms") == 2.0
    assert added(rounds(3.0, None, 2.0), rounds(1.0, 1.0, None), "ttft_p50_ms") == 2.0
    assert added(rounds(None), rounds(1.0), "ttft_p50_ms") is None
    assert median(rounds(None), "ttft_p50_ms") is None


def test_cpu_is_that_of_all_rounds_together() -> None:
    rows = [{"cpu_s": 1.0, "requests": 900, "events": 90_000}, {"cpu_s": 0.5, "requests": 100, "events": 10_000}]
    assert cpu_s_per_1000(rows) == 1.5
    assert events_per_cpu_s(rows) == pytest.approx(66_666.7, abs=0.1)


def test_without_requests_or_cpu_time_there_is_no_cost() -> None:
    assert cpu_s_per_1000([{"cpu_s": 1.0, "requests": 0}]) is None
    assert events_per_cpu_s([{"cpu_s": 0.0, "events": 10}]) is None


@pytest.mark.parametrize(
    ("connections", "processes", "expected"),
    [(1, 4, [1]), (16, 4, [16]), (32, 4, [16, 16]), (257, 4, [65, 64, 64, 64]), (256, 1, [256])],
)
def test_connections_are_spread_over_as_few_processes_as_will_do(
    connections: int, processes: int, expected: list[int]
) -> None:
    assert streams.shares(connections, processes) == expected


def test_what_several_processes_of_the_load_generator_saw_is_one_load() -> None:
    counts = {"requests": 2, "events": 20, "reads": 10, "events_per_s": 4.5, "errors": {"HTTP 503": 1}}
    times = {name: {"3": 2} for name in ("ttft", "whole", "gaps", "delays")}
    load = streams.merged([{**counts, **times}, {**counts, **times, "errors": {}}])
    assert (load.requests, load.events, load.reads, load.events_per_s) == (4, 40, 20, 9.0)
    assert load.errors == {"HTTP 503": 1}
    assert load.delays.counts == {3: 4}


def test_failures_of_wrk_are_those_that_happened() -> None:
    errors = {"cannot connect": 0, "read failed": 3, "write failed": 0, "HTTP status": 7, "timed out": 0}
    seen = {"requests": 507, "duration_us": 250_000, "bytes": 1_000_000, "p50_us": 1500, "p99_us": 9000}
    result = wrk.parse(json.dumps({**seen, "errors": errors}))
    assert (result.requests_per_s, result.bytes_per_request, result.p50_ms, result.p99_ms) == (2000, 2000, 1.5, 9.0)
    assert result.errors == {"read failed": 3, "HTTP status": 7}


def test_samples_belong_to_the_innermost_frame_and_its_package() -> None:
    main = "main (proxy/__main__.py:20);run (asyncio/runners.py:118)"
    packages, functions = profile.shares(
        [
            f"{main};send (uvicorn/protocols/http/httptools_impl.py:480) 6",
            f"{main};send (uvicorn/protocols/http/httptools_impl.py:499) 1",
            f"{main};uuid4 (uuid.py:723) 3",
            "_bootstrap (threading.py:1002);wait (threading.py:331) 90",
        ]
    )
    assert functions == {"send (uvicorn/protocols/http/httptools_impl.py)": 0.7, "uuid4 (uuid.py)": 0.3}
    assert packages == {"uvicorn": 0.7, "uuid": 0.3}
