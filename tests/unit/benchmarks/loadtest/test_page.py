"""Which step is within the generator's limit, and what the page makes of the rows."""

from typing import Any

import pytest

from benchmarks.loadtest import page
from benchmarks.loadtest.limit import within
from benchmarks.loadtest.options import parse
from benchmarks.tables import Row
from tests.unit.benchmarks.conftest import ABOUT

SETTINGS = {"streams": 200, "rounds": 2}


def spread(p99: float) -> Row:
    return {"p50": p99 / 10, "p99": p99, "max": p99 * 2}


def step(**values: Any) -> Row:
    return {
        "workers": 1,
        "kind": "chunks",
        "streams_per_s": 50.0,
        "chunks_per_s": 3200.0,
        "open": 160.0,
        "came": 1.0,
        "unmatched": 0,
        "gap_error_s": spread(0.001),
        "start_delay_s": spread(0.002),
        "server_late_s": spread(0.001),
        "cpu_share": 0.15,
        "generator_limit": None,
        "within": True,
        **values,
    }


def render(**tables: list[Row]) -> str:
    return page.render({**ABOUT, "ended": "complete", "settings": SETTINGS, **tables}, "run.json")


def cells(text: str, start: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"came": 0.97}, False),
        ({"unmatched": 1}, False),
        ({"gap_error_s": spread(0.0021)}, False),
        ({"start_delay_s": spread(0.011)}, False),
        ({"gap_error_s": {}, "start_delay_s": {}}, False),
    ],
)
def test_a_step_is_within_when_all_came_in_time(values: Row, expected: bool) -> None:
    assert within(step(**values)) is expected


def test_the_limit_is_the_last_step_within_and_the_first_that_marks_itself() -> None:
    rows = [
        step(),
        step(chunks_per_s=6400.0, generator_limit="CPU", within=True),
        step(chunks_per_s=12800.0, generator_limit="CPU", within=False),
        step(workers=2, chunks_per_s=12800.0),
    ]
    text = render(limit=rows)
    assert ["1", "chunks", "6,400", "6,400", "6,400"] in cells(text, "1")
    assert ["2", "chunks", "12,800", "6,400", "no step"] in cells(text, "2")


def test_accuracy_is_the_median_of_rounds_and_the_largest_of_all() -> None:
    rows = [
        {
            "arrivals": "closed",
            "streams": 400,
            "gaps": 25000,
            "unmatched": 0,
            **dict.fromkeys(("worst_gap_error_s", "tpot_error_s", "server_late_s", "start_delay_s"), spread(0.001)),
            "gap_error_s": spread(p99),
            "ttft_error_s": spread(p99 * 3),
        }
        for p99 in (0.0010, 0.0012, 0.0090)
    ]
    text = render(accuracy=rows)
    found = {row[1]: row[2:] for row in cells(text, "closed")}
    assert found["ITL, per gap"] == ["0.12", "1.20", "18.00", "yes"]
    assert found["TTFT, per stream"] == ["0.36", "3.60", "54.00", "**no**"]
    assert "3 runs, 1,200 streams with 75,000 gaps" in text


def test_agreement_compares_medians_over_rounds() -> None:
    def row(tool: str, ttft_s: float) -> Row:
        return {"target": "stack", "tool": tool, "ttft_p50_s": ttft_s, "itl_p50_s": 0.05, "failed_requests": 0}

    rows = [
        row("ours", 0.4),
        row("vllm", 0.41),
        row("vllm", 0.5),
        row("ours", 0.44),
        row("ours", 0.9),
        row("vllm", 0.38),
    ]
    text = render(agreement=[*rows, {"target": "stack", "tool": "vllm", "failed": "vllm ended with status 1:\nx"}])
    expected = ["stack", "TTFT P50", "440.0", "400.0 to 900.0", "410.0", "380.0 to 500.0", "1.073", "**no**"]
    assert cells(text, "stack")[0] == expected
    assert cells(text, "stack")[1][-2:] == ["1.000", "yes"]
    assert "- 1 × vllm ended with status 1:" in text


def test_what_agreement_needs_is_asked_for_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["agreement", "--vllm-python", "/no/such/python"])
    assert "--vllm-python='/no/such/python': not there" in capsys.readouterr().err
    assert parse(["accuracy", "--vllm-python", "/no/such/python"]).measurements == ("accuracy",)
