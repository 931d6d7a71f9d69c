"""Which training ticket teaches what.

Training the adapter is slow and a few wordings do; labels are quick and many are
needed. So of an intent's first 16 training wordings three in four teach the
adapter, and every other one is kept from it: what tier-1 makes of a wording that
it has never seen is the honest label for router and checker. Complex tickets
teach the adapter nothing: a model this small would only learn to make answers up.
"""

from workers.learning.company import Company, Example

TAUGHT_OF_FIRST = 16
HELD_OUT_EVERY = 4


def distillation_set(company: Company) -> list[Example]:
    """The tickets whose reference answers the adapter is trained on."""
    return [e for e in company.split("train") if _taught(e)]


def label_set(company: Company) -> list[Example]:
    """Training tickets that the adapter has not seen: tier-1 runs on them, and the rubric labels what it says."""
    return [e for e in company.split("train") if not _taught(e)]


def _taught(example: Example) -> bool:
    return example.kind == "routine" and example.number <= TAUGHT_OF_FIRST and example.number % HELD_OUT_EVERY != 0
