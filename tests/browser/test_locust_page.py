"""Locust's page on the running stack, in a real browser."""

import json
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support import expected_conditions as expect

from tests.browser.live_tab import COUNT_POINTS, LiveTab
from tests.browser.locust_page import LocustPage
from tests.real_stack import RealStack

LIMIT_S = 120  # for answers of a model on a busy CPU
OPEN_LOOP = {"workload": "random", "inputTokens": "uniform:16-48", "outputTokens": 8, "arrivals": "poisson", "rate": 2}
FROM_PROXY = ("phases", "share")


def test_start_numbers_stop(stack: RealStack, browser: WebDriver, screenshots: Path) -> None:
    page = LocustPage(browser, stack.locust_url, LIMIT_S)
    live = LiveTab(page)
    page.open()
    page.screenshot(screenshots / "locust-form.png")

    page.fill(users=1, spawn_rate=1, **OPEN_LOOP, warmupS=1, sloTtftS=LIMIT_S)
    page.start()
    page.wait_for_rows("/v1/completions", "TTFT", "TPOT", "ITL")
    page.screenshot(screenshots / "locust-statistics.png")
    page.show("Charts")
    page.wait_for_charts(3)
    page.screenshot(screenshots / "locust-charts.png")

    with live.shown():
        live.wait_for_points("ttft", "itl", "tpot", "rates", "losses", "running", "tokens", "start-delay", *FROM_PROXY)
        page.screenshot(screenshots / "live-running.png")
        before = live.background
    page.switch_theme()
    with live.shown():
        page.wait(lambda _: {before, live.background} == {"rgba(255, 255, 255, 1)", "rgba(18, 18, 18, 1)"}, "the theme")
        page.screenshot(screenshots / "live-other-theme.png")
    page.stop()

    page.show("Statistics")
    assert not browser.find_element(By.TAG_NAME, "iframe").is_displayed()
    rows = page.wait_for_rows("/v1/completions", "TTFT", "TPOT", "ITL")
    answered = rows["/v1/completions"].requests
    assert answered > 0
    assert {name: row.failures for name, row in rows.items()} == dict.fromkeys(rows, 0)
    assert rows["Aggregated"].requests == rows["TTFT"].requests == rows["TPOT"].requests == answered
    assert rows["ITL"].requests <= 7 * answered  # 8 tokens have 7 gaps; fewer where one chunk carries two tokens
    assert 0 < rows["TTFT"].median < rows["/v1/completions"].median
    assert rows["TPOT"].median > 0

    with live.shown():
        page.wait(expect.element_to_be_clickable((By.LINK_TEXT, "report.html")), "the report")
        page.wait(lambda _: live.completed == answered, f"{answered} completed requests")
        said = live.warnings
        console = browser.find_element(By.LINK_TEXT, "console").get_attribute("href")
        assert console == stack.api_url + "/"
        with page.opened_by("run.json"):
            told = json.loads(browser.find_element(By.TAG_NAME, "body").text)
    summary = told["summary"]
    reasons = [summary[name] for name in ("saturation", "generator_limit") if summary[name] is not None]
    assert all(reason in warning for reason, warning in zip(reasons, said, strict=True))
    assert summary["outcomes"]["completed"] == answered
    assert summary["paths"] == {"disaggregated": answered}
    assert told["settings"]["LOADTEST_SLO_TTFT_S"] == LIMIT_S

    with live.shown(), page.opened_by("report.html"):
        plots = page.wait(lambda _: browser.execute_script(COUNT_POINTS), "the report's plots")
        page.screenshot(screenshots / "run-report.png")
        assert all(sum(lines.values()) for lines in plots.values())
