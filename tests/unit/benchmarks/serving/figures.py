"""Rows of a document as a comparison makes them, with every figure equal unless a test says otherwise."""

from typing import Any

from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED
from benchmarks.tables import Row

POINT = "512/64@0.5"
MIXTURE = "64/200+8000/8:0.1@2"
HEAD: dict[str, Any] = {
    "title": "A test",
    "command": "python -m benchmarks.serving --quick",
    "started": "2026-01-01",
    "ended": "complete",
    "raw_file": "run.json",
    "html_file": "run.html",
    "machine": {"CPU": "none"},
    "versions": {"commit": "none"},
    "conditions": {"model": "m"},
}


def row(side: str, point: str = POINT, requests: str = ALL, repeat: int = 0, **figures: Any) -> Row:
    times = {f"{name}_{part}_s": 1.0 for name in ("ttft", "itl", "tpot") for part in ("p50", "p99")}
    counts = {"ttft_n": 200, "itl_n": 10_000, "tpot_n": 200}
    whole = {"offered_per_s": 0.5, "goodput_per_s": 0.5, "goodput_share": 1.0, "saturation": None}
    more: Row = {"generator_limit": None, "outcomes": {"completed": 200}, "errors": {}, "paths": {}, "transports": {}}
    about = {"repeat": repeat, "side": side, "point": point, "requests": requests}
    return {**about, **times, **counts, **whole, **more, **figures}


def pair(point: str = POINT, requests: str = ALL, repeat: int = 0, **ratios: float) -> list[Row]:
    """Both sides at one point; `ratios` by key: the disaggregated side's figure where the other one's is 1."""
    return [
        row(DISAGGREGATED, point, requests, repeat, **{"goodput_per_s": 1.0, **ratios}),
        row(AGGREGATED, point, requests, repeat, goodput_per_s=1.0),
    ]
