"""The console's page as somebody uses it, for tests."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import chromium

PHONE, DESK = (360, 780), (1280, 900)
ROWS = {
    "summary": "#categories tr",
    "policy": "#policies tbody tr",
    "spend": "#limits tr",
    "backlog": "#stages tr",
    "audits": "#labels tr",
}
"""A row that each endpoint fills."""

SHOWN = """
return [...document.querySelectorAll(arguments[0])].map(e => e.checkVisibility() ? e.innerText : "");
"""


@dataclass
class Console:
    """The page, as somebody uses it."""

    chrome: Chrome
    url: str
    said: dict[str, Struct | int]

    def open(self, *filled: str, size: tuple[int, int] = DESK, scheme: str = "light") -> None:
        """Load the page and wait until these endpoints' rows are there."""
        chromium.look(self.chrome, *size, scheme)
        self.chrome.get(self.url)
        for name in filled:
            self.until(lambda name=name: self.rows(ROWS[name]))

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.chrome, 20, 0.05).until(lambda _: condition())

    def text(self, css: str) -> str:
        """As it is shown; empty where it is hidden."""
        return self.chrome.find_element(By.CSS_SELECTOR, css).text

    def rows(self, css: str) -> list[str]:
        """The same of all elements, in one round trip."""
        return [" ".join(text.split()) for text in self.chrome.execute_script(SHOWN, css)]

    def come_back(self) -> None:
        """As from another tab: the page asks for everything at once."""
        self.chrome.execute_script("document.dispatchEvent(new Event('visibilitychange'))")

    def find(self, ticket_id: str) -> str:
        """Ask for a journey with the keyboard alone; returns what the page then says."""
        field = self.chrome.find_element(By.ID, "ticket-id")
        field.clear()
        field.send_keys(ticket_id, Keys.ENTER)
        self.until(lambda: self.text("#journey-state") not in ("", "Looking."))
        return self.text("#journey-state")


FIGURE = re.compile(r"\d[\d,]*(?:\.(\d+))?")


def numbers(text: str) -> list[float]:
    """The figures in a text, in its order."""
    return [float(found[0].replace(",", "")) for found in FIGURE.finditer(text)]


def shows(text: str, value: float | None) -> bool:
    """Whether one of the figures is the value as it is rounded there, to two digits or more."""
    if value is None:
        return False
    # Half of the last digit, and a little for rounding's own sake.
    halves = [0.501 * 10.0 ** -len(found[1] or "") for found in FIGURE.finditer(text)]
    wanted = abs(value)
    return any(
        abs(n - wanted) <= min(half, 0.05 * wanted + 1e-12) for n, half in zip(numbers(text), halves, strict=True)
    )
