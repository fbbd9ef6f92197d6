"""report.html: the figures of a run and their charts in one file that needs no network."""

import json
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from loadtest.report import charts
from loadtest.report.charts import Chart
from loadtest.report.contents import Contents, Table

_STYLE = """
body { margin: 0 auto; padding: 24px; max-width: 1120px; color: #1e293b; background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 26px; line-height: 1.25; }
h2 { margin: 36px 0 4px; font-size: 18px; }
.subtitle, .note { margin: 4px 0 12px; color: #64748b; }
.note { font-size: 13px; }
.warning { margin: 12px 0; padding: 10px 14px; border-left: 4px solid #d97706; background: #fffbeb; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 0 28px; }
.charts section { min-width: 0; }
.charts .wide { grid-column: 1 / -1; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid #e2e8f0; text-align: left; vertical-align: top; }
th { color: #64748b; font-weight: 500; }
.figures td:not(:first-child), .figures th:not(:first-child) { padding-left: 14px; text-align: right;
  font-variant-numeric: tabular-nums; }
.facts td { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; }
"""
_DRAW = """
for (const chart of document.querySelectorAll("script[type='application/json']")) {
  const { data, layout } = JSON.parse(chart.textContent);
  Plotly.newPlot(chart.nextElementSibling, data, layout, { responsive: true, displayModeBar: false });
}
"""
_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
{warnings}
{first}
<div class="charts">
{charts}
</div>
{tables}
<script>{draw}</script>
</body>
</html>
""")


def of_run(contents: Contents) -> str:
    tables = contents.tables()
    return document(contents.title, contents.subtitle, contents.warnings(), tables, list(charts.of_run(contents)))


def document(
    title: str, subtitle: str, warnings: Iterable[str], tables: Sequence[Table], drawn: Iterable[Chart]
) -> str:
    """The first two tables stand above the charts."""
    return str(
        _PAGE.format(
            title=title,
            subtitle=subtitle,
            style=Markup(_STYLE),
            # Neither script holds the end of a script element.
            plotly=Markup(get_plotlyjs()),
            draw=Markup(_DRAW),
            warnings=_joined(Markup('<p class="warning">{}</p>').format(warning) for warning in warnings),
            first=_joined(map(_table, tables[:2])),
            charts=_joined(map(_chart, drawn)),
            tables=_joined(map(_table, tables[2:])),
        )
    )


def _chart(chart: Chart) -> Markup:
    # `<` inside a script element could end it.
    figure = Markup(json.dumps(json.loads(chart.figure.to_json())).replace("<", "\\u003c"))
    wide = chart.figure.layout.height > 500
    return Markup(
        '<section class="{}"><h2>{}</h2><p class="note">{}</p>'
        '<script type="application/json">{}</script><div></div></section>'
    ).format("wide" if wide else "", chart.title, chart.note, figure)


def _table(table: Table) -> Markup:
    kind = "figures" if len(table.header) > 2 else "facts"
    head = Markup("<tr>{}</tr>").format(_joined(Markup("<th>{}</th>").format(cell) for cell in table.header))
    rows = _joined(
        Markup("<tr>{}</tr>").format(_joined(Markup("<td>{}</td>").format(cell) for cell in row)) for row in table.rows
    )
    note = Markup('<p class="note">{}</p>').format(table.note) if table.note else Markup()
    return Markup('<h2>{}</h2><div class="table"><table class="{}">{}{}</table></div>{}').format(
        table.title, kind, head if any(table.header) else Markup(), rows, note
    )


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)
