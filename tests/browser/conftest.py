"""The browser, and where its screenshots go."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.remote.webdriver import WebDriver

from stack.configuration.settings import REPOSITORY
from tests.browser.chromium import chromium


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    with chromium(tmp_path / "profile") as driver:
        yield driver


@pytest.fixture(scope="session")
def screenshots() -> Path:
    folder = REPOSITORY / ".stack" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
