"""The screenshots of docs/images/, of a stack that is started for them and ended again.

Example::

    python -m tests.browser.take_screenshots                               # about four minutes
    python -m tests.browser.take_screenshots --page http://127.0.0.1:8089  # of a stack that runs, its page just opened
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from selenium.webdriver.remote.webdriver import WebDriver

from stack.configuration.settings import REPOSITORY
from tests.browser.chromium import chromium
from tests.browser.live_tab import COUNT_POINTS, LiveTab
from tests.browser.locust_page import LocustPage
from tests.real_stack import RealStack, running

IMAGES = REPOSITORY / "docs" / "images"
LIMIT_S = 300
RUN_S = 75
WINDOW = (1200, 880)  # a larger image would weigh more than 150 kB
_TABS_MOVE_S = 1.0  # the line below Locust's tabs does
TEST = {
    "workload": "random",
    "inputTokens": "uniform:50-300",
    "outputTokens": 24,
    "arrivals": "poisson",
    "rate": 1.5,
    "cancelRate": 0.05,
    "warmupS": 10,
}


def take(browser: WebDriver, url: str) -> None:
    page = LocustPage(browser, url, LIMIT_S)
    live = LiveTab(page)
    page.open()
    page.fill(users=1, spawn_rate=1, **TEST)
    browser.execute_script("document.querySelector('[name=arrivals]').scrollIntoView({block: 'center'})")
    page.screenshot(IMAGES / "locust-form.png")
    page.start()
    page.wait_for_rows("/v1/completions", "TTFT", "TPOT", "ITL")

    with live.shown():
        live.wait_until(RUN_S)
    page.show("Statistics")
    time.sleep(_TABS_MOVE_S)
    page.screenshot(IMAGES / "locust-statistics.png")
    with live.shown():
        time.sleep(_TABS_MOVE_S)
        page.screenshot(IMAGES / "live-tab.png")
    page.switch_theme()
    with live.shown():
        browser.execute_script("document.getElementById('losses').parentElement.scrollIntoView()")
        page.wait(lambda _: live.background == "rgba(18, 18, 18, 1)", "the dark theme")
        page.screenshot(IMAGES / "live-tab-dark.png")
    page.stop()
    with live.shown(), page.opened_by("report.html"):
        page.wait(lambda _: browser.execute_script(COUNT_POINTS), "the report's plots")
        page.screenshot(IMAGES / "report.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.take_screenshots", description=__doc__)
    parser.add_argument("--page", help="Locust's page of a stack that runs; without it one is started")
    url = parser.parse_args().page
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_things:
        if url is None:
            url = open_things.enter_context(running(RealStack(Path(folder) / "stack"))).locust_url
        take(open_things.enter_context(chromium(Path(folder) / "profile", WINDOW)), url)
    for image in sorted(IMAGES.glob("*.png")):
        print(f"{image.relative_to(REPOSITORY)}: {image.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
