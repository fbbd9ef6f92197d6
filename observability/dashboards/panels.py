"""The few shapes that all panels have, so that the dashboards say only what they show."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import Dashboard as DashboardModel
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Wide enough for four scrapes, whatever the dashboard's range.
RATE = "[$__rate_interval]"
QUANTILES = (0.5, 0.9, 0.99)
THIRD, QUARTER, HEIGHT = 8, 6, 8  # of Grafana's 24 columns; rows

Query = tuple[str, str]  # PromQL, and the legend of its series


@dataclass(frozen=True)
class Graph:
    """A graph over time. unit: one of Grafana's."""

    title: str
    unit: str
    queries: Sequence[Query]
    description: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Number:
    """One number, now."""

    title: str
    unit: str
    query: str
    description: str = ""


Section = tuple[str, Sequence[Graph | Number]]


def quantiles(histogram: str, selector: str = "", by: str = "") -> list[Query]:
    """Of a histogram's name without `_bucket`; `by`: a label whose values are kept apart."""
    kept, legend = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    return [
        (
            f"histogram_quantile({q}, sum by ({kept}) (rate({histogram}_bucket{selector}{RATE})))",
            f"{legend}p{q * 100:g}",
        )
        for q in QUANTILES
    ]


def mean(histogram: str, by: str) -> Query:
    """Of a histogram, by a label."""
    return (
        f"sum by ({by}) (rate({histogram}_sum{RATE})) / sum by ({by}) (rate({histogram}_count{RATE}))",
        f"{{{{{by}}}}}",
    )


def rate(counter: str, *by: str, selector: str = "") -> Query:
    """A counter's increase a second, by some of its labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return (f"sum by ({', '.join(by)}) (rate({counter}{selector}{RATE}))", legend)


def dashboard(uid: str, title: str, description: str, sections: Sequence[Section]) -> DashboardModel:
    builder = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["pd-stack"])
        .time("now-30m", "now")
        .refresh("15s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name, panels in sections:
        builder.with_row(Row(name))
        for panel in panels:
            builder.with_panel(_number(panel) if isinstance(panel, Number) else _graph(panel))
    return builder.build()


def _graph(graph: Graph) -> TimeSeries:
    panel = (
        TimeSeries()
        .title(graph.title)
        .description(graph.description)
        .datasource(PROMETHEUS)
        .unit(graph.unit)
        .min(0)
        .span(THIRD)
        .height(HEIGHT)
        .fill_opacity(30 if graph.stacked else 0)
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
    )
    for letter, (expression, legend) in zip("ABCDEFGH", graph.queries, strict=False):
        panel.with_target(Dataquery().ref_id(letter).expr(expression).legend_format(legend).range())
    return panel


def _number(number: Number) -> Stat:
    query = Dataquery().ref_id("A").expr(number.query).instant()
    return (
        Stat()
        .title(number.title)
        .description(number.description)
        .datasource(PROMETHEUS)
        .unit(number.unit)
        .span(QUARTER)
        .height(HEIGHT // 2)
        .with_target(query)
    )
