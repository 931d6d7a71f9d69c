"""The example company for the tests: reading it takes a second of processor time, so that is done once a process."""

from functools import cache
from pathlib import Path

from workers.learning.company import Company, load_company

FERNWAY = Path(__file__).parents[1] / "examples" / "fernway"


@cache
def fernway() -> Company:
    return load_company(FERNWAY)
