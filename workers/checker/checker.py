"""The checker at work: drafts in, verdicts out."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from schemas.answers import GateReason, Verdict
from schemas.drafts import Draft
from schemas.policy import Policy
from workers.checker.features import EmbeddedKnowledge, features
from workers.checker.gates import failed_gates
from workers.checker.scorer import Scorer
from workers.knowledge import Passage
from workers.router.classifier import Classifier, ticket_text


class Checker:
    """Gates for every draft; for tier-1 drafts also the score against the category's threshold."""

    def __init__(
        self,
        classifier: Classifier,
        scorer: Scorer,
        passages: Sequence[Passage],
        policy_of: Callable[[Draft], Policy],
        usd_per_hour: float,
    ) -> None:
        self.classifier = classifier
        self.scorer = scorer
        self.policy_of = policy_of
        self.usd_per_hour = usd_per_hour
        self.knowledge = EmbeddedKnowledge.of(passages, classifier)
        self._policy_texts = "\n".join(passage.text for passage in passages)

    def check(self, drafts: Sequence[Draft]) -> list[Verdict]:
        """One verdict a draft, in the same order. Blocks on the CPU: call it in a thread."""
        started = time.perf_counter()
        gates = [failed_gates(draft, self._policy_texts) for draft in drafts]
        to_score = [i for i, draft in enumerate(drafts) if draft.tier == "tier1" and not gates[i]]
        scores = dict(zip(to_score, self.scores([drafts[i] for i in to_score]), strict=True))
        cost_usd = (time.perf_counter() - started) * self.usd_per_hour / 3600 / max(1, len(drafts))
        return [
            judge(draft, gates[i], scores.get(i), self.policy_of(draft), cost_usd, self.scorer.version)
            for i, draft in enumerate(drafts)
        ]

    def scores(self, drafts: Sequence[Draft]) -> list[float]:
        """Estimated probabilities that tier-1 drafts are acceptable."""
        if not drafts:
            return []
        tickets = self.classifier.classify([ticket_text(d.routed.ticket) for d in drafts])
        answers = self.classifier.classify([d.text for d in drafts])
        rows = [features(d, t, a, self.knowledge) for d, t, a in zip(drafts, tickets, answers, strict=True)]
        return [float(s) for s in self.scorer.score(np.stack(rows))]


def judge(
    draft: Draft,
    gates: tuple[GateReason, ...],
    score: float | None,
    policy: Policy,
    cost_usd: float,
    scorer: str = "",
) -> Verdict:
    """The verdict from what the gates and the scorer said; a tier-2 draft passes the gates only."""
    category = policy.of(draft.routed.decision.category) if draft.tier == "tier1" else None
    threshold = category.score_threshold if category else None
    low = score is not None and threshold is not None and score < threshold
    reasons = gates or ((GateReason.LOW_SCORE,) if low else ())
    if draft.tier == "tier1" and draft.routed.decision.in_shadow:
        # Whatever the draft is like, it isn't why the ticket goes up.
        reasons = (GateReason.SHADOW,)
    elif not reasons and category and category.state == "shadow":
        # By force or under an earlier policy: what isn't certified doesn't ship.
        reasons = (GateReason.SHADOW,)
    return Verdict(
        accepted=not reasons,
        reasons=reasons,
        score=score,
        threshold=threshold,
        policy_version=policy.version,
        cost_usd=cost_usd,
        scorer=scorer if score is not None else "",
    )
