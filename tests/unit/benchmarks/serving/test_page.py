"""The page of a comparison in its two forms, and its charts."""

import pytest

from benchmarks.serving.plan import AGAIN, AGGREGATED, DISAGGREGATED, UPSTREAM
from benchmarks.serving.points import PROMPTS
from benchmarks.serving.report import command_lines, page
from benchmarks.serving.report.charts import charts
from benchmarks.serving.report.sections import Section, as_html, as_markdown
from benchmarks.tables import Row
from stack.configuration.settings import REPOSITORY
from tests.unit.benchmarks.serving.figures import HEAD, MIXTURE, pair, row


def markdown(rows: list[Row], **more: object) -> str:
    document = {**HEAD, "measurements": rows, **more}
    return as_markdown("A test", page.lead(document), page.sections(document))


def cells(text: str, title: str, *start: str) -> list[str]:
    (part,) = (part for part in text.split("\n## ") if part.startswith(title))
    (line,) = (line for line in part.splitlines() if line.startswith("| " + " | ".join(start) + " |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_point_where_disaggregation_loses_stands_in_the_same_table_and_is_marked() -> None:
    rows = pair("64/200@1", itl_p99_s=0.1) + pair("2000/8@1", ttft_p50_s=1.8)
    text = markdown(rows)
    assert cells(text, "Ratios", "64/200", "1", "all")[3:] == [
        *("1.00", "1.00", "1.00", "0.10", "1.00", "1.00", "200"),
        "wins ITL P99",
    ]
    assert cells(text, "Ratios", "2000/8", "1", "all")[3] == "**1.80**"
    assert cells(text, "Ratios", "2000/8", "1", "all")[-1] == "loses TTFT P50"


def test_a_point_at_its_limit_is_marked() -> None:
    text = markdown([row(DISAGGREGATED, saturation="TTFT grew with the time"), row(AGGREGATED)])
    assert cells(text, "Ratios", "512/64", "0.5", "all")[-1] == "left out: disaggregated saturated"
    assert cells(text, "The figures", "512/64", "0.5", "all", "disaggregated")[-1] == "TTFT grew with the time"


def test_few_requests_are_told() -> None:
    rows = [{**row, "ttft_n": 20} for row in pair(ttft_p99_s=3.0)]
    line = cells(markdown(rows), "Ratios", "512/64", "0.5", "all")
    assert line[4] == "(3.00)"
    assert line[-2:] == ["20", "too few requests to see saturation"]


def test_what_a_handful_of_requests_shows_is_not_called_even() -> None:
    rows = [{**row, "ttft_n": 3} for row in pair(MIXTURE, PROMPTS, ttft_p50_s=3.0)]
    line = cells(markdown(rows), "Ratios", MIXTURE.partition("@")[0], "2", PROMPTS)
    assert line[3] == "(3.00)"
    assert line[-2:] == ["3", "too few values to judge TTFT P50"]


def test_several_repeats_have_a_range() -> None:
    rows = [row for repeat, ttft in enumerate((0.4, 0.5, 0.6)) for row in pair(repeat=repeat, ttft_p50_s=ttft)]
    assert cells(markdown(rows), "Ratios", "512/64", "0.5", "all")[3] == "0.50 [0.40 to 0.60]"


def test_upstreams_connector_has_ratios_of_its_own() -> None:
    text = markdown([*pair(), row(UPSTREAM, ttft_p50_s=0.1)])
    line = cells(text, "Ratios to vLLM's own connector", "512/64", "0.5", "all")
    assert float(line[3].strip("*")) == row(DISAGGREGATED)["ttft_p50_s"] / 0.1
    assert line[-1].endswith("loses TTFT P50")


def test_a_control_widens_what_is_even() -> None:
    text = markdown([*pair(ttft_p50_s=1.3), row(AGAIN, ttft_p50_s=1.9)])
    assert cells(text, "Control", "512/64", "0.5", "all")[3] == "1.46"
    assert "TTFT P50 0.68 to 1.46" in text
    assert cells(text, "Ratios", "512/64", "0.5", "all")[-1] == "even"


def test_a_control_alone_says_what_it_is() -> None:
    text = markdown([row(DISAGGREGATED), row(AGAIN, ttft_p50_s=1.2)])
    assert "A control, no comparison: two runs of the same stack differed by at most TTFT P50 20%" in text
    assert "## Ratios" not in text


def test_failures_are_named_with_their_side() -> None:
    failing = row(AGGREGATED, errors={"TimedOut": 3}, outcomes={"completed": 9, "failed": 2, "cut_off": 1})
    text = markdown([row(DISAGGREGATED), failing])
    assert "3 × aggregated, 512/64@0.5: TimedOut" in text
    assert "9/2/1" in cells(text, "The figures", "512/64", "0.5", "all", "aggregated")


def test_before_the_first_pair_the_page_says_so() -> None:
    assert "No point has been measured on both sides yet." in markdown([row(DISAGGREGATED)])
    assert "No point has been measured on both sides yet." in markdown([])


def test_the_two_sides_command_lines_are_shown_as_their_difference() -> None:
    common = ["vllm", "--dtype bfloat16"]
    servers = {
        DISAGGREGATED: [[*common, "--kv-transfer-config {1}"], [*common, "--kv-transfer-config {2}"]],
        AGGREGATED: [common, common],
    }
    text = markdown(pair(), servers=servers)
    assert "python -m vllm --dtype bfloat16\n" in text
    assert "| disaggregated | 2 | `--kv-transfer-config {1}`; `--kv-transfer-config {2}` |" in text
    assert "| aggregated | 2 | nothing |" in text


def test_options_are_shown_without_ports_and_folders_of_the_machine() -> None:
    words = ["vllm.api", "--host", "10.0.0.1", "--port", "8100", "--model", f"{REPOSITORY}/.stack/models/m"]
    assert command_lines.options([*words, "--enforce-eager"]) == [
        "vllm.api",
        "--model .stack/models/m",
        "--enforce-eager",
    ]


def test_html_is_escaped_and_keeps_its_marks() -> None:
    section = Section("A & B", ["`x` **loses** [here](run.json)"], ("<i>",), [("**1.80**",)], "a < b")
    text = as_html("T", "lead <script>", [section], "<div>charts</div>")
    assert "lead &lt;script&gt;" in text
    assert "<h2>A &amp; B</h2>" in text
    assert '<code>x</code> <strong>loses</strong> <a href="run.json">here</a>' in text
    assert "<th>&lt;i&gt;</th>" in text
    assert "<td><strong>1.80</strong></td>" in text
    assert "<pre>a &lt; b</pre>" in text
    assert "<div>charts</div>" in text


@pytest.mark.parametrize("rows", [pair(), [row(DISAGGREGATED, ttft_p50_s=None)]])
def test_charts_need_nothing_from_elsewhere(rows: list[Row]) -> None:
    text = charts({**HEAD, "measurements": rows})
    assert 'src="http' not in text
    assert text.count("Plotly.newPlot") == len({entry["side"] for entry in rows})
    assert "512\\u002f64 tokens" in text


def test_there_are_no_charts_of_nothing() -> None:
    assert charts(HEAD) == ""
