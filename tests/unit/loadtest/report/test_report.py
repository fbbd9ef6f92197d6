"""report.md and report.html: what they say, that they need no network, and the comparison of several runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loadtest import report
from loadtest.figures.record import RequestRecord
from loadtest.report.__main__ import main
from loadtest.runs.run_folder import Run
from tests.unit.loadtest.made_records import answered, unanswered
from tests.unit.loadtest.runs.test_run_folder import manifest, run_of

BURST = '</script><script>alert("1")</script>|'


def some(rate: float, ttft: float = 0.3) -> list[RequestRecord]:
    return [answered(i / rate, ttft=ttft, phases={"queue": 0.1, "prefill": 0.2}) for i in range(int(60 * rate))]


def written(folder: Path, records: list[RequestRecord], **more: Any) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    report.write(folder, run_of(folder, records, **more))
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


def charts(html: str) -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', html)]


def test_the_figures_are_in_both(tmp_path: Path) -> None:
    text, html = written(tmp_path, some(2.0), LOADTEST_SLO_TTFT_S=0.4)
    for figure in ("300.0", "100.0%", "2.00"):
        assert figure in text
        assert figure in html
    for title in ("Latencies, ms", "Rates", "Requests", "Phases of TTFT as the proxy tells them, ms", "What was run"):
        assert f"## {title}" in text
        assert f"<h2>{title}</h2>" in html
    assert "TTFT ≤ 0.4 s" in text


def test_who_computed_first_tokens_is_in_both(tmp_path: Path) -> None:
    records = [answered(i / 2, first_token="producer", second_token=0.0375) for i in range(40)]
    text, html = written(tmp_path, [*records, answered(25.0, first_token="consumer")])
    assert "| first token by the producer | 40 |" in text
    assert "| first token by the consumer | 1 |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| behind the producer's first token")]
    assert row.split(" | ")[1:4] == ["40", "37.50", "37.50"]
    assert "Gap to the second token" in html
    assert "Gap to the second token" not in written(tmp_path / "alone", some(2.0))[0]


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    _, html = written(tmp_path, some(2.0))
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)
    assert "<script src" not in html


def test_charts_have_units_on_every_axis(tmp_path: Path) -> None:
    _, html = written(tmp_path, some(2.0), LOADTEST_STAGES="30:2,30:2")
    drawn = charts(html)
    assert len(drawn) == 5  # TTFT, ITL, over time, goodput against rate, phases
    titles = [
        axis["title"]["text"]
        for chart in drawn
        for name, axis in chart["layout"].items()
        if re.fullmatch(r"[xy]axis\d*", name) and "title" in axis
    ]
    assert len(titles) >= 12
    for title in titles:
        assert re.search(r"\bms\b|%|/s\b|seconds|in flight", title), title


def test_goodput_against_rate_only_where_there_are_several(tmp_path: Path) -> None:
    assert len(charts(written(tmp_path / "even", some(2.0))[1])) == 4
    html = written(tmp_path / "stages", some(2.0), LOADTEST_STAGES="30:2,30:2")[1]
    assert "Goodput against rate" in html


def test_warnings_stand_on_top(tmp_path: Path) -> None:
    records = [answered(i / 4, ttft=0.3 + i / 8, started=i / 4 + 2) for i in range(240)]
    told = manifest(load_s=60.0, problems=["worker 2 of 2: WorkerLost"])
    text, html = written(tmp_path, records, told=told)
    before = text[: text.index("## Latencies")]
    for warning in ("Saturated: TTFT grew with the time", "requests started late", "worker 2 of 2: WorkerLost"):
        assert warning in before
        assert warning in html[: html.index("<table")]


@pytest.mark.parametrize(
    ("records", "line"),
    [
        ([], "No request was measured"),
        ([unanswered(1.0), unanswered(2.0)], "No request was answered."),
    ],
)
def test_a_run_without_an_answer_has_a_report(tmp_path: Path, records: list[RequestRecord], line: str) -> None:
    text, html = written(tmp_path, records)
    assert line in text
    assert line in html


def test_nothing_that_a_server_says_becomes_markup(tmp_path: Path) -> None:
    records = [answered(0.0, path=BURST, phases={BURST: 0.1}), unanswered(1.0, error=BURST)]
    text, html = written(tmp_path, records, told=manifest(models=[BURST]))
    assert BURST not in html
    assert "\\|" in text


def test_damage_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path, some(2.0))
    with (tmp_path / "requests.jsonl").open("a") as file:
        file.write("half a li")
    report.write(tmp_path, run)
    assert (
        "1 of the lines of requests.jsonl are no records and were left out: 121" in (tmp_path / "report.md").read_text()
    )


def test_reports_are_made_anew(tmp_path: Path) -> None:
    before = written(tmp_path, some(2.0))
    for name in ("report.md", "report.html"):
        (tmp_path / name).unlink()
    assert main([str(tmp_path)]) == 0
    assert ((tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()) == before


def test_a_comparison_has_a_line_for_each_kind_of_run(tmp_path: Path) -> None:
    roles: dict[str, list[dict[str, Any]]] = {
        "disaggregated": [{"role": "prefill"}, {"role": "decode"}],
        "baseline": [{"role": "aggregated"}, {"role": "aggregated"}],
    }
    folders = []
    for name, instances in roles.items():
        for rate in (1.0, 2.0):
            folders.append(tmp_path / f"{name}-{rate:g}")
            written(folders[-1], some(rate), told=manifest(instances=instances), LOADTEST_RATE=rate)
    page = tmp_path / "comparison.html"
    assert main(["--out", str(page), *map(str, folders)]) == 0
    goodput = charts(page.read_text())[0]["data"]
    assert [line["name"] for line in goodput] == ["disaggregated", "baseline", "everything offered"]
    rows = [
        line for line in (tmp_path / "comparison.md").read_text().splitlines() if line.startswith(("| dis", "| base"))
    ]
    assert len(rows) == 4


def test_different_slos_cannot_be_compared(tmp_path: Path) -> None:
    for name, bound in (("a", 0.1), ("b", 1.0)):
        written(tmp_path / name, some(1.0), LOADTEST_SLO_TTFT_S=bound)
    assert main(["--out", str(tmp_path / "c.html"), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "different SLOs" in (tmp_path / "c.html").read_text()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == (
        f"{tmp_path / 'run.json'}: No such file or directory; expected the folder of a run"
    )


def test_figures_of_the_page_are_those_of_run_json(tmp_path: Path) -> None:
    written(tmp_path, some(2.0, ttft=0.1234))
    summary = Run.read(tmp_path).summary
    assert summary is not None
    assert summary.ttft_s.p50 == pytest.approx(0.1234)
    assert "123.4" in (tmp_path / "report.html").read_text()
