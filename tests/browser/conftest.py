"""The browser: one for the whole run. Each test gets it with an empty log."""

import os
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from tests.browser import chromium


@pytest.fixture(scope="session")
def running_chrome() -> Iterator[Chrome]:
    """Skips on a laptop without a browser; in CI that is an error."""
    try:
        chrome = chromium.start()
    except chromium.NoBrowserError as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(exc))
    yield chrome
    chrome.quit()


@pytest.fixture
def chrome(running_chrome: Chrome) -> Iterator[Chrome]:
    """At the end of the test the page must have had no error of its own, and broken no rule of its policy."""
    chromium.look(running_chrome, 1280, 900)
    running_chrome.get_log("browser")
    yield running_chrome
    said = running_chrome.get_log("browser")
    # An endpoint that fails is logged by the browser itself.
    assert [entry for entry in said if entry["source"] != "network"] == []
