"""Locust's page as a person uses it: fill in the form, start, look at the table and the charts, stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support import expected_conditions as expect
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

# One script, because the page redraws the table between two calls.
_READ_TABLE = """
return [...document.querySelectorAll("table tbody tr")].map(
    row => [...row.querySelectorAll("td")].map(cell => cell.textContent))
"""


@dataclass(frozen=True)
class Row:
    """One row of the statistics table; times in milliseconds."""

    requests: int
    failures: int
    median: float


class LocustPage:
    """Args: limit_s: how long any one thing may take to appear."""

    def __init__(self, browser: WebDriver, url: str, limit_s: float) -> None:
        self.browser = browser
        self._url = url
        self._limit_s = limit_s

    def open(self) -> None:
        self.browser.get(self._url)
        self.wait(expect.visibility_of_element_located((By.NAME, "userCount")), "the form")

    def fill(self, users: int, spawn_rate: int, **parameters: object) -> None:
        """`parameters` are fields of the form's custom parameters, such as inputTokens."""
        self._fill("userCount", users)
        self._fill("spawnRate", spawn_rate)
        self.browser.find_element(By.XPATH, "//button[contains(., 'Custom parameters')]").click()
        for name, value in parameters.items():
            self.wait(expect.element_to_be_clickable((By.NAME, name)), f"the field {name}")
            self._fill(name, value)

    def start(self) -> None:
        self.browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        self.wait(expect.visibility_of_element_located((By.XPATH, "//button[. = 'Stop']")), "the Stop button")

    def statistics(self) -> dict[str, Row]:
        """The rows of the statistics table by name; empty before the first numbers."""
        cells = self.browser.execute_script(_READ_TABLE)
        return {name: Row(int(count), int(failed), float(median)) for _, name, count, failed, median, *_ in cells}

    def wait_for_rows(self, *names: str) -> dict[str, Row]:
        def complete(_: WebDriver) -> dict[str, Row] | None:
            rows = self.statistics()
            return rows if set(names) <= rows.keys() else None

        rows = self.wait(complete, f"rows {', '.join(names)}")
        assert rows is not None
        return rows

    def show(self, tab: str) -> None:
        self.browser.find_element(By.XPATH, f"//button[@role='tab'][. = '{tab}']").click()

    def wait_for_charts(self, count: int) -> None:
        self.wait(lambda browser: len(browser.find_elements(By.TAG_NAME, "canvas")) >= count, f"{count} charts")

    def switch_theme(self) -> None:
        """Dark to light, or light to dark: the button with neither name nor text in Locust's header."""
        buttons = self.browser.find_elements(By.CSS_SELECTOR, "header .MuiIconButton-root")
        (shown,) = (button for button in buttons if button.is_displayed())
        shown.click()

    def stop(self) -> None:
        """Click on Stop and wait until the open requests are answered."""
        self.browser.find_element(By.XPATH, "//button[. = 'Stop']").click()
        self.wait(expect.visibility_of_element_located((By.XPATH, "//button[. = 'New']")), "the end of the test")

    def screenshot(self, file: Path) -> None:
        assert self.browser.save_screenshot(str(file)), f"no screenshot in {file}"

    @contextmanager
    def opened_by(self, link: str) -> Iterator[None]:
        """In the tab of the browser that a click on the link with this text opens."""
        before = set(self.browser.window_handles)

        def clicked(browser: WebDriver) -> bool:
            browser.find_element(By.LINK_TEXT, link).click()
            return True

        self.wait(clicked, f"the link {link}")
        (opened,) = self.wait(lambda browser: set(browser.window_handles) - before, "the new tab")
        (locust,) = before
        self.browser.switch_to.window(opened)
        try:
            yield
        finally:
            self.browser.close()
            self.browser.switch_to.window(locust)

    def wait(self, condition: Callable[[WebDriver], T], what: str) -> T:
        try:
            # Between finding a thing and using it the page may have drawn it anew.
            return WebDriverWait(
                self.browser, self._limit_s, ignored_exceptions=[StaleElementReferenceException]
            ).until(condition)
        except TimeoutException as error:
            text = self.browser.find_element(By.TAG_NAME, "body").text
            raise AssertionError(f"{what}: not within {self._limit_s:g} s; the page says:\n{text}") from error

    def _fill(self, name: str, value: object) -> None:
        field = self.browser.find_element(By.NAME, name)
        if field.tag_name == "select":
            Select(field).select_by_value(str(value))
        else:
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(str(value))
