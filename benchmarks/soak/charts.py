"""A soak's report as one HTML file that needs no network: the Markdown page's tables and the course of the run."""

import html
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import plotly.io

from benchmarks.soak.page import WORDS
from benchmarks.soak.verdict import MIB
from benchmarks.tables import Row

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{border-bottom:1px solid #ccc;padding:.25rem .75rem;text-align:left}
.no{color:#b00020;font-weight:600}"""


def render(document: dict[str, Any]) -> str:
    samples: list[Row] = document.get("samples", [])
    judged = (document["settings"]["judged_from_s"] / 60, document["settings"]["duration_s"] / 60)
    figures = [
        _figure("Memory, MiB (shaded: the window that is judged)", _by_name(samples, "memory", lambda b: b / MIB)),
        _figure("Answers a second, and requests in flight", _requests(samples)),
        _figure("KV blocks in use", _by_name(samples, "instances", lambda instance: instance["blocks"])),
        _figure("Requests that wait in vLLM", _by_name(samples, "instances", lambda instance: instance["waiting"])),
    ]
    figures[0].add_vrect(*judged, fillcolor="#888", opacity=0.12, line_width=0)
    charts = [
        plotly.io.to_html(figure, full_html=False, include_plotlyjs="inline" if number == 0 else False)
        for number, figure in enumerate(figures)
    ]
    title = html.escape(document["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1><p>Started {html.escape(document['started'])}, ended: {html.escape(document['ended'])}."
        f"<pre>{html.escape(document['command'])}</pre>{_verdict(document.get('lines', []))}{''.join(charts)}"
    )


def _verdict(lines: Sequence[Row]) -> str:
    rows = []
    for line in lines:
        cells = [html.escape(line[key]) for key in ("name", "measured", "wanted")]
        cells.append(WORDS[line["passed"]].strip("*"))
        style = " class=no" if line["passed"] is False else ""
        rows.append(f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in cells))
    return f"<table><tr><th>what<th>measured<th>wanted<th>met{''.join(rows)}</table>"


def _by_name(samples: Sequence[Row], group: str, value: Callable[[Any], float]) -> list[go.Scatter]:
    traces = []
    for name in dict.fromkeys(name for sample in samples for name in sample[group]):
        seen = [sample for sample in samples if name in sample[group]]
        traces.append(_trace(name, [s["at"] for s in seen], [value(s[group][name]) for s in seen]))
    return traces


def _requests(samples: Sequence[Row]) -> list[go.Scatter]:
    seen = [sample for sample in samples if sample["requests"]]
    rates = [
        (later["at"], (later["requests"]["answered"] - sooner["requests"]["answered"]) / (later["at"] - sooner["at"]))
        for sooner, later in pairwise(seen)
    ]
    return [
        _trace("answers/s", [at for at, _ in rates], [rate for _, rate in rates]),
        _trace("in flight", [s["at"] for s in seen], [s["requests"]["in_flight"] for s in seen]),
    ]


def _trace(name: str, seconds: Sequence[float], values: Sequence[float]) -> go.Scatter:
    return go.Scatter(name=name, mode="lines", x=[at / 60 for at in seconds], y=list(values))


def _figure(title: str, traces: Sequence[go.Scatter]) -> go.Figure:
    figure = go.Figure(list(traces))
    figure.update_layout(title=title, template="plotly_white", height=380, xaxis_title="minutes", hovermode="x unified")
    figure.update_yaxes(rangemode="tozero")
    return figure
