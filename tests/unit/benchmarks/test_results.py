"""The raw file and the page made from it."""

import json
from pathlib import Path
from typing import Any

from benchmarks import program
from benchmarks.connector import page
from benchmarks.results import Results, dump
from stack.configuration.settings import REPOSITORY
from tests.unit.benchmarks.conftest import ABOUT

FACTS = {"bytes": 2_000_000, "early_bytes": 1_500_000, "pieces": 28, "exposed_seconds": 0.0042}


def row(route: str, ttft_s: float, **more: Any) -> dict[str, Any]:
    return {"stage": "tcp", "route": route, "prompt_tokens": 1000, "ttft_s": ttft_s, **more}


def cells(text: str, route: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if f"| {route} |" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_that_of_the_medians_of_one_stage() -> None:
    latency = [row("single", ttft) for ttft in (0.1, 0.2, 0.9)]
    latency += [row("ours", ttft, second_s=0.03, prefill_s=0.19, transfer=FACTS) for ttft in (0.25, 0.2, 0.3)]
    latency += [{**row("single", 5.0), "stage": "another"}]
    text = page.render({**ABOUT, "ended": "complete", "latency": latency}, "run.json")
    expected = ["tcp", "1,000", "ours", "250.0", "200.0 to 300.0", "1.25", "60.0", "30.0"]
    assert cells(text, "ours") == [*expected, "4.2", "75%", "28", "2.0", "3"]


def test_failed_requests_are_counted_and_left_out_of_the_medians() -> None:
    failed = {"stage": "tcp", "route": "ours", "prompt_tokens": 1000, "failed": "HTTP 500"}
    latency = [row("single", 0.1), failed, row("ours", 0.2), failed]
    text = page.render({**ABOUT, "ended": "complete", "latency": latency}, "run.json")
    assert cells(text, "ours")[3] == "200.0"
    assert cells(text, "ours")[-1] == "3, 2 failed"
    assert "- 2 × ours: HTTP 500" in text


def test_a_route_that_only_failed_has_no_numbers() -> None:
    failed = {"stage": "tcp", "route": "upstream", "prompt_tokens": 1000, "failed": "HTTP 500"}
    text = page.render({**ABOUT, "ended": "complete", "latency": [failed]}, "run.json")
    assert cells(text, "upstream")[3:] == [*[""] * 9, "1, 1 failed"]


def test_pieces_are_a_range_because_they_depend_on_where_free_blocks_lie() -> None:
    latency = [row("ours", 0.2, transfer={**FACTS, "pieces": pieces}) for pieces in (960, 28, 28)]
    text = page.render({**ABOUT, "ended": "complete", "latency": latency}, "run.json")
    assert cells(text, "ours")[10] == "28 to 960"


def test_percentiles_are_over_all_gaps_of_all_requests() -> None:
    load = {"stage": "tcp", "route": "ours", "users": 8, "round": 0, "tokens": 201}
    slow, fast = {**load, "ttft_s": 3.0, "itl_s": [0.1] * 50}, {**load, "ttft_s": 1.0, "itl_s": [0.01] * 150}
    text = page.render({**ABOUT, "ended": "complete", "concurrency": [slow, fast]}, "run.json")
    assert cells(text, "ours")[3:] == [
        *("2000.0", "2980.0"),  # TTFT
        *("10.0", "100.0"),  # ITL: 150 gaps of 10 ms, 50 of 100 ms
        *("16.2", "24.8"),  # TPOT: 5 s and 1.5 s for 200 tokens
        *("2.0", "2"),  # 402 tokens in 202 events
    ]


def test_the_threshold_shows_what_either_way_costs() -> None:
    rows = [
        row("consumer alone", 0.020, longest_gap_s=0.018, prompt_tokens=64),
        row("ours", 0.030, longest_gap_s=0.010, prompt_tokens=64),
    ]
    text = page.render({**ABOUT, "ended": "complete", "threshold": rows}, "run.json")
    assert cells(text, "tcp") == ["tcp", "64", "20.0", "30.0", "10.0", "18.0", "10.0", "8.0"]


def test_the_slow_link_shows_what_stays_after_the_prefill() -> None:
    link = [row("streaming off", 1.5, prefill_s=0.5, transfer={**FACTS, "exposed_seconds": at}) for at in (1.0, 0.9)]
    text = page.render({**ABOUT, "ended": "complete", "link": link}, "run.json")
    assert cells(text, "streaming off")[:5] == ["streaming off", "950.0", "900.0 to 1000.0", "500.0", "1500.0"]


def test_the_raw_file_has_one_line_for_each_request(tmp_path: Path) -> None:
    results = Results(tmp_path, "run", ABOUT, page.render)
    results.add("latency", **row("single", 0.123456789))
    results.add("latency", **row("ours", 0.2, transfer=FACTS))
    results.end("complete")
    text = results.json_file.read_text()
    assert sum('"route"' in line for line in text.splitlines()) == 2
    document = json.loads(text)
    assert document["latency"][0]["ttft_s"] == 0.12346
    assert document["ended"] == "complete"
    assert results.page_file.read_text().startswith("# A test\n")


def test_what_is_written_before_the_end_says_so(tmp_path: Path) -> None:
    results = Results(tmp_path, "run", ABOUT, page.render)
    results.add("latency", **row("single", 0.1))
    results.write()
    assert "ended: not yet" in results.page_file.read_text()


def test_a_run_without_a_measurement_leaves_no_files(tmp_path: Path) -> None:
    Results(tmp_path, "run", ABOUT, page.render).end("etcd ended with status 1")
    assert list(tmp_path.iterdir()) == []


def test_dumped_documents_are_json() -> None:
    document = {"a": 1, "rows": [{"b": [1, 2]}, {"b": []}], "none": [], "text": "ü"}
    assert json.loads(dump(document)) == document


def test_a_recorded_command_does_not_name_the_folders_of_a_machine() -> None:
    words = ["--etcd", f"{REPOSITORY}/.stack/etcd", "--nginx", "/opt/nginx/sbin/nginx", "--rounds", "3"]
    assert [program.shown(word) for word in words] == ["--etcd", ".stack/etcd", "--nginx", "nginx", "--rounds", "3"]
