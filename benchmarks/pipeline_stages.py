"""The stages of benchmarks/pipeline.py, as `headgate run` runs them, on simulated models; and tier-2's provider.

    python -m benchmarks.pipeline_stages router|tier1|tier2|checker
    python -m benchmarks.pipeline_stages provider PORT

Whatever isn't a model is the real thing: runtime, topics, policy, routing, prompts, gates, features, scorer, spend
ledger, tier-2's client and its HTTP. A simulated model waits as long as a ticket says (pipeline_tickets.py).
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from benchmarks.pipeline_tickets import CHECKER_S, ROUTER_S, Script
from schemas.generations import LogProbs, Usage
from streams import checker, router, run, settings, tier1, tier2
from streams.policies import InForce, policies_in_force
from streams.runtime.stage import Stage
from streams.settings import Settings
from workers.checker.checker import Checker
from workers.checker.scorer import load_scorer
from workers.knowledge import Passage, load_knowledge
from workers.router.classifier import EMBEDDING_SIZE, Scores
from workers.tier1.drafting import Tier1
from workers.tier1.engine import Generation, Request
from workers.tier1.models import ServedModel, single
from workers.tier2 import provider_side

ANSWER = (
    "The late fee is added when a payment arrives after the due date that is printed on the bill. A bank transfer "
    "can take up to two working days, so please send it early enough. If this is the first time, write to us again "
    "with the date of your transfer, and we will look into it."
)
BLANK = ANSWER + " Your reference is [reference number]."
"""A gate refuses it."""
TOKENS = Usage(prompt_tokens=170, completion_tokens=57)
EMBEDDING = np.eye(1, EMBEDDING_SIZE, dtype=np.float32)[0]


class Classifier:
    """Stands for the encoder of router and checker."""

    version = "simulated"

    def __init__(self, passages: Sequence[Passage], batch_s: float) -> None:
        self._picked = (passages[0].id,)
        self._probs = np.eye(1, len(passages), dtype=np.float32)[0]
        self._batch_s = batch_s

    def classify(self, texts: Sequence[str]) -> list[Scores]:
        """Blocks for a batch's time; a draft has no script, and is only embedded."""
        time.sleep(self._batch_s)
        return [self._scores(text) for text in texts]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, EMBEDDING_SIZE), at once: only for the start."""
        return np.tile(EMBEDDING, (len(texts), 1))

    def _scores(self, text: str) -> Scores:
        on_tier2 = "script: tier2" in text
        return Scores(
            p_ok=0.1 if on_tier2 else 0.9,
            category="billing",
            p_category=1.0,
            passages=self._picked,
            passage_probs=self._probs,
            embedding=EMBEDDING,
        )


@dataclass(frozen=True, slots=True)
class Held:
    """A model that nothing replaces, in the place of a hot swap."""

    current: Classifier

    def look(self) -> None:
        """There is never a new one."""


class Engine:
    """Stands for tier-1's engine: any number of sequences side by side."""

    async def generate(self, request: Request) -> Generation:
        """Wait as long as the ticket says."""
        script = Script.of("\n".join(message["content"] for message in request.messages))
        await asyncio.sleep(script.tier1_ms / 1000)
        return Generation(
            text=BLANK if script.way == "refused" else ANSWER,
            finish_reason="stop",
            model=request.model.name,
            usage=TOKENS,
            logprobs=LogProbs(mean=-0.1, minimum=-2.0, q10=-0.5, q50=-0.01, tokens=57),
        )

    async def load(self, models: Sequence[ServedModel]) -> None:
        """All are there."""

    async def ready(self) -> bool:
        return True

    def saturated(self) -> bool:
        return False


@asynccontextmanager
async def stage(name: str, configured: Settings) -> AsyncIterator[Stage]:
    """The stage of that name on its simulated model."""
    passages = load_knowledge(configured.knowledge)
    if name == "tier2":
        async with tier2.stage(configured) as built:
            yield built
    elif name == "tier1":
        worker = Tier1(tier1.tier1_config(configured), Engine(), lambda: single(configured.tier1.model))
        yield tier1.stage_on(worker, configured.tier1.in_flight)
    else:
        async with policies_in_force(configured.policy, configured.kafka) as policies:
            if name == "router":
                models = {"active": Held(Classifier(passages, ROUTER_S))}
                yield router.stage_on(models, policies, configured.router)
            else:
                yield checker.stage_on(_checker(passages, policies, configured), policies, configured.checker)


def _checker(passages: Sequence[Passage], policies: InForce, configured: Settings) -> Checker:
    # It encodes twice, tickets and drafts.
    classifier = Classifier(passages, CHECKER_S / 2)
    scorer = load_scorer(configured.checker.scorer)
    return Checker(classifier, scorer, passages, lambda _: policies.current.active, configured.checker.usd_per_hour)


async def answer(request: web.Request) -> web.Response:
    """A provider's answer to a message."""
    asked = provider_side.read("anthropic", await request.read())
    await asyncio.sleep(Script.of(asked.user).tier2_ms / 1000)
    reply = provider_side.Reply("1", asked.model, ANSWER, complete=True, usage=TOKENS, created_s=int(time.time()))
    return web.json_response(provider_side.reply_body("anthropic", reply))


def provider(port: int) -> None:
    """Serve until SIGTERM."""
    app = web.Application()
    app.add_routes([web.post("/v1/messages", answer)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, shutdown_timeout=1.0)


async def main(name: str) -> int:
    """Run a stage until SIGTERM."""
    configured = settings.load()
    run.configure_logs(name, configured.log_level)
    async with stage(name, configured) as built:
        return await run._run(built, configured)


if __name__ == "__main__":
    if sys.argv[1] == "provider":
        provider(int(sys.argv[2]))
    else:
        sys.exit(asyncio.run(main(sys.argv[1])))
