"""A plan's page, opened from the disk in Chromium: every chart is drawn, nothing is fetched, a phone shows it too."""

import sys
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from benchmarks.plan import __main__ as program
from tests.browser.console_page import ConsolePage
from tests.unit.planner.profiles import profile

LIMIT_S = 30
PHONE = (375, 740)
WORDS = ["--gpus", "3", "--point", "2000/40@1", "--slo-ttft", "3", "--slo-tpot", "1", "--slo-itl", "0.05"]
SMALL = ["--requests", "30", "--seconds", "1", "--price", "3.6"]
# Of each chart its title and how many marks have a size: bars, or points of lines.
DRAWN = """
return [...document.querySelectorAll(".js-plotly-plot")].map((chart) => [chart.querySelector(".gtitle").textContent,
    [...chart.querySelectorAll(".point path, path.point")].filter(
        (mark) => mark.getBoundingClientRect().height).length])
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "profile.json").write_text(profile().model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        words = ["plan", "--profile", str(folder / "profile.json"), *WORDS, *SMALL, "--results", str(folder)]
        patch.setattr(sys, "argv", words)
        assert program.main() == 0
    return folder / "plan.html"


def test_it_is_drawn_without_a_network(browser: Chrome, plan: Path, screenshots: Path) -> None:
    page = ConsolePage(browser, plan.as_uri(), LIMIT_S)
    browser.get(plan.as_uri())
    page.wait(lambda _: len(page.all(".js-plotly-plot .gtitle")) == 3, "three charts")
    drawn = browser.execute_script(DRAWN)
    assert [title for title, _ in drawn] == [
        "The largest rate within the objective",
        "At 1 requests/s",
        "What would change the answer: above 1 disaggregation bears more",
    ]
    assert all(marks >= 3 for _, marks in drawn), drawn
    (lead,) = page.texts("p.lead")
    assert lead.startswith("Disaggregate: run 2 producers and 1 consumer")
    assert (
        "the transport has 0.032 of its bandwidth" in lead
    )  # the table below has it: at a hundredth pairs bear nothing
    assert {"Every split", "What would change the answer", "Settings"} <= set(page.texts("h2"))
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    width, visible = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(1200, height + 200)
    browser.save_screenshot(str(screenshots / "plan.png"))
    assert width <= visible
    page.resize(*PHONE, mobile=True)
    browser.get(plan.as_uri())
    page.wait(lambda _: len(page.all(".js-plotly-plot .gtitle")) == 3, "three charts")
    width, visible = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    browser.save_screenshot(str(screenshots / "plan-phone.png"))
    assert width <= visible == PHONE[0]
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
