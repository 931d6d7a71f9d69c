"""What the stages load at their start: graphs, knowledge, policy, GPU; and whether they belong together."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from schemas.policy import Policy
from streams.doctor.finding import Finding, Verdict, shortened
from streams.policies import load_policy
from streams.policy_records import read_shelf
from streams.runtime.clock import utc_now
from streams.settings import Settings
from workers.checker.scorer import Scorer, load_scorer
from workers.knowledge import Passage, load_knowledge
from workers.policies import Part, holding
from workers.router.classifier import Classifier, is_passage
from workers.tier1.models import load_models

MODELS, POLICY, GPU = "models", "policy", "GPU"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What could be loaded; None what could not, of which the findings say why."""

    router: Classifier | None
    scorer: Scorer | None
    knowledge: Sequence[Passage] | None
    policy: Policy | None
    findings: tuple[Finding, ...]


def load(settings: Settings) -> Loaded:
    """Load all that a stage loads, as it does. Blocks for some seconds."""
    findings: list[Finding] = []

    def attempt(name: str, subject: str, setting: str, work: Callable[[], T], said: Callable[[T], str]) -> T | None:
        try:
            made = work()
        except (ValueError, RuntimeError, OSError) as exc:
            findings.append(Finding(subject, name, "wrong", str(exc), f"correct {setting}, or put a usable file there"))
            return None
        findings.append(Finding(subject, name, "ok", said(made)))
        return made

    config = settings.router
    router = attempt(
        "router",
        MODELS,
        "router.model",
        lambda: Classifier(config.model, config.device, config.threads),
        lambda m: f"version {m.version}, on {config.device}",
    )
    if config.shadow_model:
        shadow = config.shadow_model
        attempt(
            "router's shadow",
            MODELS,
            "router.shadow_model",
            lambda: Classifier(shadow, config.device, config.threads),
            lambda m: f"version {m.version}",
        )
    scorer = attempt(
        "scorer",
        MODELS,
        "checker.scorer",
        lambda: load_scorer(settings.checker.scorer),
        lambda m: f"version {m.version}",
    )
    knowledge = attempt(
        "knowledge", MODELS, "knowledge", lambda: load_knowledge(settings.knowledge), lambda p: f"{len(p)} passages"
    )
    policy = attempt("file", POLICY, "policy", lambda: load_policy(settings.policy), lambda p: f"version {p.version}")
    return Loaded(router, scorer, knowledge, policy, tuple(findings))


def judged_knowledge(classes: Sequence[str], passages: Sequence[Passage]) -> Finding:
    """The router picks passages by their ids: one that the knowledge hasn't leaves tier-1 without."""
    known = {passage.id for passage in passages}
    if gone := [name for name in classes if is_passage(name) and name not in known]:
        said = f"the router knows {len(gone)} passages that are not in it: {shortened(gone)}"
        return Finding(MODELS, "router and knowledge", "wrong", said, "headgate learn router on the new knowledge")
    return Finding(MODELS, "router and knowledge", "ok", "every passage that the router knows is there")


def judged_policy(name: str, policy: Policy, at_work: dict[Part, str], now: datetime) -> Finding:
    """What of a policy holds now, beside the models at work."""
    for part, found in at_work.items():
        wanted = getattr(policy, part)
        if wanted and found and wanted != found:
            said = f"{policy.version} was solved for {part} {wanted}, and {found} is at work: nothing ships from tier-1"
            fix = f"put {part} {wanted} back (headgate model pull), or solve anew: headgate certify"
            return Finding(POLICY, name, "wrong", said, fix)
    after = holding(policy, now, at_work)
    ships = [n for n, category in after.categories.items() if category.state == "active"]
    ended = [n for n, c in policy.categories.items() if c.state == "active" and n not in ships]
    said = f"{policy.version}: tier-1 ships {len(ships)} of {len(policy.categories)} categories"
    verdict: Verdict = "ok"
    fix = ""
    if ended:
        verdict, said = "warning", f"{said}; certificates have ended: {shortened(ended)}"
        fix = "run headgate certify beside the stages"
    elif not ships:
        verdict, fix = "warning", "headgate policy show says what is missing"
    return Finding(POLICY, name, verdict, said, fix)


def tier1_model(settings: Settings) -> str:
    """The model that writes the drafts; empty where several do, or nobody knows."""
    if settings.tier1.models is None:
        return settings.tier1.model
    try:
        served = load_models(settings.tier1.models).served
    except ValueError:
        # Tier-1's own finding says why.
        return ""
    return served[0].name if len(served) == 1 else ""


async def in_force(settings: Settings, loaded: Loaded) -> list[Finding]:
    """The policy that the stages are under, and a candidate, against the models that could be loaded.

    Raises: TopicsError if the policy topic is not there.
    """
    if loaded.policy is None:
        return []
    start = loaded.policy
    shelf = await read_shelf(settings.kafka, start.scope)
    at_work: dict[Part, str] = {
        "router_model": loaded.router.version if loaded.router else "",
        "scorer": loaded.scorer.version if loaded.scorer else "",
        "tier1_model": tier1_model(settings),
    }
    policies = shelf.policies(start)
    findings = [judged_policy("in force", policies.active, at_work, utc_now())]
    if policies.candidate:
        findings.append(judged_policy("candidate", policies.candidate, at_work, utc_now()))
    if shelf.unreadable:
        said = f"{shelf.unreadable} records that are no policy"
        findings.append(Finding(POLICY, "topic", "warning", said, "who else writes to the topic policy?"))
    return findings


async def gpu(settings: Settings) -> list[Finding]:
    """What vLLM in process needs. The router's GPU is tried by loading its model."""
    if settings.tier1.engine != "vllm":
        asked = "the router's: see there" if settings.router.device == "cuda" else "no setting asks for one"
        return [Finding(GPU, "GPU", "ok", asked)]
    from workers.tier1.vllm_engine import check_platform

    try:
        await asyncio.to_thread(check_platform, settings.tier1.device)
    except ValueError as exc:
        fix = "install the extra vllm and look at the driver, or set tier1.engine or tier1.device otherwise"
        return [Finding(GPU, "vLLM", "wrong", str(exc), fix)]
    return [Finding(GPU, "vLLM", "ok", f"runs on {settings.tier1.device}"), *folder(settings.tier1.model_folder)]


def folder(path: Path | None) -> list[Finding]:
    """The base model's folder."""
    if path is not None and (path / "config.json").is_file():
        return [Finding(MODELS, "tier-1", "ok", f"a model in {path}")]
    return [Finding(MODELS, "tier-1", "wrong", f"no model in {path}", "set tier1.model_folder to one's folder")]
