"""The console before real instances: what it draws is what the answer's headers said."""

import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.select import Select

from tests.browser.chromium import chromium
from tests.browser.console_page import ConsolePage
from tests.real_stack import CHUNK_TOKENS, MODEL, RealStack

LIMIT_S = 120  # for answers of a model on a busy CPU
CHUNKS = 3
TOKENS = (CHUNKS - 1) * CHUNK_TOKENS + 200
PHONE = (375, 740)
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(driver: Chrome, stack: RealStack) -> Iterator[ConsolePage]:
    page = ConsolePage(driver, stack.api_url, LIMIT_S)
    driver.get(stack.api_url + "/health")
    page.as_it_was()
    yield page
    told = [each["message"] for each in driver.get_log("browser")]  # type: ignore[no-untyped-call]
    page.as_it_was()
    assert [each for each in told if not re.search(r"status of (400|404)", each)] == []


def ask(stack: RealStack, name: str, prompt: Any, **more: Any) -> dict[str, str]:
    """The headers of the answer, in small letters."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 24, "stream": True, "ignore_eos": True} | more
    request = urllib.request.Request(
        stack.api_url + "/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "X-Request-Id": name},
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            answer.read()
            headers = answer.headers
    except urllib.error.HTTPError as error:
        with error:
            headers = error.headers
    return {name.lower(): value for name, value in headers.items()}


@pytest.fixture(scope="module")
def split(stack: RealStack) -> dict[str, str]:
    """Of a prompt of three chunks, whose cache moves while it is computed."""
    return ask(stack, "real-split", stack.english[90_000:][:TOKENS])


@pytest.mark.usefixtures("split")
def test_the_map_with_the_instances_own_figures(page: ConsolePage, screenshots: Path) -> None:
    page.open("map")
    page.wait_for_text("#flows td", "prefill-")
    for role in ("prefill", "decode"):
        page.wait_for_text(f".column.{role} dt", "free blocks")
        # The instances tell their figures every few seconds: these may still be of another test's load.
        page.wait_for_text(f".column.{role} dd", "0 running, 0 waiting")
        found = page.facts(f".column.{role} .instance")
        # An instance that computes may not have answered for seconds: the figures' age stands behind them then.
        free, whole = re.fullmatch(r"([\d,]+) of ([\d,]+)( · .+)?", found["free blocks"]).groups()[:2]  # type: ignore[union-attr]
        assert 0 < int(free.replace(",", "")) <= int(whole.replace(",", ""))
    assert page.all(".between .line.flowing")
    (row,) = page.all("#flows tbody tr")
    assert row.text.split()[4] == "tcp"
    page.browser.save_screenshot(str(screenshots / "real-map.png"))


def test_the_waterfall_of_a_split_request(page: ConsolePage, split: dict[str, str], screenshots: Path) -> None:
    timing = dict(part.split(";dur=") for part in split["server-timing"].split(", "))
    page.open("requests", "real-split")
    page.wait_for_text(".detail h3", "Waterfall")
    bars = page.bars(".detail")
    assert {name: f"{ms:.2f}" for name, ms, *_ in bars} == timing
    assert page.facts(".detail .headers")["Server-Timing"] == split["server-timing"]
    fetched = "return fetch('/console/api/requests/real-split').then((answer) => answer.json())"
    found = page.browser.execute_script(fetched)
    assert sum(write["bytes"] for write in found["writes"]) == found["transfer"]["bytes"]
    assert [chunk["end"] for chunk in found["chunks"]] == [CHUNK_TOKENS, 2 * CHUNK_TOKENS, TOKENS]
    assert len(page.all(".row.writes .bar")) == len(found["writes"]) > 1
    assert len(page.all(".row.chunks .bar")) == CHUNKS
    assert page.all(".row.second")  # to the second token
    page.click("details.writes summary")
    cells = page.texts("details.writes tbody tr:first-child td")
    assert re.fullmatch(r"\d+(–\d+)?", cells[0])
    page.click("details.writes summary")
    page.browser.save_screenshot(str(screenshots / "real-waterfall.png"))


@pytest.mark.usefixtures("split")
def test_dark_chinese_and_on_a_phone(page: ConsolePage, screenshots: Path) -> None:
    page.emulate(prefers_color_scheme="dark")
    page.open("requests", "real-split")
    page.wait_for_text(".detail h3", "Waterfall")
    assert page.one("body").value_of_css_property("background-color") == "rgba(16, 21, 29, 1)"
    page.browser.save_screenshot(str(screenshots / "real-dark.png"))
    page.emulate()
    Select(page.one("#language")).select_by_value("zh")
    page.wait_for_text(".detail .row .name", "写入")
    page.browser.save_screenshot(str(screenshots / "real-chinese.png"))
    Select(page.one("#language")).select_by_value("en")
    page.resize(*PHONE, mobile=True)
    for view in ("map", "requests/real-split", "try", "now"):
        page.open(*view.split("/"))
        page.wait_for_text("#state.live", "live")
        width, visible = page.browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width <= visible == PHONE[0], view
        page.browser.save_screenshot(str(screenshots / f"real-phone-{view.partition('/')[0]}.png"))


def test_the_playground(page: ConsolePage, screenshots: Path) -> None:
    page.open("try")
    page.wait_for_text("#model option", MODEL)
    page.click("#long")
    page.wait(lambda _: page.texts("#answer-facts .waterfall"), "the waterfall")
    assert page.one("#output").text.strip()
    assert page.facts("#answer-facts .beside > div:first-child")["path"].startswith("disaggregated")
    assert page.all("#answer-facts .row.writes .bar")
    page.browser.save_screenshot(str(screenshots / "real-try.png"))


def test_failed_requests_and_hostile_text(page: ConsolePage, stack: RealStack) -> None:
    ask(stack, "too-long", stack.english[:100], max_tokens=100_000)
    ask(stack, HOSTILE, HOSTILE, model=HOSTILE)
    page.open("requests", "too-long")
    page.wait_for_text(".detail dd", "400")
    assert page.facts(".detail .beside > div:first-child")["failure"] == "rejected with 400"
    page.open("requests")
    page.click("#filter-failed")
    page.wait(lambda _: {"too-long", HOSTILE} <= set(page.ids()), "both")
    page.click(f"tr:nth-child({page.ids().index(HOSTILE) + 1}) td.time")
    page.wait_for_text(".detail dd", HOSTILE)
    page.open("try")
    page.one("#prompt").clear()
    page.one("#prompt").send_keys(HOSTILE)
    page.click("button[type=submit]:not(#key button)")
    page.wait(lambda _: page.texts("#answer-facts .waterfall"), "the waterfall")
    assert page.browser.title == "PD console"
    assert page.all("main img, main script") == []


@pytest.fixture
def run(stack: RealStack) -> Iterator[Path]:
    """The folder of a load test that is over."""
    folder = stack.folder / "runs" / "2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<title>a report</title>")
    (folder / "run.json").write_text("{}")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.usefixtures("split", "run")
def test_now_leads_to_locust(page: ConsolePage, stack: RealStack, screenshots: Path) -> None:
    page.open("now")
    page.wait_for_text("#loadtests a", "2026-01-01_00-00-00")
    page.browser.save_screenshot(str(screenshots / "real-now.png"))
    links = [each.get_attribute("href") for each in page.all("#loadtests a")]
    assert links[:2] == [stack.locust_url + "/", stack.locust_url + "/runs/"]
    (link,) = (each for each in links if "2026-01-01" in (each or ""))
    page.browser.get(str(link))
    assert page.browser.title == "a report"
