"""The console in a real browser, before the proxy and instances that answer as a prompt tells them."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from proxy.ratio.matching import PART_S
from proxy.ratio.watch import Seen
from tests.browser.chromium import chromium
from tests.browser.console_page import ConsolePage
from tests.browser.scripted_stack import FAIL, RECOMPUTE, WORDS, ScriptedStack, scripted_stack
from tests.unit.proxy.console.test_ratio import ALL, window
from tests.unit.proxy.scripted import MODEL, instance

LIMIT_S = 60
LONG = "word " * 300
VIEWS = ("map", "requests", "try", "now")
PHONE = (375, 740)
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
SCRIPT = "\"><script>document.title='owned'</script>"
# Not paired with anybody, and so never asked.
OTHER = instance("prefill", f"other-{SCRIPT}", fingerprint="x", block_size=16, served_models=(SCRIPT,))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def stack() -> Iterator[ScriptedStack]:
    with scripted_stack([("prefill-0", "decode-0")], [OTHER]) as stack:
        for number in range(3):
            stack.complete(f"{number} {LONG}", {"X-Request-Id": f"split-{number}"})
        stack.complete("short", {"X-Request-Id": "local"})
        stack.complete(f"{FAIL} {LONG}", {"X-Request-Id": "failed"})
        stack.complete(f"{RECOMPUTE} {LONG}", {"X-Request-Id": "recomputed"})
        stack.complete("short", {"X-Request-Id": HOSTILE}, model=HOSTILE)
        yield stack


@pytest.fixture
def page(driver: Chrome, stack: ScriptedStack) -> Iterator[ConsolePage]:
    page = ConsolePage(driver, stack.url, LIMIT_S)
    page.browser.get(stack.url + "/health")
    page.as_it_was()
    yield page
    told = [each["message"] for each in driver.get_log("browser")]  # type: ignore[no-untyped-call]
    page.as_it_was()
    # What a view may be told: a request that is not known, no key, a model that does not exist.
    assert [each for each in told if not re.search(r"status of (401|404|500)", each)] == []


def test_the_map(page: ConsolePage, screenshots: Path) -> None:
    page.open("map")
    page.wait_for_text("#flows td", "prefill-0")
    assert page.texts(".column.prefill .instance h3")[1].startswith("other-")
    page.wait(lambda _: page.all(".between .line.flowing"), "a line")
    (drawn,) = page.all(".between .line")
    assert "failing" in (drawn.get_attribute("class") or "")  # one failed and one was recomputed
    assert "tcp" in "".join(page.texts(".sign text"))
    assert "67 % early" in "".join(page.texts(".sign text"))
    (row,) = page.all("#flows tbody tr")
    cells = [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
    assert cells[:2] == ["prefill-0", "decode-0"]
    assert cells[4:7] == ["tcp", "67 %", "28.3 MB"]
    assert cells[-1] == "1"
    assert "no served model in common with decode-0" in "".join(page.texts(".reasons li"))
    page.wait_for_text(".column.prefill dt", "free blocks")
    for role, held in (("prefill", "12, of ended prefills, for transfers"), ("decode", "12, awaiting their KV")):
        found = page.facts(f".column.{role} .instance:first-of-type")
        assert (found["free blocks"], found["blocks held"]) == ("1,200 of 1,600", held)
        assert found["engine"] == "2 running, 3 waiting, cache 25 % used"
    page.browser.save_screenshot(str(screenshots / "console-map.png"))


def test_old_figures_have_their_age(page: ConsolePage, stack: ScriptedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    known = stack.proxy.gateway.gauges.known
    old = {"age_s": 40}
    monkeypatch.setattr(
        stack.proxy.gateway.gauges, "known", lambda found: {name: told | old for name, told in known(found).items()}
    )
    page.open("map")
    page.wait_for_text(".column.decode dd", "2 running, 3 waiting, cache 25 % used · 40 s ago")
    page.wait_for_text(".column.decode dd", "1,200 of 1,600 · 40 s ago")


def test_the_table_is_filtered(page: ConsolePage) -> None:
    page.open("requests")
    page.wait(lambda _: len(page.ids()) >= 7, "seven requests")
    known = set(page.ids())
    assert {"split-0", "split-1", "split-2", "local", "failed", "recomputed", HOSTILE} <= known
    for selector, expected in (("#filter-failed", {"failed", HOSTILE}), ("#filter-recomputed", {"recomputed"})):
        page.click(selector)
        assert set(page.ids()) == expected
        page.click(selector)
    Select(page.one("#filter-path")).select_by_value("local")
    assert "local" in page.ids()
    assert not {"split-0", "failed"} & set(page.ids())
    Select(page.one("#filter-path")).select_by_value("")
    Select(page.one("#filter-status")).select_by_value("5")
    assert page.ids() == ["failed"]
    Select(page.one("#filter-status")).select_by_value("")
    page.one("#filter-slowMs").clear()
    page.one("#filter-slowMs").send_keys("600000")
    page.click("#filter-slow")
    assert page.ids() == []
    page.click("#filter-slow")
    page.one("#filter-search").send_keys("SPLIT-1")
    assert page.ids() == ["split-1"]
    assert page.one(".filters output").text == "1 of 1 shown"


def test_the_waterfall_adds_up_to_server_timing(page: ConsolePage, stack: ScriptedStack, screenshots: Path) -> None:
    sent = stack.complete(f"waterfall {LONG}", {"X-Request-Id": "waterfall"})
    timing = dict(part.split(";dur=") for part in sent["server-timing"].split(", "))
    page.open("requests", "waterfall")
    page.wait_for_text(".detail h3", "Waterfall")
    bars = page.bars(".detail")
    assert {name: f"{ms:.2f}" for name, ms, *_ in bars} == timing
    assert [name for name, *_ in bars] == ["queue", "prefill", "transfer", "first_step"]
    for (_, _, _, end, _), (_, _, begin, _, _) in pairwise(bars):
        assert begin == pytest.approx(end, abs=2.5)  # a bar of next to nothing is two pixels wide
    sum_ms = sum(float(value) for value in timing.values())
    assert f"= {sum_ms:.1f} ms" in page.one(".detail .sum").text
    shown = page.facts(".detail .headers")
    assert shown["Server-Timing"] == sent["server-timing"]
    assert shown["X-PD-Transfer-Id"] == sent["x-pd-transfer-id"]
    facts = page.facts(".detail .beside > div:first-child")
    assert (facts["producer"], facts["consumer"]) == ("prefill-0", "decode-0")
    assert facts["path"] == "disaggregated · disaggregated"
    assert facts["first token by"] == "consumer · seed"
    assert "to the second token" in page.texts(".detail .row.second .name")
    page.wait_for_text(".row.whole-transfer .note", "9.44 MB, tcp, 67 % early")
    page.wait_for_text(".row.writes .name", "its writes: 31")
    page.wait_for_text(".row.writes .note", "1 after the prefill's end")
    assert len(page.all(".row.writes .bar")) == 3
    assert len(page.all(".row.chunks .bar")) == 2
    assert page.texts("details.writes tbody tr:last-child td")[:3] == ["0–29", "1", "3.15 MB"]
    page.browser.save_screenshot(str(screenshots / "console-waterfall.png"))
    page.click(".waterfall button")
    _, _, _, end, width = page.bars(".detail")[-1]
    assert end == pytest.approx(width, abs=2.5)  # to the first token


def test_a_failed_request_says_why(page: ConsolePage) -> None:
    page.open("requests", "failed")
    page.wait_for_text(".detail h3", "Facts")
    facts = page.facts(".detail .beside > div:first-child")
    assert facts["status"] == "500 instance_error"
    assert "decode-0 answered 500: <b>it broke</b>" in facts["failure"]
    assert page.all(".detail b") == []


@pytest.mark.parametrize("kind", ["completions", "chat"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_playground(kind: str, whole: bool, page: ConsolePage) -> None:
    page.open("try")
    page.wait_for_text("#model option", MODEL)
    Select(page.one("#kind")).select_by_value(kind)
    if whole:
        page.click("#stream")
    for button, path in (("short", "local · short_prompt"), ("long", "disaggregated"), ("again", "local · prefix_on")):
        if button == "again" and kind == "chat":
            continue
        page.click(f"#{button}")
        page.wait(lambda _: page.texts("#answer-facts .waterfall"), f"the waterfall of {button}")
        if kind == "completions" or not whole:
            assert page.one("#output").text.strip() == "".join(WORDS).strip()
        shown = page.facts("#answer-facts .beside > div:first-child")
        if button == "again":
            assert shown["path"].startswith(("local · prefix_on_consumer", "disaggregated"))
        else:
            assert shown["path"].startswith(path)


def test_an_error_of_the_playground_is_shown(page: ConsolePage) -> None:
    page.open("try")
    page.one("#prompt").clear()
    page.one("#prompt").send_keys(f"{FAIL} ")
    page.click("button[type=submit]:not(#key button)")
    page.wait_for_text("#answer-status.bad", "<b>it broke</b>")
    page.wait_for_text("#answer-facts dd", "instance_error")


def test_now(page: ConsolePage, screenshots: Path) -> None:
    page.open("now")
    page.wait_for_text("#shares .name", "local · short_prompt")
    assert "disaggregated" in page.texts("#shares .name")
    page.wait_for_text("#causes td", "instance_error")
    assert all(page.one(f"#chart-{name} .series").get_attribute("d") for name in ("ttft", "itl", "perSecond"))
    tiles = dict(zip(page.texts(".tile h3"), page.texts(".tile strong"), strict=True))
    assert tiles["TTFT"].endswith("ms")
    assert tiles["running"] == "0"
    assert int(tiles["failed"]) >= 1
    page.browser.save_screenshot(str(screenshots / "console-now.png"))


def test_the_ratio(page: ConsolePage, stack: ScriptedStack, screenshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page.open("now")
    page.wait(lambda _: page.all("#ratio [data-says]"), "the verdict on what has been seen till now")
    queued = Seen(ALL, {"prefill-0": ALL}, 3000, 1500, 0, 1, 3.0, PART_S, 0.5, 10)
    monkeypatch.setattr(stack.proxy.gateway.watch, "told", lambda: window(queued))
    page.wait_for_text("#ratio [data-says=wrong]", "The ratio is wrong: 2 more producer(s).")
    page.wait_for_text(
        "#ratio .note",
        "Producers: 1, used 150 %, 1,500 tokens waiting (15.0 s). Consumers: 1, used 25 %, KV cache 10 %",
    )
    page.browser.save_screenshot(str(screenshots / "console-ratio.png"))
    Select(page.one("#language")).select_by_value("zh")
    page.wait_for_text("#ratio", "比例不当：增加 2 个生产者。")


def test_light_and_dark(page: ConsolePage, screenshots: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        page.emulate(prefers_color_scheme=scheme)
        page.open("requests", "split-0")
        page.wait_for_text(".detail h3", "Waterfall")
        found[scheme] = page.one("body").value_of_css_property("background-color")
        page.browser.save_screenshot(str(screenshots / f"console-{scheme}.png"))
    assert found == {"light": "rgba(244, 246, 250, 1)", "dark": "rgba(16, 21, 29, 1)"}


@pytest.mark.parametrize("view", [*VIEWS, "requests/split-0"])
def test_on_a_phone_nothing_is_wider_than_the_screen(view: str, page: ConsolePage, screenshots: Path) -> None:
    page.resize(*PHONE, mobile=True)
    page.open(*view.split("/"))
    page.wait_for_text("#state.live", "live")
    if "/" in view:
        page.wait_for_text(".detail h3", "Waterfall")
    width, visible = page.browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    page.browser.save_screenshot(str(screenshots / f"console-phone-{view.replace('/', '-')}.png"))
    assert width <= visible == PHONE[0]


def test_chinese(page: ConsolePage, screenshots: Path) -> None:
    page.open("now")
    Select(page.one("#language")).select_by_value("zh")
    page.wait_for_text("nav a", "请求")
    assert page.texts("nav a") == ["拓扑", "请求", "试一试", "现况"]
    assert page.one("html").get_attribute("lang") == "zh-CN"
    page.open("requests", "split-0")  # it is remembered
    page.wait_for_text(".detail h3", "瀑布图")
    page.wait_for_text(".detail .row .name", "预填充")
    page.browser.save_screenshot(str(screenshots / "console-chinese.png"))
    page.browser.execute_script("localStorage.clear()")
    page.browser.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": "x", "acceptLanguage": "zh-CN,zh"})
    page.open("map")
    page.wait_for_text("nav a", "拓扑")
    page.browser.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": "x", "acceptLanguage": "en-US"})


def test_by_keyboard(page: ConsolePage) -> None:
    page.open("map")
    page.one("nav a[href='#requests']").send_keys(Keys.ENTER)
    page.wait(lambda _: len(page.ids()) >= 7, "the table")
    page.click("#filter-search")
    page.one("#filter-search").send_keys("split-", Keys.TAB)
    page.browser.execute_script("document.querySelector('.requests tbody button').focus()")
    keys = ActionChains(page.browser)
    keys.send_keys(Keys.ARROW_DOWN).perform()
    focused = page.browser.switch_to.active_element
    assert focused.text == page.ids()[1]
    keys.send_keys(Keys.ENTER).perform()
    page.wait_for_text(".detail h2", page.ids()[1])
    page.wait(lambda browser: "detail" in (browser.switch_to.active_element.get_attribute("class") or ""), "the focus")
    ActionChains(page.browser).send_keys(Keys.ESCAPE).perform()
    page.wait(lambda _: not page.one(".detail").is_displayed(), "the end of the details")
    assert page.browser.switch_to.active_element.text == page.ids()[1]


def test_hostile_text_stays_text(page: ConsolePage) -> None:
    page.open("requests")
    page.wait(lambda _: HOSTILE in page.ids(), "the request")
    page.click(f"tr:nth-child({page.ids().index(HOSTILE) + 1}) td.time")
    page.wait_for_text(".detail dd", HOSTILE)
    assert f"The model `{HOSTILE}` does not exist." in page.texts(".detail dd")
    page.open("try")
    page.wait_for_text("#model option", SCRIPT)
    page.one("#prompt").clear()
    page.one("#prompt").send_keys(HOSTILE)
    page.click("button[type=submit]:not(#key button)")
    page.wait(lambda _: page.texts("#answer-facts .details"), "the answer's facts")
    page.open("map")
    page.wait_for_text(".instance h3", SCRIPT)
    assert page.browser.title == "PD console"
    assert page.all("main img, main script") == []


def test_nothing_is_asked_of_anybody_else(page: ConsolePage) -> None:
    for view in VIEWS:
        page.open(view)
        page.wait_for_text("#state.live", "live")
        asked = page.browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert [each for each in asked if not each.startswith(page.url + "/")] == []


def test_a_key_is_asked_for_and_kept_in_the_tab_only(page: ConsolePage) -> None:
    with scripted_stack(proxy_api_keys="alice:k1") as stack:
        stack.complete("short", {"Authorization": "Bearer k1", "X-Request-Id": "hers"})
        locked = ConsolePage(page.browser, stack.url, LIMIT_S)
        locked.open("requests")
        locked.wait(lambda _: locked.one("#key").is_displayed(), "the question for the key")
        assert locked.ids() == []
        locked.one("#key-value").send_keys("k2", Keys.ENTER)
        locked.wait_for_text("#key-wrong", "does not know")
        locked.one("#key-value").send_keys("k1", Keys.ENTER)
        locked.wait(lambda _: locked.ids() == ["hers"], "the request")
        kept = locked.browser.execute_script(
            "return [{...sessionStorage}, {...localStorage}, document.cookie, location.href.includes('k1')]"
        )
        assert kept == [{"pd-console-key": "k1"}, {}, "", False]
        locked.open("try")
        locked.click("#short")
        locked.wait_for_text("#answer-facts dd", "alice")
        locked.click("#forget")
        locked.wait(lambda _: locked.one("#key").is_displayed(), "the question for the key")
        locked.browser.execute_script("sessionStorage.clear(); localStorage.clear()")
