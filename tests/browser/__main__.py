"""`python -m tests.browser docs/console.png`: the console with an invented hour of the example company."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.browser import chromium, company
from tests.browser.console import ROWS, Console
from tests.browser.serving import served


def main(path: Path, width: int = 1120, height: int = 1080) -> None:
    """Write the picture."""
    chrome = chromium.start()
    try:
        with served(company.everything(datetime.now(UTC))) as url:
            Console(chrome, url, {}).open(*ROWS, size=(width, height))
            chromium.screenshot(chrome, path)
    finally:
        chrome.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
