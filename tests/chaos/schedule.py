"""The rounds of a run, drawn by a seed: who is hit, how, and how long until the next blow. Values only.

The same seed and number of rounds give the same rounds. When they hit is up to
the machine, so a run can be repeated, but never to the millisecond.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

ChaosStage = Literal["router", "tier2", "checker"]
Action = Literal["kill", "freeze", "restart", "add", "remove", "kill_broker", "restart_broker"]

STAGES: tuple[ChaosStage, ...] = get_args(ChaosStage)

DECK: tuple[Action, ...] = (
    *("kill",) * 4,
    *("freeze",) * 2,
    *("restart",) * 2,
    "add",
    "remove",
    "kill_broker",
    "restart_broker",
)
"""Shuffled and dealt until it is empty, then anew: every run of twelve rounds holds each kind of blow."""

FEWEST, MOST = 1, 3
"""Workers of a stage. Each costs 2 s of CPU to start, and four partitions feed no more than four."""

FREEZE_S = (11.0, 13.0)
"""Longer than a group waits for a silent member (10 s, the client's default): its partitions move while it sleeps."""

BROKER_AWAY_S = (0.0, 2.0)


@dataclass(frozen=True, slots=True, order=True)
class WorkerName:
    """One place for a process of a stage. The name outlives the processes that hold it."""

    stage: ChaosStage
    slot: int

    @property
    def is_static(self) -> bool:
        """Whether the group knows it by name: then a restart takes its partitions up where it left them. One worker of
        a stage is, the others are not, so that both ways of coming back are met."""
        return self.slot == 0

    def __str__(self) -> str:
        return f"{self.stage}-{self.slot}"


@dataclass(frozen=True, slots=True)
class Round:
    """One blow and the pause after it."""

    number: int
    action: Action
    worker: WorkerName | None
    """None where the broker is hit."""
    hold_s: float
    """How long a frozen worker sleeps or a killed broker is away."""
    pause_s: float
    interrupted: int
    """Tier-2 processes whose calls under way may be lost by this, and paid again."""

    def __str__(self) -> str:
        held = f" for {self.hold_s:.1f} s" if self.hold_s else ""
        return f"{self.action.replace('_', ' ')}{f' {self.worker}' if self.worker else ''}{held}"


def first_workers(workers_a_stage: int) -> frozenset[WorkerName]:
    """The fleet before the first round."""
    return frozenset(WorkerName(stage, slot) for stage in STAGES for slot in range(workers_a_stage))


def schedule(seed: int, rounds: int, workers_a_stage: int, pause_s: tuple[float, float]) -> Iterator[Round]:
    """The rounds, each possible in the fleet that the rounds before it left."""
    rng = random.Random(seed)
    fleet = set(first_workers(workers_a_stage))
    deck: list[Action] = []
    for number in range(1, rounds + 1):
        if not deck:
            deck = rng.sample(DECK, len(DECK))
        action = deck.pop()
        worker = _target(action, fleet, rng)
        if worker:
            (fleet.discard if action == "remove" else fleet.add)(worker)
        yield Round(
            number=number,
            action=action,
            worker=worker,
            hold_s=_hold_s(action, rng),
            pause_s=rng.uniform(*pause_s),
            interrupted=_interrupted(action, worker, fleet),
        )


def _target(action: Action, fleet: set[WorkerName], rng: random.Random) -> WorkerName | None:
    by_stage = {stage: sorted(w for w in fleet if w.stage == stage) for stage in STAGES}
    match action:
        case "kill_broker" | "restart_broker":
            return None
        case "restart":
            candidates = [w for w in sorted(fleet) if w.is_static]
        case "add":
            free = [s for s in STAGES if len(by_stage[s]) < MOST]
            candidates = [WorkerName(s, _first_free_slot(by_stage[s])) for s in free]
        case "remove":
            # The static one stays: `restart` needs it.
            candidates = [w for s in STAGES if len(by_stage[s]) > FEWEST for w in by_stage[s] if not w.is_static]
        case "kill" | "freeze":
            candidates = sorted(fleet)
    # Tier-2 is hit as often as the others together: its calls cost money.
    return rng.choices(candidates, [2 if w.stage == "tier2" else 1 for w in candidates])[0]


def _first_free_slot(workers: list[WorkerName]) -> int:
    return next(slot for slot in range(MOST) if slot not in {w.slot for w in workers})


def _hold_s(action: Action, rng: random.Random) -> float:
    match action:
        case "freeze":
            return rng.uniform(*FREEZE_S)
        case "kill_broker":
            return rng.uniform(*BROKER_AWAY_S)
    return 0.0


def _interrupted(action: Action, worker: WorkerName | None, fleet: set[WorkerName]) -> int:
    if worker is None:
        # Whatever was asked and not yet committed when the broker went is asked again once it is back.
        return sum(w.stage == "tier2" for w in fleet)
    # All others are told in time: on a rebalance and on SIGTERM the calls under way finish and are committed.
    return int(action in ("kill", "freeze") and worker.stage == "tier2")
