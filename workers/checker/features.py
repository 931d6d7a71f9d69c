"""What the scorer looks at: the draft as numbers.

The strongest clue against a small distilled model is that its mistakes are
fluent answers to another question. So ticket and answer are compared through
the company's knowledge: the passage nearest to the answer should be the one
nearest to the ticket, and the answer's numbers should stand there or in the
ticket's own facts.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.drafts import Draft
from workers.knowledge import Passage

NAMES = (
    "p_ok",
    "p_category",
    "token_probability_mean",
    "token_probability_q10",
    "token_probability_min",
    "answer_tokens",
    "ticket_words",
    "ticket_answer_similarity",
    "ticket_passage_similarity",
    "answer_passage_similarity",
    "passage_margin",
    "same_category",
    "ungrounded_numbers",
    "context_numbers_used",
)
"""The features, in the order of the vector."""

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True, slots=True)
class EmbeddedKnowledge:
    """Passages with their embeddings, (n, 384) float32 of unit length."""

    passages: Sequence[Passage]
    embeddings: NDArray[np.float32]


def features(
    draft: Draft, ticket: NDArray[np.float32], answer: NDArray[np.float32], knowledge: EmbeddedKnowledge
) -> NDArray[np.float32]:
    """The feature vector of a draft, (len(NAMES),). `ticket` and `answer` are embeddings of unit length, (384,)."""
    decision, asked = draft.routed.decision, draft.routed.ticket
    to_ticket = knowledge.embeddings @ ticket
    to_answer = knowledge.embeddings @ answer
    source = int(to_answer.argmax())
    passage = knowledge.passages[source]
    logprobs = draft.logprobs
    context_numbers = _numbers(" ".join(asked.context))
    grounded = _numbers(" ".join((asked.subject, asked.body, passage.text))) | context_numbers
    stated = _numbers(draft.text)
    return np.array(
        [
            decision.p_ok,
            decision.p_category,
            math.exp(logprobs.mean) if logprobs else 0.0,
            math.exp(logprobs.q10) if logprobs else 0.0,
            math.exp(logprobs.minimum) if logprobs else 0.0,
            math.log1p(len(draft.text.split())),
            math.log1p(len(asked.body.split())),
            float(ticket @ answer),
            float(to_ticket.max()),
            float(to_answer[source]),
            # How far the answer's passage is from being the ticket's best one: 0 when it is the best.
            float(to_ticket.max() - to_ticket[source]),
            float(passage.category == decision.category),
            float(len(stated - grounded)),
            len(stated & context_numbers) / len(context_numbers) if context_numbers else 1.0,
        ],
        dtype=np.float32,
    )


def _numbers(text: str) -> set[str]:
    return {n.replace(",", "").removesuffix(".00") for n in _NUMBER.findall(text)}
