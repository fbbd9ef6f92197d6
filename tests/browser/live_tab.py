"""Our tab in Locust's page."""

from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.browser.locust_page import LocustPage

TITLE = "Latency & goodput"

# By chart and line, the number of points for which Plotly has worked out a place.
COUNT_POINTS = """
const placed = points => points.filter(point => (point.y ?? point.s) !== undefined).length;
return Object.fromEntries([...document.querySelectorAll(".js-plotly-plot")].map(
    (plot, number) => [plot.id || number, Object.fromEntries((plot.calcdata ?? []).map(
        (points, index) => [plot.data[index].name ?? index, placed(points)]))]))
"""


class LiveTab:
    def __init__(self, page: LocustPage) -> None:
        self._page = page

    @contextmanager
    def shown(self) -> Iterator[None]:
        """With the tab open; what is looked for inside is looked for in our page."""
        self._page.show(TITLE)
        frame = self._page.wait(lambda browser: browser.find_elements(By.TAG_NAME, "iframe"), "our page")[0]
        self._page.browser.switch_to.frame(frame)
        try:
            yield
        finally:
            self._page.browser.switch_to.default_content()

    def wait_for_points(self, *charts: str) -> dict[str, dict[str, int]]:
        """Until every line of these charts has a point. Returns: points by chart and line."""

        def drawn(browser: WebDriver) -> dict[str, dict[str, int]] | None:
            points: dict[str, dict[str, int]] = browser.execute_script(COUNT_POINTS)
            return points if all(chart in points and all(points[chart].values()) for chart in charts) else None

        points = self._page.wait(drawn, f"points in {', '.join(charts)}")
        assert points is not None
        return points

    def wait_until(self, seconds: int) -> None:
        """Of the run's time."""
        drawn = 'return typeof shown === "object" && shown?.until_s'
        self._page.wait(lambda browser: (browser.execute_script(drawn) or 0) >= seconds, f"{seconds} s of the run")

    @property
    def background(self) -> str:
        return self._page.browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")

    @property
    def warnings(self) -> list[str]:
        return [warning.text for warning in self._page.browser.find_elements(By.CSS_SELECTOR, "#warnings li")]

    @property
    def completed(self) -> int:
        """After its warm-up."""
        name = "//dt[. = 'Completed']/following-sibling::dd"
        return int(self._page.browser.find_element(By.XPATH, name).text.replace(",", ""))
