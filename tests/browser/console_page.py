"""The console as a person uses it."""

from collections.abc import Callable
from typing import Any, TypeVar

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

_BARS = """
return [...document.querySelectorAll(arguments[0] + " [data-phase]")].map((row) => {
    const [track, bar] = [".track", ".bar"].map((part) => row.querySelector(part).getBoundingClientRect());
    return [row.dataset.phase, Number(row.dataset.ms), bar.left - track.left, bar.right - track.left, track.width]; })
"""


class ConsolePage:
    """Args: limit_s: how long any one thing may take to appear."""

    def __init__(self, browser: Chrome, url: str, limit_s: float) -> None:
        self.browser = browser
        self.url = url
        self._limit_s = limit_s

    def open(self, view: str, what: str = "") -> None:
        """Anew, with nothing left of an earlier visit but what the tab's own storages hold."""
        self.browser.get("about:blank")
        self.browser.get(f"{self.url}/#{view}{'/' if what else ''}{what}")
        self.wait(lambda _: self.one(f"#view-{view}").is_displayed(), f"the view {view}")

    def wait(self, condition: Callable[[Chrome], T], what: str) -> T:
        found: T = WebDriverWait(self.browser, self._limit_s, poll_frequency=0.1).until(condition, what)
        return found

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """One script, because the page may draw itself anew between two calls."""
        found: list[str] = self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
        )
        return found

    def wait_for_text(self, selector: str, text: str) -> None:
        self.wait(lambda _: any(text in each for each in self.texts(selector)), f"{text!r} in {selector}")

    def ids(self) -> list[str]:
        """Of the requests in the table."""
        return self.texts(".requests tbody td.id")

    def click(self, selector: str) -> None:
        def clicked(_: Chrome) -> bool:
            self.one(selector).click()
            return True

        self.wait(clicked, f"{selector} to click")

    def facts(self, within: str) -> dict[str, str]:
        names, values = self.texts(f"{within} dt"), self.texts(f"{within} dd")
        return dict(zip(names, values, strict=True))

    def bars(self, within: str) -> list[tuple[str, float, float, float, float]]:
        """The waterfall's phases: name, ms, left and right end and the whole width in pixels."""
        return [tuple(each) for each in self.browser.execute_script(_BARS, within)]

    def emulate(self, **features: str) -> None:
        """Such as prefers_color_scheme="dark"; none: as it was."""
        told = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": told})

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        told: dict[str, Any] = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", told)

    def as_it_was(self) -> None:
        self.emulate()
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.browser.execute_script("sessionStorage.clear(); localStorage.clear()")
