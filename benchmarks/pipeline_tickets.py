"""The tickets of benchmarks/pipeline.py: each says in its text what the simulated models are to do with it.

So the models need no state of their own, what a ticket spends at them is known before it is published, and what it
takes longer than that is Headgate's.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from schemas.tickets import Ticket, TicketId

ROUTER_S = 0.015
"""A batch at the router's classifier, whatever its size: a GPU's, or several cores'."""
CHECKER_S = 0.030
"""A batch at the checker, where it holds a tier-1 draft to be scored: its tickets and its drafts are encoded."""
TIER1_S = (0.4, 1.6)
"""An answer of tier-1 takes evenly distributed times between these."""
TIER2_S = (1.5, 4.5)
TIER1_SHARE, REFUSED_SHARE = 0.8, 0.0625
"""As in the example (docs/scale.md): tickets tried on tier-1, and of their drafts those that the checker refuses."""

Way = Literal["tier1", "refused", "tier2"]
"""Answered by tier-1; by tier-2 after a refused draft; by tier-2 alone."""

_SCRIPT = re.compile(r"script: (tier1|refused|tier2), (\d+) ms, (\d+) ms")
_BODY = (
    "Hello, I was charged a late fee on my last bill although I paid it on time by bank transfer. Could you please "
    "tell me why, and take the fee off my next bill? I have been a customer of yours for years and it never happened. "
    "Thank you and best regards\n\n"
)


@dataclass(frozen=True, slots=True)
class Script:
    """What is to become of a ticket, and how long the models take for it."""

    way: Way
    tier1_ms: int
    tier2_ms: int

    @classmethod
    def drawn(cls, rng: random.Random) -> Self:
        """One at random."""
        way: Way = "tier2"
        if rng.random() < TIER1_SHARE:
            way = "refused" if rng.random() < REFUSED_SHARE else "tier1"
        return cls(way, *(round(1000 * rng.uniform(*times)) for times in (TIER1_S, TIER2_S)))

    @classmethod
    def of(cls, text: str) -> Self:
        """The script in a ticket's text or in a prompt made of it. Raises: ValueError if there is none."""
        if (found := _SCRIPT.search(text)) is None:
            raise ValueError("a text without a script")
        return cls(found[1], int(found[2]), int(found[3]))  # type: ignore[arg-type]

    @property
    def model_s(self) -> float:
        """What a ticket of this script spends at models, were it alone."""
        tier1_s, tier2_s = self.tier1_ms / 1000, self.tier2_ms / 1000
        match self.way:
            case "tier1":
                return ROUTER_S + tier1_s + CHECKER_S
            # A gate refuses the draft: it isn't scored, and neither is tier-2's.
            case "refused":
                return ROUTER_S + tier1_s + tier2_s
            case _:
                return ROUTER_S + tier2_s

    def ticket(self, ticket_id: str) -> Ticket:
        """A ticket of the example's usual length that asks for this."""
        # Numbers that stand together would be taken for a phone's, and kept from the provider.
        script = f"script: {self.way}, {self.tier1_ms} ms, {self.tier2_ms} ms"
        return Ticket(ticket_id=TicketId(ticket_id), subject="A late fee", body=_BODY + script)


def scripts(seed: int) -> Iterator[Script]:
    """Endless; the same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        yield Script.drawn(rng)
