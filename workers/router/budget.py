"""How much of the traffic may go to tier-2: a token bucket as a value. Pure.

Every ticket puts `tier2_share` of a credit in, every decision for tier-2 takes
one out. Rules never ask the bucket but use it up like the score does; only
where the score says tier-2 does an empty one change the tier. Each router
process keeps its own, so the share holds for all of them together, and a
start brings at most BURST tickets on top. What the checker escalates later is
not counted here: it is not the router's choice.
"""

from dataclasses import dataclass

from schemas.policy import Policy
from schemas.tickets import Tier

BURST = 20
"""Credits at most: so many hard tickets in a row go to tier-2 whatever the share. Also the most that rules can
overdraw, so that a wave of forced tickets is forgotten some time (a guess: an outage's first minute)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of tier-2's share, in tickets."""

    credit: float = BURST
    """-BURST to BURST."""

    def allows(self, policy: Policy) -> bool:
        """Whether the score may send a ticket to tier-2 now. A share of 1 is no limit, whatever the credit."""
        return policy.tier2_share == 1.0 or self.credit >= 1.0

    def after(self, tier: Tier, policy: Policy) -> "Budget":
        """The budget once a ticket has got its tier."""
        taken = 1.0 if tier == "tier2" else 0.0
        return Budget(min(BURST, max(-BURST, self.credit + policy.tier2_share - taken)))
