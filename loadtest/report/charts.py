"""The charts of the reports, as plotly figures. Every axis says its unit."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from loadtest.figures.summary import Distribution, Summary, measured
from loadtest.figures.windows import windows
from loadtest.report.contents import Contents

PALETTE = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2", "#be185d", "#64748b")
BLUE, ORANGE, GREEN, RED, GREY = (PALETTE[number] for number in (0, 1, 2, 4, 7))
_PALE = "rgba(100, 116, 139, 0.12)"
_WINDOWS = 60  # of the timeline, at most; at least a second each

# Of an ECDF: closer where its tail is.
_SHARES = np.concatenate((np.linspace(0, 0.98, 246), np.linspace(0.981, 0.999, 37), np.linspace(0.9991, 1, 10)))


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    figure: go.Figure


@dataclass(frozen=True)
class Line:
    """Goodput against rate of one kind of run."""

    name: str
    points: Sequence[Summary]


def of_run(contents: Contents) -> Iterator[Chart]:
    run, summary = contents.run, contents.summary
    requests = measured(contents.columns, summary.from_s, summary.until_s)
    if summary.ttft_s.count:
        yield Chart(
            "TTFT",
            "share of the requests whose first token came within so long",
            _ecdf({"TTFT": requests["ttft"]}, "TTFT, ms", run.slo.ttft_s),
        )
    if summary.itl_s.count:
        curves: dict[str, NDArray[Any]] = {
            "all gaps (ITL)": requests.gaps,
            "worst gaps of a request": requests.worst_gaps,
        }
        yield Chart(
            "ITL",
            "share of the gaps between chunks that are no longer; and of the requests by the mean of their worst 10 %",
            _ecdf(curves, "gap, ms", run.slo.itl_s),
        )
    if len(contents.columns):
        yield Chart(
            "Over time", "each value where the client saw it; grey: warm-up; dashed: a new stage", _timeline(contents)
        )
    if run.stages:
        yield goodput_against_rate([Line("", [stage.summary for stage in run.stages])])
    if phases := contents.phases():
        yield Chart("Phases of TTFT", "as the proxy tells them; prefill and KV transfer overlap", _phases(phases))


def goodput_against_rate(lines: Sequence[Line]) -> Chart:
    figure = _figure(420)
    most = 0.0
    for line, colour in zip(lines, PALETTE * len(lines), strict=False):
        points = sorted(
            (point.offered_per_s, point.goodput_per_s, point.saturation)
            for point in line.points
            if point.offered_per_s is not None and point.goodput_per_s is not None
        )
        offered, good = [point[0] for point in points], [point[1] for point in points]
        most = max(most, *offered, 0.0)
        symbols = ["x" if point[2] else "circle" for point in points]
        figure.add_scatter(
            x=offered,
            y=good,
            name=line.name or "within the SLO",
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbols, "size": 9},
            hovertemplate="offered %{x:.3g}/s<br>goodput %{y:.3g}/s",
        )
    figure.add_scatter(
        x=[0, most],
        y=[0, most],
        name="everything offered",
        mode="lines",
        line={"color": GREY, "dash": "dot", "width": 1},
        hoverinfo="skip",
    )
    figure.update_xaxes(title="requests offered, 1/s", rangemode="tozero")
    figure.update_yaxes(title="goodput, requests/s", rangemode="tozero")
    return Chart("Goodput against rate", "requests within the SLO; ×: the point is saturated", figure)


def percentiles_against_rate(lines: Sequence[Line], metric: str, title: str) -> Chart:
    """`metric` is a field of Summary; P50 solid, P99 dashed."""
    figure = _figure(420)
    for line, colour in zip(lines, PALETTE * len(lines), strict=False):
        points = sorted((p for p in line.points if p.offered_per_s is not None), key=lambda p: p.offered_per_s or 0.0)
        for percentile, dash in (("p50", "solid"), ("p99", "dash")):
            figure.add_scatter(
                x=[point.offered_per_s for point in points],
                y=[_ms(getattr(getattr(point, metric), percentile)) for point in points],
                name=f"{line.name} {percentile.upper()}".strip(),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                hovertemplate="offered %{x:.3g}/s<br>%{y:.4g} ms",
            )
    figure.update_xaxes(title="requests offered, 1/s", rangemode="tozero")
    heights = [height for trace in figure.data for height in trace.y if height]
    figure.update_yaxes(title=f"{title}, ms (logarithmic)", **_logarithmic(heights))
    return Chart(f"{title} against rate", "solid: P50, dashed: P99", figure)


def _ecdf(curves: dict[str, NDArray[Any]], axis: str, bound_s: float | None) -> go.Figure:
    figure = _figure(360)
    for (name, values), colour in zip(curves.items(), PALETTE, strict=False):
        known = values[~np.isnan(values)]
        figure.add_scatter(
            # A logarithmic axis has no zero.
            x=np.maximum(np.quantile(known, _SHARES) * 1000, 1e-3),
            y=_SHARES * 100,
            name=name,
            mode="lines",
            line={"color": colour},
            hovertemplate="%{y:.1f} % within %{x:.4g} ms",
        )
    if bound_s is not None:
        figure.add_vline(
            x=bound_s * 1000,
            line={"color": RED, "dash": "dash", "width": 1},
            annotation={"text": "SLO", "x": np.log10(bound_s * 1000), "xanchor": "left"},
        )
    # One chunk right behind another makes a gap of microseconds: a few of them would take half the axis.
    widths = [width for trace in figure.data for width in trace.x[_SHARES >= 0.01]]
    figure.update_xaxes(title=f"{axis} (logarithmic)", **_logarithmic(widths))
    figure.update_yaxes(title="share, %", range=[0, 101])
    figure.update_layout(showlegend=len(curves) > 1)
    return figure


def _timeline(contents: Contents) -> go.Figure:
    run, summary = contents.run, contents.summary
    latest = float(contents.columns["ended"].max())
    found = windows(contents.columns, run.slo, max(1.0, latest / _WINDOWS))
    rows: tuple[tuple[str, dict[str, tuple[str, list[float | None]]]], ...] = (
        (
            "TTFT, ms",
            {
                "P50": (BLUE, [_ms(window.ttft_s.p50) for window in found]),
                "P90": (ORANGE, [_ms(window.ttft_s.p90) for window in found]),
                "P99": (RED, [_ms(window.ttft_s.p99) for window in found]),
            },
        ),
        (
            "ITL, ms",
            {
                "P50": (BLUE, [_ms(window.itl_s.p50) for window in found]),
                "P90": (ORANGE, [_ms(window.itl_s.p90) for window in found]),
                "P99": (RED, [_ms(window.itl_s.p99) for window in found]),
            },
        ),
        (
            "requests/s",
            {
                "offered": (GREY, [window.offered_per_s for window in found]),
                "completed": (BLUE, [window.requests_per_s for window in found]),
                "within the SLO": (GREEN, [window.goodput_per_s for window in found]),
            },
        ),
        ("output tokens/s", {"output tokens": (BLUE, [window.output_tokens_per_s for window in found])}),
        ("requests in flight", {"in flight": (BLUE, [window.in_flight for window in found])}),
    )
    figure = make_subplots(rows=len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.025)
    figure.update_layout(**_layout(160 * len(rows) + 80))
    shown: set[str] = set()
    for row, (axis, series) in enumerate(rows, start=1):
        for name, (colour, values) in series.items():
            figure.add_scatter(
                x=[window.start_s + window.width_s / 2 for window in found],
                y=values,
                name=name,
                legendgroup=name,
                showlegend=len(series) > 1 and name not in shown,
                mode="lines+markers",
                marker={"size": 3},
                line={"color": colour, "width": 1.5},
                hovertemplate="%{y:.4g}",
                row=row,
                col=1,
            )
            shown.add(name)
        figure.update_yaxes(title=axis, rangemode="tozero", row=row, col=1)
    figure.update_xaxes(range=[0, latest])
    figure.update_xaxes(title="seconds since the start of the schedule", row=len(rows), col=1)
    if summary.from_s > 0:
        figure.add_vrect(x0=0, x1=summary.from_s, fillcolor=_PALE, line_width=0, layer="below")
    for stage in run.stages[1:]:
        figure.add_vline(x=stage.summary.from_s, line={"color": GREY, "dash": "dash", "width": 1})
    figure.update_layout(hovermode="x unified")
    return figure


def _phases(phases: dict[str, Distribution]) -> go.Figure:
    figure = _figure(120 + 70 * len(phases))
    for percentile, colour in (("p50", BLUE), ("p90", ORANGE), ("p99", RED)):
        figure.add_bar(
            y=list(phases),
            x=[_ms(getattr(of, percentile)) for of in phases.values()],
            name=percentile.upper(),
            orientation="h",
            marker={"color": colour},
            hovertemplate="%{y}: %{x:.4g} ms",
        )
    figure.update_xaxes(title="ms", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(bargap=0.35)
    return figure


def _figure(height: int) -> go.Figure:
    return go.Figure(layout=_layout(height))


def _logarithmic(values: Sequence[float]) -> dict[str, object]:
    """An axis with ticks at 1, 2 and 5 of every decade; plotly's own leave a narrow range with one or none."""
    if not values:
        return {"type": "log"}
    least, most = math.log10(min(values)), math.log10(max(values))
    margin = max(0.03 * (most - least), 0.1)
    # Over many decades there is room for their ones only.
    steps = (1, 2, 5) if most - least < 4 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(least) - 1, math.ceil(most) + 1) for step in steps]
    return {
        "type": "log",
        "range": [least - margin, most + margin],
        "tickvals": ticks,
        "ticktext": [f"{tick:,.10g}" for tick in ticks],
    }


def _layout(height: int) -> dict[str, object]:
    return {
        "template": "plotly_white",
        "height": height,
        "margin": {"l": 70, "r": 20, "t": 36, "b": 52},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "hoverlabel": {"namelength": -1},
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
