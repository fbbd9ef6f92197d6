"""A run's report.html, opened from the disk in Chromium: every chart is drawn, nothing is fetched."""

from pathlib import Path

from selenium.webdriver import Chrome

from loadtest import report
from tests.unit.loadtest.made_records import answered
from tests.unit.loadtest.runs.test_run_folder import manifest, run_of

CHARTS = {"TTFT": 1, "ITL": 2, "Over time": 11, "Goodput against rate": 2, "Phases of TTFT": 3}  # and their lines
DRAWN = """
return Object.fromEntries([...document.querySelectorAll(".charts section")].map(
    (section) => [section.querySelector("h2").textContent, section.querySelectorAll(".trace").length]))
"""


def test_report_is_drawn_without_a_network(browser: Chrome, screenshots: Path, tmp_path: Path) -> None:
    records = [
        answered(i / 2, ttft=0.2 + i / 500, gaps=[0.03 + (i + j) % 7 / 500 for j in range(30)], phases={"queue": 0.1})
        for i in range(240)
    ]
    told = manifest(warmup_s=10.0, load_s=120.0, models=["a model"])
    settings = {"LOADTEST_STAGES": "60:2,60:2", "LOADTEST_SLO_TTFT_S": 0.5}
    report.write(tmp_path, run_of(tmp_path, records, told=told, **settings))

    browser.get((tmp_path / "report.html").as_uri())
    assert browser.title == "Load test of a model"
    assert browser.execute_script(DRAWN) == CHARTS
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    width, visible = browser.execute_script("return [document.body.scrollWidth, window.innerWidth]")
    assert width <= visible
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(1200, height + 200)
    assert browser.save_screenshot(str(screenshots / "report.png"))
