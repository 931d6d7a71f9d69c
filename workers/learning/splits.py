"""Which training ticket teaches what, and when it comes.

Of an intent's training wordings three in four teach the adapter, and every fourth is kept from it: what tier-1 makes of
a wording that it has never seen is the honest label for router and checker. Complex tickets teach the adapter nothing:
a model this small would only learn to make answers up.

The training stream comes in three rounds, as it would to a company that begins with nothing: so the adapter is taught,
and so the quality loop is measured (`make bench NAME=quality_loop`).
"""

from dataclasses import replace

from workers.learning.company import Company, Example

HELD_OUT_EVERY = 4

LAST_WORDING = (16, 28, 40)
"""Of each routine intent, by the end of a round."""
ROUNDS = len(LAST_WORDING)


def come(company: Company, rounds: int) -> Company:
    """The company when so many rounds have come: complex and validation tickets by thirds, the test split and what is
    kept for later rounds never."""

    def has_come(place: int, example: Example) -> bool:
        if example.later or example.split == "test":
            return False
        if example.split == "train" and example.kind == "routine":
            return example.number <= LAST_WORDING[rounds - 1]
        return place % ROUNDS < rounds

    return replace(company, examples=tuple(e for i, e in enumerate(company.examples) if has_come(i, e)))


def distillation_set(company: Company) -> list[Example]:
    """The tickets whose reference answers the adapter is trained on."""
    return [e for e in company.split("train") if _taught(e)]


def label_set(company: Company) -> list[Example]:
    """Training tickets that the adapter has not seen: tier-1 runs on them, and the rubric labels what it says."""
    return [e for e in company.split("train") if not _taught(e)]


def _taught(example: Example) -> bool:
    return example.kind == "routine" and example.number % HELD_OUT_EVERY != 0
