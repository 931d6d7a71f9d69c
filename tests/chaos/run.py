"""A chaos run from the first ticket to the verdict: traffic all the while, blow after blow, then quiet, then proof."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from streams.local.processes import StepError
from tests.chaos.schedule import Round, first_workers, schedule
from tests.chaos.traffic import Helpdesk, letters
from tests.chaos.verifier import Evidence, Rule, Verdict, ends_owed, verify
from tests.chaos.witness import Follower, OffsetWatch, read_log
from tests.chaos.world import FERNWAY, TIER2_IN_FLIGHT, WRONG_SETTINGS, Conditions, World, world
from workers.learning.company import as_ticket, load_company

Say = Callable[[str], None]

PER_S = 10.0
"""A third of what two busy cores caught up with once left alone (1,330 tickets in 42 s, measured)."""
WARM = 10
"""Tickets that have ended before the first blow: until then the workers may not even have joined."""
START_LIMIT_S = 90.0
SILENCE_LIMIT_S = 60.0
"""Once the blows are over a ticket takes seconds, and a transaction that a dead worker left open 10 s. If nothing at
all ends for this long, nothing will."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be."""

    rounds: int
    seed: int
    per_s: float = PER_S
    """Tickets published, blows or none."""
    workers_a_stage: int = 2
    pause_s: tuple[float, float] = (0.5, 4.0)
    """Between one blow and the next: at times too short to come back from."""
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    plan: Plan
    verdict: Verdict
    publications: int
    ended_under_fire: int
    """Tickets that ended before the last blow: a chain that only stands still between blows proves little."""
    aborted_records: int
    """Records of aborted transactions in the log: what readers of committed records were spared."""
    paid_calls: int
    paid_bound: int
    ended_by_themselves: Counter[int]
    """Workers by exit code that ended though nobody told them to, and were started again."""
    late_stops: int
    rounds_s: float
    wall_s: float

    @property
    def holds(self) -> bool:
        """Whether every rule held, and no worker gave up for good: whoever heeds its exit code would not have started
        it again."""
        return self.verdict.holds and not self.ended_by_themselves[WRONG_SETTINGS]

    def as_json(self) -> dict[str, object]:
        """The figures, under the names that are promised."""
        verdict = self.verdict
        return {
            "rounds": self.plan.rounds,
            "seed": self.plan.seed,
            "delivery": self.plan.conditions.delivery,
            "deduplicated": self.plan.conditions.deduplicated,
            "tickets": verdict.tickets,
            "publications": self.publications,
            "lost": verdict.count(Rule.LOST),
            "duplicates": verdict.count(Rule.DUPLICATE),
            "paid_calls": self.paid_calls,
            "paid_repeats": verdict.paid_repeats,
            "paid_bound": self.paid_bound,
            "paid_repeats_over_bound": max(0, verdict.paid_repeats - self.paid_bound),
            "broken": {rule.name.lower(): len(ids) for rule, ids in verdict.broken.items()},
            "tolerated": {rule.name.lower(): len(ids) for rule, ids in verdict.tolerated.items()},
            "ended_under_fire": self.ended_under_fire,
            "aborted_records": self.aborted_records,
            "workers_ended_by_themselves": {str(code): times for code, times in self.ended_by_themselves.items()},
            "late_stops": self.late_stops,
            "round_s": round(self.rounds_s / max(1, self.plan.rounds), 2),
            "wall_s": round(self.wall_s, 1),
        }


async def run(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Do what the plan says, in an empty folder.

    Raises: StepError if the world can't be started, or stands still before the first blow.
    """
    started = time.monotonic()

    def timed(text: str) -> None:
        say(f"{time.monotonic() - started:7.1f} s  {text}")

    async with world(folder, plan.conditions) as here:
        timed(f"Kafka at {here.kafka.bootstrap_servers}, the recorded frontier at {here.frontier_url}")
        return await _Run(plan, here, timed).through(started)


class _Run:
    """A run in its world, and those who take part in it."""

    def __init__(self, plan: Plan, here: World, say: Say) -> None:
        self.plan = plan
        self.here = here
        self.say = say
        known = [as_ticket(example) for example in load_company(FERNWAY).examples]
        self.helpdesk = Helpdesk(here.kafka, letters(plan.seed, known), plan.per_s)
        self.follower = Follower(here.kafka.bootstrap_servers)
        self.offsets = OffsetWatch(here.kafka.bootstrap_servers)

    async def through(self, started: float) -> Outcome:
        plan, here = self.plan, self.here
        blows = list(schedule(plan.seed, plan.rounds, plan.workers_a_stage, plan.pause_s))
        for worker in sorted(first_workers(plan.workers_a_stage)):
            here.start(worker)
        async with self._at_work() as publishing:
            await self._warm()
            first_blow = time.monotonic()
            await self._fire(blows)
            rounds_s, ended_under_fire = time.monotonic() - first_blow, len(self.follower.ends)
            self.helpdesk.close()
            await publishing
            await self._settled()
        await here.stop_all()
        self.say("all workers stopped, reading the log")
        evidence, aborted_records = await self._evidence(blows)
        return Outcome(
            plan=plan,
            verdict=verify(evidence),
            publications=self.helpdesk.published.total(),
            ended_under_fire=ended_under_fire,
            aborted_records=aborted_records,
            paid_calls=evidence.paid_calls,
            paid_bound=evidence.paid_bound,
            ended_by_themselves=here.ended,
            late_stops=len(here.late_stops),
            rounds_s=rounds_s,
            wall_s=time.monotonic() - started,
        )

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator["asyncio.Task[None]"]:
        """Everything that goes on while the blows fall; yields the publishing, which ends by itself once closed."""
        try:
            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(self.helpdesk.run())
                others = (self.follower.run(), self.offsets.run(), self.here.supervise())
                endless = [group.create_task(work) for work in others]
                yield publishing
                for task in endless:
                    task.cancel()
        except ExceptionGroup as failed:
            # The first is what went wrong, and callers know it by its own name; the others follow from it.
            raise failed.exceptions[0] from failed

    async def _fire(self, blows: Sequence[Round]) -> None:
        for blow in blows:
            self.say(f"{blow.number:3}/{len(blows)}  {blow!s:28}  {self._progress()}")
            await self.here.hit(blow)
            await asyncio.sleep(blow.pause_s)

    async def _warm(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while len(self.follower.ends) < WARM:
            if self.here.ended[WRONG_SETTINGS]:
                raise StepError(f"a worker does not take its settings: see {self.here.logs}")
            if time.monotonic() > deadline:
                raise StepError(f"no {WARM} tickets ended within {START_LIMIT_S:.0f} s: see {self.here.logs}")
            await asyncio.sleep(0.1)

    async def _settled(self) -> None:
        """Wait until nothing is owed or nothing moves any more: the verifier will then say what is missing."""
        ends, moved_at = -1, time.monotonic()
        while self._missing():
            if self.follower.ends.total() != ends:
                ends, moved_at = self.follower.ends.total(), time.monotonic()
            elif time.monotonic() - moved_at > SILENCE_LIMIT_S:
                self.say(f"nothing has ended for {SILENCE_LIMIT_S:.0f} s, {self._missing()} ends are missing")
                return
            await asyncio.sleep(0.2)
        self.say(f"quiet: {self._progress()}")

    def _owed(self) -> Iterator[tuple[str, int]]:
        return ends_owed(self.helpdesk.published, self.helpdesk.poison, self.plan.conditions.deduplicated)

    def _missing(self) -> int:
        return sum(max(0, owed - self.follower.ends[ticket_id]) for ticket_id, owed in self._owed())

    def _progress(self) -> str:
        return f"{self.helpdesk.published.total()} published, {self._missing()} under way"

    async def _evidence(self, blows: Sequence[Round]) -> tuple[Evidence, int]:
        servers = self.here.kafka.bootstrap_servers
        # The watch may have been cut off in the middle of its last look.
        await self.offsets.look()
        committed = await read_log(servers, "read_committed")
        everything = await read_log(servers, "read_uncommitted")
        evidence = Evidence(
            published=self.helpdesk.published,
            poison=frozenset(self.helpdesk.poison),
            records=committed.records,
            events=committed.events,
            offsets=self.offsets.seen,
            paid_calls=await self.here.paid_calls(),
            paid_bound=TIER2_IN_FLIGHT * sum(blow.interrupted for blow in blows),
            delivery=self.plan.conditions.delivery,
            deduplicated=self.plan.conditions.deduplicated,
        )
        return evidence, len(everything.records) - len(committed.records)
