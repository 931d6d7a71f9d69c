"""A frontier model as the judge: asked with tier-2's own pace, breakers, money and retries, under the judge's prompt.

It has targets of its own. A model should not judge what it wrote itself: it prefers that (Panickssery et al. 2024).
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog

from workers.errors import PermanentError
from workers.judge import prompts
from workers.judge.judgement import Case, Judgement, UnreadableReplyError, blind, read
from workers.tier2.client import Tier2, Tier2Config
from workers.tier2.spend import NoRoomError, Spend
from workers.tier2.story import Story

log = structlog.get_logger()


class NoJudgementError(PermanentError):
    """Nobody judged this case within the attempts, the deadline and the money: a person may, or nobody."""

    def __init__(self, reason: str, calls: int, cost_usd: float, exposure_usd: float) -> None:
        super().__init__(reason)
        self.calls = calls
        self.cost_usd = cost_usd
        """What its calls certainly cost."""
        self.exposure_usd = exposure_usd
        """What those of them may have cost whose outcome is unknown, at most."""


class FrontierJudge:
    """An async context manager: opens the connections and closes them. The spend ledger is its owner's."""

    def __init__(
        self,
        config: Tier2Config,
        spend: Spend,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._config, self._clock = config, clock
        self._asking = Tier2(
            config, spend, sleep=sleep, clock=clock, rng=rng, system=prompts.system(config.company, config.knowledge)
        )

    async def __aenter__(self) -> Self:
        await self._asking.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._asking.__aexit__(kind, exc, tb)

    async def ready(self) -> bool:
        """As `Tier2.ready`."""
        return await self._asking.ready()

    def saturated(self) -> bool:
        """As `Tier2.saturated`."""
        return self._asking.saturated()

    async def judge(self, case: Case) -> Judgement:
        """Ask until there is a readable judgement: two unreadable ones give up the last one's target.

        Raises: NoJudgementError; HeldError while a spend limit is reached and cases are to be held (what its calls cost
        until then is on the ledger alone, as with a held ticket).
        """
        seen, ends_s = blind(case), self._clock() + self._config.deadline_s
        # A long ticket may take its time, as in tier-2.
        sent = await asyncio.to_thread(prompts.outgoing, seen, self._config.redact, self._config.phone_region)
        story = Story(sent, case.ticket.tenant, ends_s)
        while True:
            try:
                answered = await self._asking.ask(story)
                verdicts = read(answered.completion.text, tuple(seen.texts))
            except UnreadableReplyError as exc:
                # The story counts it as tier-2 counts a broken answer, so that this loop ends.
                story.failed(answered.target.name, exc)
                log.warning("judgement_unreadable", target=answered.target.name, call=story.calls, reason=exc.reason)
            except (PermanentError, NoRoomError) as exc:
                raise _none(exc.reason, story) from exc
            else:
                judge = f"{answered.target.provider}/{answered.completion.model}"
                return seen.judgement(
                    verdicts, judge, story.spent_micro_usd / 1e6, story.exposure_micro_usd / 1e6, story.calls
                )


def _none(reason: str, story: Story) -> NoJudgementError:
    return NoJudgementError(reason, story.calls, story.spent_micro_usd / 1e6, story.exposure_micro_usd / 1e6)
