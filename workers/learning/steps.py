"""`headgate learn`: a company's models from its example tickets, step by step.

adapter   LoRA on the base model, from the reference answers (about 15 minutes on two cores)
labels    tier-1 with that adapter answers tickets it has not seen; the rubric labels the drafts (about 30 minutes)
router    heads on the sentence encoder, from those labels: one ONNX graph (5 minutes). The encoder is taught which
          passage a ticket is about, when first it is needed (10 minutes)
checker   the scorer, and the thresholds of router and checker: policy.json (10 minutes)

Each step writes into the company's folder (the labels: into the work folder), so
that any one of them can be run again by itself. The test split is never read.
"""

import os
import shutil
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.drafts import Draft
from schemas.policy import Policy
from schemas.tickets import Decision, RouteReason
from workers.checker.features import EmbeddedKnowledge, features
from workers.checker.gates import failed_gates
from workers.checker.scorer import Scorer
from workers.learning import adapter, base_model, heads, labelling, parity, router, scorer
from workers.learning.classes import Floats
from workers.learning.company import Company, Example, as_ticket, load_company
from workers.learning.labelling import Outcome
from workers.learning.labels import LabelledOutcome, write_outcomes
from workers.learning.retriever import Retriever, passage_of, texts_of
from workers.learning.review import version_of
from workers.learning.routing_metrics import auroc
from workers.learning.serving import served_engine
from workers.learning.splits import ROUNDS, come, distillation_set, label_set
from workers.learning.thresholds import Goal, Row, solve
from workers.router.classifier import Classifier, Scores, category_of, ticket_text

STEPS = ("adapter", "labels", "router", "checker")

MAX_TOKENS = 120

GOAL = Goal(audit_share=0.02)
"""What is asked of the example's thresholds, as in its settings: 5 %, and audits for some thousand tickets a day. Both
were chosen before the labels were there."""


async def learn(step: str, folder: Path, work: Path) -> None:
    """Run one step, or all.

    Raises: ValueError for an unknown step; FileNotFoundError if an earlier step has not been run.
    """
    if step not in (*STEPS, "all"):
        raise ValueError(f"no step {step!r}: there are {', '.join(STEPS)} and all")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    school = School(come(load_company(folder), ROUNDS), folder, work)
    for name in STEPS if step == "all" else (step,):
        print(f"== {name}", flush=True)
        match name:
            case "adapter":
                school.learn_adapter()
            case "labels":
                await school.learn_labels()
            case "router":
                school.learn_router()
            case "checker":
                school.learn_checker()


@dataclass
class School:
    """The steps over one company's folder and one work folder."""

    company: Company
    folder: Path
    """Holds the settings, and takes what is learned."""
    work: Path

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def name(self) -> str:
        """The name in the prompts, from the company's settings."""
        return str(tomllib.loads((self.folder / "headgate.toml").read_text("utf-8"))["company"])

    @cached_property
    def texts(self) -> dict[str, str]:
        return {passage.id: passage.text for passage in self.company.passages}

    @cached_property
    def retriever(self) -> Retriever:
        """What the tickets are about."""
        return Retriever(self.company, self.work)

    def learn_adapter(self) -> None:
        """Train the adapter round by round, and record what it says, for the test of its server."""
        before: School | None = None
        lessons: list[adapter.Lesson] = []
        for number in range(1, ROUNDS + 1):
            part = School(come(self.company, number), self.folder, self.work)
            lessons, before = part.train_adapter(before) or lessons, part
        trained = self.work / "adapter"
        parity.record(self.base, trained, lessons[::17], self.name, self.folder / "tier1" / "parity.json")

    def train_adapter(self, before: "School | None" = None) -> list[adapter.Lesson]:
        """Train the adapter on what has come since `before`, and from its adapter, or from nothing, and write it as
        GGUF; where nothing came that teaches it, it stays as it was. Returns the lessons."""
        known = {e.ticket_id for e in distillation_set(before.company)} if before else set()
        lessons = [self.lesson(e) for e in distillation_set(self.company) if e.ticket_id not in known]
        start, recipe = (before.work / "adapter", adapter.FURTHER) if before else (None, adapter.Recipe())
        if lessons or start is None:
            trained = adapter.train(self.base, lessons, self.name, self.work / "adapter", recipe, start)
        else:
            trained = start
        target = self.folder / "tier1"
        target.mkdir(exist_ok=True)
        adapter.to_gguf(trained, target / "adapter.gguf", base_model.HEADS, base_model.KV_HEADS)
        shutil.copyfile(trained / "recipe.json", target / "recipe.json")
        return lessons

    @cached_property
    def base(self) -> Path:
        """The base model as a Hugging Face folder."""
        return base_model.as_hugging_face(self.work / "base")

    def lesson(self, example: Example) -> adapter.Lesson:
        """A training ticket with its passage: what to say is in there, and tier-1 learns to say that."""
        return adapter.Lesson(example, (self.texts[passage_of(example)],))

    @cached_property
    def to_label(self) -> list[Example]:
        """The tickets that tier-1 is tried on: those that its adapter has not seen."""
        return label_set(self.company) + self.company.split("validation")

    async def learn_labels(self) -> None:
        """Run tier-1 on training tickets that it has not seen, and on the validation split."""
        examples = self.to_label
        picks = [self.retriever.picked[e.ticket_id] for e in examples]
        async with served_engine(self.folder / "tier1" / "adapter.gguf") as engine:
            made = await labelling.outcomes(examples, picks, self.texts, engine, self.name, MAX_TOKENS)
        labelling.save(made, self.work / "labels.jsonl")
        print(f"{sum(o.acceptable for o in made)} of {len(made)} drafts are acceptable")

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        return {o.ticket_id: o for o in labelling.load(self.work / "labels.jsonl")}

    def labelled(self, examples: list[Example]) -> list[LabelledOutcome]:
        """Router rows; only tickets that tier-1 was tried on have an outcome.

        None is known of tier-2: its answers here are a recording of right ones.
        """
        return [
            LabelledOutcome(
                text=ticket_text(as_ticket(e)),
                category=e.category,
                passage=passage_of(e) if e.kind == "routine" else "",
                tier1_ok=self.outcomes[e.ticket_id].acceptable if e.ticket_id in self.outcomes else None,
            )
            for e in examples
        ]

    def learn_router(self) -> None:
        """Train the router's heads and write its graph, and the outcomes that they are made from."""
        rows, validation = self.labelled(self.company.split("train")), self.labelled(self.company.split("validation"))
        out = self.folder / "router"
        out.mkdir(exist_ok=True)
        write_outcomes([*rows, *validation], out / "outcomes.jsonl.gz")
        card = router.train_router(
            rows,
            validation,
            self.company.passages,
            out,
            taught=self.retriever.taught_encoder,
            command="make learn",
        )
        print("\n".join(f"{name} {figure.estimate:.3f}" for name, figure in card.metrics.items()))

    def learn_checker(self) -> None:
        """Fit the scorer on drafts for tickets that neither tier-1 nor the router has seen; solve the thresholds."""
        rows = [row for row in self.judged if row is not None]
        good = np.array([row.acceptable for row in rows])
        print(f"scorer AUROC {auroc(self.scores, good):.3f} (cross-fitted, {len(rows)} drafts)")
        target = self.folder / "checker"
        target.mkdir(exist_ok=True)
        (target / "scorer.onnx").write_bytes(graph := scorer.fit(rows))
        policy = self.policy(self.classifier.version, Scorer(graph).version)
        (self.folder / "policy.json").write_bytes(msgspec.json.format(msgspec.json.encode(policy), indent=1) + b"\n")

    def label_rows(self) -> list[Row]:
        """Every labelled draft that a router would let tier-1 make, by p_ok and score, each from models that have not
        seen its ticket."""
        scores = iter(self.scores.tolist())
        found = []
        for (draft, ok), row in zip(self.drafts, self.judged, strict=True):
            decision, score = draft.routed.decision, 0.0 if row is None else next(scores)
            if (decision.in_scope or 0.0) >= router.IN_SCOPE:
                found.append(Row(decision.category, decision.p_ok, score, ok))
        return found

    def policy(self, router_model: str, scorer_version: str) -> Policy:
        """The policy that the labels prove."""
        now, labelled = datetime.now(UTC), self.label_rows()
        solved = solve(labelled, GOAL, now)
        for name, category in solved.categories.items():
            print(name, category.state, category.certificate or category.labels_missing)
        made = Policy(
            scope="default",
            version="",
            default=solved.unseen,
            categories=dict(solved.categories),
            router_model=router_model,
            scorer=scorer_version,
            made_at=now,
            because=(f"solved on {len(labelled)} labelled tickets of the example company",),
        )
        return msgspec.structs.replace(made, version=version_of(made))

    @cached_property
    def classifier(self) -> Classifier:
        """The router that was learned."""
        return Classifier(self.folder / "router" / "model.onnx")

    @cached_property
    def judged(self) -> list[scorer.LabelledDraft | None]:
        """The drafts as the scorer sees them, None where a gate refuses one."""
        answers = self.classifier.classify([d.text for d, _ in self.drafts])
        knowledge = EmbeddedKnowledge.of(self.company.passages, self.classifier)
        promised = "\n".join(self.texts.values())
        rows: list[scorer.LabelledDraft | None] = []
        for (draft, acceptable), ticket, answer in zip(self.drafts, self.unseen_scores, answers, strict=True):
            row = features(draft, ticket, answer, knowledge)
            labelled = scorer.LabelledDraft(row, draft.routed.decision.p_ok, acceptable)
            rows.append(None if failed_gates(draft, promised) else labelled)
        return rows

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Cross-fitted, of the drafts that pass the gates."""
        return scorer.cross_fitted([row for row in self.judged if row is not None])

    @cached_property
    def tried(self) -> list[Example]:
        """The tickets that tier-1 was tried on."""
        return [e for e in self.company.examples if e.ticket_id in self.outcomes]

    @cached_property
    def unseen_scores(self) -> list[Scores]:
        """What a router that has not seen them says of the tickets that tier-1 was tried on: p_ok, and what they are
        about. One that has knows each ticket's category, and a scorer would learn to trust that."""
        train = self.company.split("train")
        about = self.retriever
        p_ok = heads.out_of_fold_p_ok(self.labelled(train), about.training, about.knowledge, about.kinds)
        honest = dict(zip([e.ticket_id for e in train], p_ok.tolist(), strict=True))
        found = []
        for example, score in zip(self.tried, self.classifier.classify(texts_of(self.tried)), strict=True):
            name = example.ticket_id
            unseen = replace(score, p_ok=honest.get(name, score.p_ok))
            if name in about.unseen_probs:
                unseen = _about(unseen, about.ids, about.unseen_probs[name])
            found.append(unseen)
        return found

    @cached_property
    def drafts(self) -> list[tuple[Draft, bool]]:
        """Every labelled draft as the checker would get it."""
        found = []
        for example, score in zip(self.tried, self.unseen_scores, strict=True):
            outcome = self.outcomes[example.ticket_id]
            draft = labelling.as_draft(example, _decision(score, outcome.passages), outcome)
            found.append((draft, outcome.acceptable))
        return found


def _about(scores: Scores, names: Sequence[str], probs: Floats) -> Scores:
    """Scores with other probabilities (classes,) of the passages."""
    of: Counter[str] = Counter()
    for name, probability in zip(names, probs.tolist(), strict=True):
        of[category_of(name)] += probability
    ((category, p_category),) = of.most_common(1)
    return replace(scores, category=category, p_category=p_category, passage_probs=probs.astype(np.float32))


def _decision(scores: Scores, picked: tuple[str, ...]) -> Decision:
    return Decision(
        tier="tier1",
        reason=RouteReason.CONFIDENT,
        p_ok=scores.p_ok,
        category=scores.category,
        p_category=scores.p_category,
        threshold=0.0,
        propensity=1.0,
        policy_version="",
        cost_usd=0.0,
        passages=picked,
        in_scope=scores.in_scope,
    )
