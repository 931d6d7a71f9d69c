"""Which training ticket teaches what.

Three in four training wordings of a routine intent teach the adapter. The fourth
is kept from it: what tier-1 makes of a wording it has never seen is the honest
label for router and checker. Complex tickets teach the adapter nothing, since a
model this small would only learn to make answers up.
"""

from itertools import groupby

from workers.learning.company import Company, Example

HELD_OUT_EVERY = 4


def distillation_set(company: Company) -> list[Example]:
    """The tickets whose reference answers the adapter is trained on."""
    return [e for group in _routine_by_intent(company) for i, e in enumerate(group, 1) if i % HELD_OUT_EVERY]


def label_set(company: Company) -> list[Example]:
    """Training tickets that the adapter has not seen: tier-1 runs on them, and the rubric labels what it says."""
    held_out = [e for group in _routine_by_intent(company) for i, e in enumerate(group, 1) if not i % HELD_OUT_EVERY]
    return held_out + [e for e in company.split("train") if e.kind == "complex"]


def _routine_by_intent(company: Company) -> list[list[Example]]:
    routine = sorted((e for e in company.split("train") if e.kind == "routine"), key=lambda e: e.ticket_id)
    return [list(group) for _, group in groupby(routine, key=lambda e: (e.category, e.intent))]
