"""Charts of a plan, as HTML that holds all it needs: what each split bears, its times, and what would change it."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.serving.plan import AGGREGATED, DISAGGREGATED
from benchmarks.serving.report.charts import COLORS
from planner.sizing.answer import Answer, Row

MOST_GAIN = 20.0  # that is drawn
TIMES: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("TTFT P50 (ms)", lambda row: row.asked.ttft_s.p50),
    ("TTFT P99 (ms)", lambda row: row.asked.ttft_s.p99),
    ("TPOT P50 (ms)", lambda row: row.asked.tpot_s.p50),
    ("ITL P99 (ms)", lambda row: row.asked.itl_s.p99),
)


def charts(answer: Answer) -> str:
    figures = [_largest_rates(answer), _times(answer), *_changes(answer)]
    return "".join(
        figure.to_html(
            full_html=False, include_plotlyjs="inline" if number == 0 else False, config={"responsive": True}
        )
        for number, figure in enumerate(figures)
    )


def _largest_rates(answer: Answer) -> go.Figure:
    figure = go.Figure()
    figure.add_bar(
        x=_names(answer.rows),
        y=[row.largest_per_s for row in answer.rows],
        marker={"color": _colors(answer.rows)},
        text=[f"{row.largest_per_s:.3g}" for row in answer.rows],
    )
    figure.add_hline(
        y=answer.rate,
        line_dash="dot",
        annotation_text=f"asked for: {answer.rate:.3g}",
        annotation_bgcolor="rgba(255, 255, 255, 0.8)",
    )
    figure.update_yaxes(title="requests/s", rangemode="tozero")
    figure.update_layout(title="The largest rate within the objective", height=380, template="plotly_white")
    return figure


def _times(answer: Answer) -> go.Figure:
    figure = make_subplots(rows=1, cols=len(TIMES), subplot_titles=[name for name, _ in TIMES])
    for number, (_, value) in enumerate(TIMES):
        seconds = [value(row) for row in answer.rows]
        figure.add_bar(
            x=_names(answer.rows),
            y=[None if each is None else each * 1000 for each in seconds],
            marker={"color": _colors(answer.rows)},
            showlegend=False,
            row=1,
            col=number + 1,
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(title=f"At {answer.rate:.3g} requests/s", height=380, template="plotly_white")
    return figure


def _changes(answer: Answer) -> list[go.Figure]:
    if not answer.changes:
        return []
    figure = go.Figure()
    for axis in dict.fromkeys(each.axis for each in answer.changes):
        points = [(each.factor, each.gain) for each in answer.changes if each.axis == axis]
        points = sorted([*points, (1.0, answer.gain)], key=lambda point: point[0])
        figure.add_scatter(
            x=[factor for factor, _ in points],
            y=[_on_the_axis(gain) for _, gain in points],
            customdata=["unknown" if gain is None else f"{gain:.3g}" for _, gain in points],
            hovertemplate="%{x:.3g} times: %{customdata}",
            mode="lines+markers",
            name=axis,
        )
    figure.add_hline(y=1, line_color="#1c2330")
    figure.update_xaxes(type="log", title="times what it is")
    figure.update_yaxes(type="log", title="the best pairs / aggregated")
    figure.update_layout(
        title="What would change the answer: above 1 disaggregation bears more",
        height=420,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.25},
    )
    return [figure]


def _on_the_axis(gain: float | None) -> float | None:
    """A side that bears nothing makes a gain of nothing, or without end, which no logarithm shows: at the edge."""
    return None if gain is None else min(max(gain, 1 / MOST_GAIN), MOST_GAIN)


def _names(rows: Sequence[Row]) -> list[str]:
    return [str(row.split) for row in rows]


def _colors(rows: Sequence[Row]) -> list[str]:
    return [COLORS[AGGREGATED if row.split.aggregated else DISAGGREGATED] for row in rows]
