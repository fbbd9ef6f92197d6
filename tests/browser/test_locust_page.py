"""Locust's page on the running stack, in a real browser."""

from pathlib import Path

from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser.locust_page import LocustPage
from tests.real_stack import RealStack

LIMIT_S = 120  # for answers of a model on a busy CPU


def test_start_numbers_stop(stack: RealStack, browser: WebDriver, screenshots: Path) -> None:
    page = LocustPage(browser, stack.locust_url, LIMIT_S)
    page.open()
    page.screenshot(screenshots / "locust-form.png")

    page.start(users=2, spawn_rate=2, workload="fixed", inputTokens=32, outputTokens=8)
    page.wait_for_rows("/v1/completions", "TTFT", "TPOT", "ITL")
    page.screenshot(screenshots / "locust-statistics.png")
    page.show("Charts")
    page.wait_for_charts(3)
    page.screenshot(screenshots / "locust-charts.png")
    page.stop()

    page.show("Statistics")
    rows = page.wait_for_rows("/v1/completions", "TTFT", "TPOT", "ITL")
    answered = rows["/v1/completions"].requests
    assert answered > 0
    assert {name: row.failures for name, row in rows.items()} == dict.fromkeys(rows, 0)
    assert rows["Aggregated"].requests == rows["TTFT"].requests == rows["TPOT"].requests == answered
    assert rows["ITL"].requests <= 7 * answered  # 8 tokens have 7 gaps; fewer where one chunk carries two tokens
    assert 0 < rows["TTFT"].median < rows["/v1/completions"].median
    assert rows["TPOT"].median > 0
