"""Which training ticket teaches what, and when it comes.

Of an intent's training wordings three in four teach: all of them the encoder which passage they are about, the first of
them tier-1's adapter what to say. Every fourth is kept from both: what tier-1 makes of a wording that nothing has seen
is the honest label for router and checker. Complex tickets teach nothing: a model this small would only learn to make
answers up.

The training stream comes in rounds, as it would to a company that begins with nothing: so the adapter is taught, and so
the quality loop is measured (`make bench NAME=quality_loop`).
"""

from dataclasses import replace

from workers.learning.company import Company, Example

HELD_OUT_EVERY = 4

LAST_WORDING = (16, 28, 40, 120)
"""Of each routine intent, by the end of a round."""
ROUNDS = len(LAST_WORDING)

ADAPTER_WORDINGS = 40
"""Of each intent at most: then tier-1 says what its passage says (of 424 drafts with the right one 423 were good)."""

_GOLDEN = 0.618034
"""Multiples of it, modulo 1, are spread evenly wherever one begins and ends to count."""


def come(company: Company, rounds: int) -> Company:
    """The company when so many rounds have come: complex and validation tickets as many in proportion as routine ones,
    so that labels have the same mix in each round; the test split never."""
    last = LAST_WORDING[rounds - 1]

    def has_come(place: int, example: Example) -> bool:
        if example.split == "test":
            return False
        if example.split == "train" and example.kind == "routine":
            return example.number <= last
        return place * _GOLDEN % 1 < last / LAST_WORDING[-1]

    return replace(company, examples=tuple(e for i, e in enumerate(company.examples) if has_come(i, e)))


def retrieval_set(company: Company) -> list[Example]:
    """The tickets that the encoder is taught passages with."""
    return [e for e in company.split("train") if _teaches(e)]


def distillation_set(company: Company) -> list[Example]:
    """The tickets whose reference answers the adapter is trained on."""
    return [e for e in retrieval_set(company) if e.number <= ADAPTER_WORDINGS]


def label_set(company: Company) -> list[Example]:
    """Training tickets that no model has seen: tier-1 runs on them, and the rubric labels what it says."""
    return [e for e in company.split("train") if not _teaches(e)]


def _teaches(example: Example) -> bool:
    return example.kind == "routine" and example.number % HELD_OUT_EVERY != 0
