"""Predicted beside measured: the same requests, the errors, and who wins."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan import check
from benchmarks.plan.measured import Measured, pooled
from benchmarks.serving.points import points
from loadtest.figures.slo import Slo
from loadtest.sending import arrivals as loadtest_arrivals
from loadtest.settings import LoadTestSettings
from planner.sizing.splits import Split
from tests.unit.planner.profiles import profile

LONE = "2000/10@0.05"  # so seldom that nobody waits
MIXTURE = "10/20+1000/5:0.5@0.1"


def row(side: str, point: str, ttft_s: float, itl_s: float, requests: str = "all", n: int = 100) -> dict[str, Any]:
    figures = {"ttft_p50_s": ttft_s, "tpot_p50_s": 0.01, "itl_p99_s": itl_s}
    return {"repeat": 0, "side": side, "point": point, "requests": requests, "ttft_n": n, "itl_n": n, **figures}


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    plan = {
        "points": [LONE, MIXTURE],
        "seconds": 1000.0,
        "warmup": 100.0,
        "seed": 7,
        "slo": "TTFT ≤ 2 s, TPOT ≤ 0.03 s, worst gaps ≤ 0.1 s",
        "variables": {"PROXY_LOCAL_PROMPT_TOKENS": "0"},
    }
    instances = "disaggregated: 1 decode, 1 prefill; aggregated: 2 aggregated; upstream connector: 2 servers"
    return {"plan": plan, "conditions": {"instances": instances}, "measurements": list(rows)}


def test_what_was_measured() -> None:
    measured = Measured(document())
    assert measured.slo == Slo(2.0, 0.03, 0.1)
    assert [measured.split(side) for side in ("disaggregated", "aggregated", "another")] == [
        Split(1, 1),
        Split(0, 0, 2),
        None,
    ]


def test_the_requests_are_those_of_the_load_test() -> None:
    """A plain point's times are drawn by the load test itself, with the seed of its place in the plan."""
    found = Measured(document()).arrivals(points(LONE)[0], 0)
    settings = LoadTestSettings(loadtest_arrivals="poisson", loadtest_rate=0.05, loadtest_seed=7)
    times = itertools.takewhile(
        lambda at: at < 1100, loadtest_arrivals.schedule(settings, None, seconds=1100, requests=None)
    )
    assert [each.at_s for each in found] == pytest.approx(list(times))
    assert {(each.prompt.tokens, each.output_tokens, each.output_limit) for each in found} == {(2000, 10, 10)}


def test_of_several_hours_counts_the_median() -> None:
    hours = [
        document(row("aggregated", LONE, ttft_s, 0.01, n=n), row("disaggregated", LONE, 0.2, 0.01))
        for ttft_s, n in ((0.3, 120), (0.9, 110), (0.4, 130))
    ]
    found = {each["side"]: each for each in pooled(hours)["measurements"]}
    assert (found["aggregated"]["ttft_p50_s"], found["aggregated"]["ttft_n"]) == (0.4, 110)
    assert pooled(hours[:1]) == hours[0]
    # What was not measured in each of them says nothing of them all.
    assert [each["side"] for each in pooled([*hours, document(*hours[0]["measurements"][:1])])["measurements"]] == [
        "aggregated"
    ]
    with pytest.raises(ValueError, match="seed: 8 in one, 7 in another comparison"):
        pooled([hours[0], {**hours[1], "plan": {**hours[1]["plan"], "seed": 8}}])
    with pytest.raises(ValueError, match="not of the same instances"):
        pooled([hours[0], {**hours[1], "conditions": {"instances": "aggregated: 3 aggregated"}}])


def test_predicted_beside_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone prompt of 2,000 takes 0.21 s everywhere, its answer's steps 10 ms; its KV cache is 2 ms on its way."""
    file, profile_file = tmp_path / "2026-01-01T0000-serving-cpu.json", tmp_path / "profile.json"
    rows = [
        row("disaggregated", LONE, 0.20, 0.010),
        row("aggregated", LONE, 0.30, 0.009, n=99),
        row("disaggregated", MIXTURE, 0.21, 0.010, "long prompts"),
    ]
    file.write_text(json.dumps(document(*rows)))
    profile_file.write_text(profile().model_dump_json())
    words = ["--profile", str(profile_file), "--results", str(file), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["check", *words])
    assert check.main() == 0
    page = (tmp_path / "2026-01-01T0000-plan-check-cpu.md").read_text()
    assert f"| {LONE} | all | disaggregated | 210.0, 200.0 (+5%) | 10.2, 10.0 (+2%) | 12.0, 10.0 (+20%) |" in page
    assert f"| {LONE} | all | aggregated | 210.0, 300.0 (-30%) | 10.0, 10.0 (+0%) |  |" in page
    assert f"| {MIXTURE} | long prompts | disaggregated | 110.0, 210.0 (-48%) |" in page
    assert f"| {LONE} | all | TTFT P50 | 1.00 | 0.67 | **wrong** |" in page
    assert "TTFT P50 is off by 30% in the median and by 48% at most (1 of 3 within 15%)" in page
    assert "The right side wins in 0 of the 1 figures whose measured ratio is clear." in page
    figures = json.loads((tmp_path / "2026-01-01T0000-plan-check-cpu.json").read_text())["figures"]
    assert figures[2]["ttft_p50_s_predicted"] == pytest.approx(0.21)
    assert (figures[2]["ttft_p50_s_measured"], figures[2]["itl_p99_s_measured"]) == (0.30, None)


@pytest.mark.parametrize("content", ["{", "{}", '{"plan": {"slo": "none", "variables": {}}}'])
def test_results_that_are_no_comparison_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file, profile_file = tmp_path / "results.json", tmp_path / "profile.json"
    file.write_text(content)
    profile_file.write_text(profile().model_dump_json())
    monkeypatch.setattr(sys, "argv", ["check", "--profile", str(profile_file), "--results", str(file)])
    assert check.main() == 2
    assert capsys.readouterr().err.startswith(f"--results='{file}': expected a comparison's .json: ")
