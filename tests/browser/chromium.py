"""A real Chromium without a window, from the system's packages: nothing is downloaded."""

import base64
import os
import shutil
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class NoBrowserError(Exception):
    """Neither is installed."""


def start() -> Chrome:
    """Raises: NoBrowserError if there is no browser or no driver."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        raise NoBrowserError("the console's tests need Chromium: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        # Chromium refuses to run as root with its sandbox; it sees our own page only.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=ChromeService(driver))


def look(chrome: Chrome, width: int, height: int, scheme: str = "light") -> None:
    """Take the size of a screen in CSS pixels, and its user's colour scheme."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    chrome.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def screenshot(chrome: Chrome, path: Path) -> None:
    """A PNG of what the screen shows."""
    path.write_bytes(base64.b64decode(chrome.execute_cdp_cmd("Page.captureScreenshot", {})["data"]))
