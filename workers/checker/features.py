"""What the scorer looks at: the draft as numbers.

The strongest clue against a small distilled model is that its mistakes are
fluent answers to another question. So ticket and answer are compared through
the company's knowledge, twice: by the router's learned head, and by plain
similarity of embeddings, which errs elsewhere. The passage that the answer comes
from should be the one that the ticket asks about, and the answer's numbers
should stand there or in the ticket's own facts. What is left of that passage unsaid
tells an incomplete answer.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.drafts import Draft
from workers.knowledge import Passage
from workers.router.classifier import Classifier, Scores

NAMES = (
    "p_ok",
    "p_category",
    "token_probability_mean",
    "token_probability_q10",
    "token_probability_min",
    "answer_words",
    "ticket_words",
    "ticket_answer_similarity",
    "ticket_certainty",
    "answer_certainty",
    "answer_passage_asked_for",
    "answer_passage_margin",
    "readings_agree",
    "similarity_margin",
    "similarity_rank",
    "same_category",
    "ungrounded_numbers",
    "context_numbers_used",
    "passage_numbers_stated",
    "passage_words_stated",
    "passage_phrases_stated",
    "grounded_words",
    "length_against_passage",
)
"""The features, in the order of the vector."""


@dataclass(frozen=True, slots=True)
class EmbeddedKnowledge:
    """The company's passages as the classifier reads them."""

    passages: Sequence[Passage]
    embeddings: NDArray[np.float32]
    """(passages, 384), unit length."""

    @classmethod
    def of(cls, passages: Sequence[Passage], classifier: Classifier) -> Self:
        """Embed them."""
        return cls(passages, classifier.embed([p.text for p in passages]))


LEAST = 1e-4
"""Probabilities below it are all the same: never."""

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W_]+")

T = TypeVar("T")


def features(draft: Draft, ticket: Scores, answer: Scores, knowledge: EmbeddedKnowledge) -> NDArray[np.float32]:
    """The feature vector of a draft, (len(NAMES),).

    `ticket` and `answer` are the router graph's reading of the two texts.
    """
    decision, asked = draft.routed.decision, draft.routed.ticket
    logprobs = draft.logprobs
    to_ticket, to_answer = knowledge.embeddings @ ticket.embedding, knowledge.embeddings @ answer.embedding
    source = int(to_answer.argmax())
    of_source = float(ticket.passage_probs[int(answer.passage_probs.argmax())])
    context_numbers = _numbers(" ".join(asked.context))
    passage = knowledge.passages[source].text
    grounded = _numbers(" ".join((asked.subject, asked.body, passage))) | context_numbers
    stated, said = _numbers(draft.text), _words(draft.text)
    given = _words(passage)
    known = {*given, *_words(" ".join((asked.body, *asked.context)))}
    return np.array(
        [
            decision.p_ok,
            decision.p_category,
            math.exp(logprobs.mean) if logprobs else 0.0,
            math.exp(logprobs.q10) if logprobs else 0.0,
            math.exp(logprobs.minimum) if logprobs else 0.0,
            math.log1p(len(draft.text.split())),
            math.log1p(len(asked.body.split())),
            float(ticket.embedding @ answer.embedding),
            _log(float(ticket.passage_probs.max())),
            _log(float(answer.passage_probs.max())),
            _log(of_source),
            # 0 where the answer's passage is the one that the ticket most likely asks about.
            _log(of_source) - _log(float(ticket.passage_probs.max())),
            _log(float(ticket.passage_probs @ answer.passage_probs)),
            float(to_ticket.max() - to_ticket[source]),
            math.log1p(int((to_ticket > to_ticket[source]).sum())),
            float(answer.category == decision.category),
            float(len(stated - grounded)),
            _share(context_numbers, stated),
            _share(_numbers(passage), stated),
            _share(set(given), set(said)),
            _share(_pairs(given), _pairs(said)),
            _share(set(said), known),
            math.log1p(len(said)) - math.log1p(len(given)),
        ],
        dtype=np.float32,
    )


def _log(probability: float) -> float:
    return math.log(max(probability, LEAST))


def _share(of: set[T], within: set[T]) -> float:
    """All of nothing is all."""
    return len(of & within) / len(of) if of else 1.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _pairs(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


def _numbers(text: str) -> set[str]:
    return {n.replace(",", "").removesuffix(".00") for n in _NUMBER.findall(text)}
