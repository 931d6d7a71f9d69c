"""A ticket in a batch: what is asked of the provider, and what follows from its result. Values, no I/O and no clock.

Batches go to the first target. What a batch can't settle free of charge goes the ordinary way, by calls, which knows
other targets, hand-offs and what `when_spent` says.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from schemas.drafts import Draft
from schemas.tickets import Routed
from workers.errors import PermanentError
from workers.tier2 import prompts, wire
from workers.tier2.batch_wire import Outcome
from workers.tier2.client import HandoffError, Tier2Config, draft
from workers.tier2.outgoing import Outgoing, outgoing
from workers.tier2.paid_call import BYTES_PER_TOKEN, Answered, today
from workers.tier2.story import Story
from workers.tier2.targets import Target

BATCH_TRIES = 2
"""A ticket without a result is in so many batches at most: each may take a day."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a ticket's request is, and what it may cost."""

    body: bytes = field(repr=False)
    worst_micro_usd: int


@dataclass(frozen=True, slots=True)
class Concluded:
    """What follows from a ticket's result."""

    step: Draft | HandoffError | Literal["again", "calls"]
    """The draft; a person; the next batch; the ordinary way."""
    charged_micro_usd: int | None
    """None where nobody knows: its worst case stays counted."""


@dataclass(frozen=True, slots=True)
class Batching:
    """What all batches have in common."""

    config: Tier2Config

    @property
    def target(self) -> Target:
        """Whose batches new tickets go into."""
        return self.config.targets[0]

    @property
    def phone_region(self) -> str:
        """What new batches record of redaction."""
        return self.config.phone_region if self.config.redact else ""

    def target_of(self, name: str) -> Target:
        """The target of a batch that was submitted earlier. Raises: ValueError if the settings don't have it."""
        for target in self.config.targets:
            if target.name == name:
                return target
        raise ValueError(
            f"tier2.targets has no {name} any more, where a batch is open: leave it there until its batches have ended"
        )

    def ask(self, routed: Routed, target: Target, phone_region: str) -> Asked:
        """A ticket's request. Finding personal data may take a second."""
        request = wire.request(
            target.provider,
            api_key=target.api_key,
            model=target.model,
            system=prompts.system(self.config.company, self.config.knowledge),
            user=_outgoing(routed, phone_region).message,
            max_tokens=self.config.max_tokens,
        )
        price = self.config.prices.of(target.model, today())
        prompt_tokens = len(request.body) // BYTES_PER_TOKEN
        return Asked(request.body, price.worst_case_micro_usd(prompt_tokens, self.config.max_tokens, batch=True))

    def conclude(
        self,
        routed: Routed,
        outcome: Outcome | None,
        target: Target,
        phone_region: str,
        *,
        number: int,
        reserved_micro_usd: int,
        duration_s: float,
    ) -> Concluded:
        """What follows from a result in the ticket's batch `number`; None is a result that is missing."""
        charged_micro_usd = self.charged_micro_usd(outcome, target)
        match outcome:
            case wire.Completion():
                story = Story(_outgoing(routed, phone_region), routed.ticket.tenant, inf, calls=number)
                cost_micro_usd = self._cost_micro_usd(outcome, target)
                story.paid(cost_micro_usd, known=True)
                if not wire.same_model(target.model, outcome.model):
                    reason = f"{target.name} was asked, and {outcome.model[:80]!r} answered"
                    return Concluded(
                        HandoffError("rejected", reason, number, cost_micro_usd / 1e6, 0.0), cost_micro_usd
                    )
                return Concluded(draft(routed, Answered(target, outcome), story, duration_s), cost_micro_usd)
            case wire.TurnedAwayError():
                return Concluded("again" if number < BATCH_TRIES else "calls", charged_micro_usd)
            case wire.RejectedError():
                return Concluded("calls", charged_micro_usd)
            case wire.BrokenAnswerError() | PermanentError():
                # Paid for, perhaps: a person gets it, and the event tells what it may have cost.
                exposure_usd = reserved_micro_usd / 1e6
                return Concluded(HandoffError("rejected", outcome.reason, number, 0.0, exposure_usd), charged_micro_usd)
            case _:
                return Concluded("calls", charged_micro_usd)

    def charged_micro_usd(self, outcome: Outcome | None, target: Target) -> int | None:
        """What a result has cost; None where nobody knows: its worst case stays counted."""
        match outcome:
            case wire.Completion():
                return self._cost_micro_usd(outcome, target)
            case wire.TurnedAwayError() | wire.RejectedError():
                return 0
            case _:
                return None

    def _cost_micro_usd(self, completion: wire.Completion, target: Target) -> int:
        return self.config.prices.of(target.model, today()).cost_micro_usd(completion.usage, batch=True)


def _outgoing(routed: Routed, phone_region: str) -> Outgoing:
    return outgoing(routed.ticket, bool(phone_region), phone_region)
