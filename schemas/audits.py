"""A ticket drawn for an audit, once it has ended: tier-1's draft goes to a judge, whatever became of it."""

from msgspec import Struct

from schemas.tickets import Attempt, Decision, Moment, Ticket


class Audit(Struct, frozen=True, kw_only=True):
    """What a judge needs to say whether tier-1's draft was acceptable, and what learning needs to use the answer.

    The router draws tickets that tier-1 may answer with one probability, `decision.propensity`, before anybody knows
    what will become of them; so the audits are a random sample of them all.
    """

    ticket: Ticket
    decision: Decision
    draft: Attempt
    """Tier-1's draft with the checker's score; its reason is empty if it was shipped."""
    other: Attempt | None = None
    """Tier-2's answer to the same ticket, where it gave one."""
    at: Moment
    """When the ticket ended."""

    @property
    def shipped(self) -> bool:
        """Whether the customer got tier-1's draft."""
        return not self.draft.reason
