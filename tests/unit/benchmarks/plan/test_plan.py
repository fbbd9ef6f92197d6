"""`python -m benchmarks.plan`: what it refuses, and what it writes."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.plan import __main__ as program
from benchmarks.plan import traffic
from benchmarks.plan.options import parse
from loadtest.figures.record import RequestRecord
from loadtest.runs.requests_file import RequestsFile
from planner.profile import Crowding
from stack.configuration.environment import ConfigError
from tests.unit.planner.profiles import profile

# An aggregated step with a prompt of 2,000 stops answers for 0.21 s.
SLO = ("--slo-ttft", "3", "--slo-tpot", "1", "--slo-itl", "0.05")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    file = tmp_path / "profile.json"
    file.write_text(profile().model_dump_json())
    return file


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    return program.main()


def test_disaggregate(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "--profile",
        str(measured),
        "--gpus",
        "2",
        "--point",
        "2000/40@1",
        *SLO,
        "--requests",
        "40",
        "--seconds",
        "1",
    )
    out = tmp_path / "plan"
    assert run(monkeypatch, *words, "--price", "3.6", "--no-changes", "--results", str(out)) == 0
    page, env = (out / "plan.md").read_text(), (out / "plan.env").read_text()
    assert page.startswith("# How many of each, and whether at all\n\n**Disaggregate: run 1 producer and 1 consumer**")
    assert "| **1P1D** |" in page
    assert "| decode | 9 | 4.0% | 20.0% |" in page
    assert "PREFILL_REPLICAS=1\nDECODE_REPLICAS=1\nMAX_NUM_BATCHED_TOKENS=2000\n" in env
    assert "COMPOSE_FILE" not in env
    assert (out / "values.yaml").read_text() == "prefill:\n  replicas: 1\ndecode:\n  replicas: 1\n"
    assert "Plotly.newPlot" in (out / "plan.html").read_text()
    document = json.loads((out / "plan.json").read_text())
    assert (document["stand"], document["chosen"], document["rate"]) == ("disaggregate", "1P1D", 1.0)
    best = document["splits"][1]
    # 2 GPUs at 3.6 an hour are 0.002 a second, for 40 tokens of every request.
    assert best["cost_of_a_million"] == pytest.approx(0.002 / (best["largest_per_s"] * 40) * 1e6)


def test_do_not_disaggregate(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps may be as long as they like: then a second server that computes prompts is worth more than a consumer."""
    out = tmp_path / "plan"
    out.mkdir()
    (out / "values.yaml").write_text("of an earlier plan\n")
    words = (
        "--profile",
        str(measured),
        "--gpus",
        "3",
        "--point",
        "2000/2@1",
        "--requests",
        "40",
        "--slo-ttft",
        "2",
        "--seconds",
        "1",
    )
    assert run(monkeypatch, *words, "--slo-tpot", "9", "--slo-itl", "9", "--no-changes", "--results", str(out)) == 0
    assert "**Do not disaggregate: run 3 aggregated servers**" in (out / "plan.md").read_text()
    env = (out / "plan.env").read_text()
    assert "PREFILL_REPLICAS=2\nDECODE_REPLICAS=1\nCOMPOSE_FILE=compose.yaml:compose.baseline.yaml\n" in env
    assert not (out / "values.yaml").exists()


def test_a_request_that_no_instance_holds_is_one_line(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--profile", str(measured), "--gpus", "2", "--point", "200000/2@1", "--results", str(tmp_path / "plan"))
    assert run(monkeypatch, *words) == 1
    assert "plan: a request of 200002 tokens, prompt and answer: expected at most 100000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--gpus", "2", "--point", "64/400"], "expected requests a second after @"),
        (["--gpus", "2", "--point", "64/400@1,2"], "expected one rate"),
        (["--gpus", "0", "--point", "64/400@1"], "expected 1 or more"),
        (["--gpus", "2"], "one of the arguments --point --trace --requests-file is required"),
        (["--gpus", "2", "--point", "64/400@1", "--transport", "rdma"], "--transport='rdma': expected one of tcp"),
        (["--gpus", "2", "--point", "64/400@1", "--attainment", "1.5"], "expected a share"),
        (["--gpus", "2", "--trace", "nowhere.jsonl"], "--trace='nowhere.jsonl'"),
        (["--gpus", "2", "--requests-file", "nowhere.jsonl"], "--requests-file='nowhere.jsonl'"),
    ],
)
def test_options_that_cannot_work(
    measured: Path, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--profile", str(measured), *words])
    assert line in capsys.readouterr().err


def test_no_profile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(["--profile", "nowhere.json", "--gpus", "2", "--point", "64/400@1"])
    assert "--profile='nowhere.json': No such file" in capsys.readouterr().err


def test_the_proxys_own_setting_counts(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--profile", str(measured), "--gpus", "2", "--point", "64/400@1"]
    assert parse(words).case.variant.policy.local_prompt_tokens == 96
    monkeypatch.setenv("PROXY_LOCAL_PROMPT_TOKENS", "512")
    assert parse(words).case.variant.policy.local_prompt_tokens == 512
    assert parse([*words, "--local-prompt-tokens", "0"]).case.variant.policy.local_prompt_tokens == 0


def test_a_load_tests_requests_are_traffic(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    saved = RequestsFile(file)
    lengths = [(4.0, 700, 20), (0.0, 600, 10), (2.0, None, None)]
    saved.append(
        [
            RequestRecord(
                index=number,
                outcome="completed",
                scheduled=at_s,
                started=at_s,
                ended=at_s + 1,
                prompt_tokens=tokens,
                wanted_output_tokens=answer,
            )
            for number, (at_s, tokens, answer) in enumerate(lengths)
        ]
    )
    saved.close()
    found = traffic.of_requests(file)
    assert found.rate == 0.25
    assert [(each.at_s, each.prompt.tokens, each.output_tokens) for each in found.arrivals(0.5, 9, 1)] == [
        (0.0, 600, 10),
        (2.0, 700, 20),
    ]


def test_a_trace_needs_two_requests(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": [1]}\n')
    with pytest.raises(ConfigError, match="expected two requests or more"):
        traffic.of_trace(file)


def test_instances_may_share_less_than_the_profiles_did(tmp_path: Path) -> None:
    file = tmp_path / "shared.json"
    file.write_text(profile(crowding=0.3).model_dump_json())
    words = ["--profile", str(file), "--gpus", "2", "--point", "64/400@1"]
    assert parse(words).case.variant.profile.crowding == Crowding(**dict.fromkeys(Crowding.model_fields, 0.3))
    assert parse([*words, "--apart"]).case.variant.profile.crowding == Crowding()
