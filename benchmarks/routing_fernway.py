"""The shipped router on the example company: what it keeps on tier-1, and what it does with foreign tickets."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.quality import FERNWAY, decisions, tier1
from benchmarks.routing_sets import texts_of
from schemas.policy import Policy
from schemas.tickets import Ticket, TicketId
from streams.policies import load_policy
from workers.learning.company import as_ticket, load_company
from workers.learning.labels import LabelledOutcome, read_outcomes
from workers.router.budget import Budget
from workers.router.classifier import Classifier, ticket_text
from workers.router.policy import decide

Floats = NDArray[np.float64]

QUALITY = 0.95
"""Share of acceptable answers in all, with every answer of tier-2 acceptable, that each way of routing must reach."""

KEPT = 0.95
"""Of the in-domain tickets that the score would keep on tier-1, the share that may not be lost to the scope."""


async def kept_on_tier1(classifier: Classifier, console: Console) -> float:
    """The share of test tickets that can stay on tier-1 at QUALITY, without any checker; also of other ways."""
    examples = load_company(FERNWAY).split("test")
    texts = [ticket_text(as_ticket(e)) for e in examples]
    answers = await tier1(examples, decisions(examples, classifier), FERNWAY / "tier1" / "adapter.gguf")
    good = np.array([answer.acceptable for answer in answers])
    scores = {
        "Headgate: p_ok": np.array([s.p_ok for s in classifier.classify(texts)]),
        "TF-IDF of words, logistic": _tfidf(read_outcomes(FERNWAY / "router" / "outcomes.jsonl.gz"), texts),
        "rules only: the shorter, the sooner": np.array([-float(len(text)) for text in texts]),
        "oracle": good.astype(float),
    }
    table = Table(f"Fernway, {len(good)} test tickets, {good.mean():.0%} good from tier-1", f"kept at {QUALITY:.0%}")
    for name, score in scores.items():
        table.add_row(name, f"{kept_at(score, good):.1%}")
    table.add_row("random, on average", f"{(1 - QUALITY) / (1 - good.mean()):.1%}")
    console.print(table)
    return kept_at(scores["Headgate: p_ok"], good)


def kept_at(score: Floats, good: NDArray[np.bool_], quality: float = QUALITY) -> float:
    """The largest share of rows, the highest scores first, with at most 1 - quality of all rows bad among them."""
    order = np.argsort(-score, kind="stable")
    bad = np.cumsum(~good[order])
    return float((bad <= (1 - quality) * len(good) + 1e-9).sum() / len(good))


def _tfidf(rows: Sequence[LabelledOutcome], texts: list[str]) -> Floats:
    """Learns from the validation split, too, which the router did not: a head start for the baseline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    known = [row for row in rows if row.tier1_ok is not None]
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    seen = words.fit_transform([row.text for row in known])
    fitted = LogisticRegression(max_iter=1_000).fit(seen, [row.tier1_ok for row in known])
    found: Floats = fitted.predict_proba(words.transform(texts))[:, 1]
    return found


def foreign(classifier: Classifier, data: Path, console: Console) -> float:
    """The share of foreign tickets that goes to tier-2, the mean over both sets, when KEPT of our own stay.

    The limit on in_scope is set on our own test tickets. Printed, too: what the policy's own limit and the scope alone
    would catch.
    """
    own = [as_ticket(e) for e in load_company(FERNWAY).split("test")]
    sets = {
        "clinc150, out of scope": texts_of(data / "clinc150" / "oos_train_plus.jsonl.gz", "text")
        + texts_of(data / "clinc150" / "oos_val.jsonl.gz", "text"),
        "banking77": texts_of(data / "banking77" / "test.csv.gz", "text"),
    }
    limit = _limit(classifier, own)
    table = Table(
        "sent to tier-2", "by scope and p_ok", "by scope alone", f"at the policy's {policy().least_in_scope:g}"
    )
    caught = []
    for name, texts in sets.items():
        tickets = [Ticket(ticket_id=TicketId(str(i)), body=text, language="en") for i, text in enumerate(texts)]
        scope = np.array([s.in_scope for s in classifier.classify(texts)])
        shares = [sent(classifier, tickets, limit), float((scope < limit).mean()), sent(classifier, tickets, None)]
        table.add_row(f"{name}, {len(texts)}", *(f"{share:.1%}" for share in shares))
        caught.append(shares[0])
    mine = [sent(classifier, own, value) for value in (limit, None)]
    table.add_row("our own test tickets", f"{mine[0]:.1%}", "", f"{mine[1]:.1%}")
    console.print(table)
    console.print(f"  in_scope at least {limit:.3f} keeps {KEPT:.0%} of our own that p_ok keeps", highlight=False)
    return float(np.mean(caught))


def policy() -> Policy:
    """The example company's."""
    return load_policy(FERNWAY / "policy.json")


def sent(classifier: Classifier, tickets: Sequence[Ticket], limit: float | None) -> float:
    """The share that the policy sends to tier-2, with another limit on in_scope if one is given."""
    in_force = policy() if limit is None else replace(policy(), least_in_scope=limit)
    scores = classifier.classify([ticket_text(ticket) for ticket in tickets])
    rng = random.Random(0)
    tiers = [decide(t, s, in_force, Budget(), 0.0, rng).tier for t, s in zip(tickets, scores, strict=True)]
    return tiers.count("tier2") / len(tiers)


def _limit(classifier: Classifier, own: Sequence[Ticket]) -> float:
    """The limit on in_scope that loses 1 - KEPT of the tickets that would stay on tier-1 without one."""
    everything = replace(policy(), least_in_scope=0.0)
    scores = classifier.classify([ticket_text(ticket) for ticket in own])
    rng = random.Random(0)
    staying = [
        s.in_scope
        for ticket, s in zip(own, scores, strict=True)
        if decide(ticket, s, everything, Budget(), 0.0, rng).tier == "tier1"
    ]
    return float(np.quantile(staying, 1 - KEPT))
