"""`python -m tests.browser docs/console.png`: the console with an invented hour of the example company."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import chromium, company
from tests.browser.serving import served

LAST = ("#categories tr", "#policies tbody tr", "#limits tr", "#stages tr", "#labels tr")
"""When these are there, every endpoint has answered."""


def main(path: Path, width: int = 1120, height: int = 1080) -> None:
    """Write the picture."""
    chrome = chromium.start()
    try:
        with served(company.everything(datetime.now(UTC))) as url:
            chromium.look(chrome, width, height)
            chrome.get(url)
            WebDriverWait(chrome, 20).until(lambda c: all(c.find_elements(By.CSS_SELECTOR, css) for css in LAST))
            chromium.screenshot(chrome, path)
    finally:
        chrome.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
