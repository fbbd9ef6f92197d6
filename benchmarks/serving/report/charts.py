"""Charts of a comparison, as HTML that holds all it needs: ratios by point, and figures against the rate."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.serving.measured import ALL
from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED, UPSTREAM
from benchmarks.serving.report.comparison import (
    FIGURES,
    GOODPUT,
    ITL_P50,
    ITL_P99,
    TPOT_P50,
    TTFT_P50,
    TTFT_P99,
    compare,
)
from benchmarks.serving.report.page import control_noise
from benchmarks.tables import Row, groups

COLORS = {DISAGGREGATED: "#3b6fd4", AGGREGATED: "#d9822b", UPSTREAM: "#4b9b5b"}
OTHER_COLOR = "#8a8f99"
PANELS = (TTFT_P50, TTFT_P99, GOODPUT, ITL_P50, ITL_P99, TPOT_P50)


def charts(document: dict[str, Any]) -> str:
    """Empty before anything has been measured."""
    rows: list[Row] = document.get("measurements", [])
    figures = [_ratios(document, rows)] if {DISAGGREGATED, AGGREGATED} <= {row["side"] for row in rows} else []
    for (shape, requests), group in groups([{**row, **_split(row)} for row in rows], "shape", "requests").items():
        figures.append(_against_rate(f"{shape} tokens, {'all requests' if requests == ALL else requests}", group))
    return "".join(
        figure.to_html(full_html=False, include_plotlyjs="inline" if number == 0 else False)
        for number, figure in enumerate(figures)
    )


def _split(row: Row) -> Row:
    shape, _, rate = row["point"].partition("@")
    return {"shape": shape, "rate": float(rate)}


def _ratios(document: dict[str, Any], rows: Sequence[Row]) -> go.Figure:
    figure = go.Figure()
    found = compare(rows, DISAGGREGATED, AGGREGATED, control_noise(document))
    names = [f"{at.point} {at.requests}" + (" (left out)" if at.left_out else "") for at in found]
    for of in FIGURES:
        known = [(at.ratios[of.name], name) for at, name in zip(found, names, strict=True) if of.name in at.ratios]
        figure.add_scatter(
            x=[ratio.median for ratio, _ in known],
            y=[name for _, name in known],
            error_x={
                "symmetric": False,
                "array": [ratio.high - ratio.median for ratio, _ in known],
                "arrayminus": [ratio.median - ratio.low for ratio, _ in known],
            },
            mode="markers",
            marker={"size": 10, "symbol": "diamond" if of is GOODPUT else "circle"},
            name=of.name,
        )
    figure.add_vline(x=1, line_color="#1c2330")
    figure.update_xaxes(type="log", title="disaggregated / aggregated: left of 1 is better, for goodput right of it")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(title="Ratios", height=220 + 40 * len(names), margin={"l": 260}, template="plotly_white")
    return figure


def _against_rate(title: str, rows: Sequence[Row]) -> go.Figure:
    figure = make_subplots(rows=2, cols=3, subplot_titles=[f"{of.name}{_unit(of.key)}" for of in PANELS])
    for (side,), group in groups(rows, "side").items():
        points = sorted((row for row in group), key=lambda row: (row["rate"], row["repeat"]))
        for number, of in enumerate(PANELS):
            figure.add_scatter(
                x=[row["rate"] for row in points],
                y=[None if row[of.key] is None else row[of.key] * _scale(of.key) for row in points],
                mode="lines+markers",
                marker={"symbol": ["x" if row["saturation"] else "circle" for row in points], "size": 9},
                line={"color": COLORS.get(side, OTHER_COLOR)},
                name=side,
                legendgroup=side,
                showlegend=number == 0,
                row=number // 3 + 1,
                col=number % 3 + 1,
            )
    figure.update_xaxes(title="requests/s", rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(title=f"{title} (×: saturated)", height=620, template="plotly_white")
    return figure


def _unit(key: str) -> str:
    return " (ms)" if key.endswith("_s") and not key.endswith("per_s") else " (requests/s)"


def _scale(key: str) -> float:
    return 1000.0 if key.endswith("_s") and not key.endswith("per_s") else 1.0
