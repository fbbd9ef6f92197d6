"""The load that broke the demo this project grew from: ten users at once, then a hundred; `make soak` in short."""

import json
import os
import subprocess
import sys
from pathlib import Path

from stack.configuration.settings import REPOSITORY
from tests.real_stack import START_LIMIT_S, RealStack, metrics

# Two blocks of the KV cache each: half of the hundred find room at once, the others wait for their blocks.
LOAD = ("--duration", "75s", "--input-tokens", "40", "--output-tokens", "12")


def test_ten_users_then_a_hundred_without_an_error(stack: RealStack, tmp_path: Path) -> None:
    before = metrics(stack.decode_url)
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *LOAD, "--out", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, **stack.variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_LIMIT_S,
        check=False,
    )
    load = (tmp_path / "load.log").read_text(errors="replace") if (tmp_path / "load.log").exists() else ""
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}\n{load}"
    for row in ("TTFT", "TPOT", "ITL"):
        assert row in load

    report = json.loads((tmp_path / "report.json").read_text())
    passed = {line["name"]: line["passed"] for line in report["lines"]}
    for line in (
        "no hang",
        "requests",
        "restarts",
        "decode-0: blocks in use at the end",
        "prefill-0: transfers failed",
    ):
        assert passed[line] is True
    assert max(sample["requests"]["in_flight"] for sample in report["samples"]) > 50
    arrived = metrics(stack.decode_url)["pd_kv_received_shares_total"] - before.get("pd_kv_received_shares_total", 0)
    assert arrived >= 100
    assert (tmp_path / "report.md").exists()
    assert "Plotly.newPlot" in (tmp_path / "report.html").read_text()
