"""The short chaos run that every change must survive: each kind of blow at least once, and every rule holds."""

import itertools
import logging
from pathlib import Path

import pytest

from streams.local.embedded_kafka import EmbeddedKafka
from tests.chaos.run import Plan, run
from tests.chaos.schedule import DECK, FEWEST, MOST, STAGES, WorkerName, first_workers, schedule
from tests.chaos.traffic import letters
from tests.records import a_ticket

PAUSE_S = (0.2, 1.2)
ROUNDS = len(DECK)


@pytest.mark.parametrize("seed", range(20))
def test_every_blow_is_possible_when_it_falls(seed: int) -> None:
    """Whatever the seed: only who is there is hit, no stage is empty or crowded, and each deck holds all kinds."""
    fleet = set(first_workers(2))
    blows = list(schedule(seed, 20 * ROUNDS, 2, PAUSE_S))
    assert blows == list(schedule(seed, 20 * ROUNDS, 2, PAUSE_S))
    for blow in blows:
        if worker := blow.worker:
            assert (worker in fleet) == (blow.action != "add")
            (fleet.discard if blow.action == "remove" else fleet.add)(worker)
        assert all(FEWEST <= sum(w.stage == stage for w in fleet) <= MOST for stage in STAGES)
        assert all(WorkerName(stage, 0) in fleet for stage in STAGES)
    for start in range(0, len(blows), ROUNDS):
        assert sorted(b.action for b in blows[start : start + ROUNDS]) == sorted(DECK)


def test_the_traffic_holds_what_is_to_be_told_apart() -> None:
    """Poison, tickets that are published twice, and the same of both for the same seed."""
    drawn = list(itertools.islice(letters(1, [a_ticket()]), 500))
    assert drawn == list(itertools.islice(letters(1, [a_ticket()]), 500))
    ids = [letter.ticket_id for letter in drawn]
    assert 0 < sum(letter.is_poison for letter in drawn) < 50
    assert 0 < len(ids) - len(set(ids)) < 50


@pytest.mark.integration
# Some 60 s on two idle cores, and a loaded machine takes its time to come back after each blow.
@pytest.mark.timeout(300)
async def test_a_chain_under_fire_ends_every_ticket_once(
    kafka: EmbeddedKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kills, freezes and restarts of workers and broker leave nothing lost, nothing twice, and the bill in bounds."""
    # A client that waits for its broker says so up to a thousand times a second.
    caplog.set_level(logging.CRITICAL, logger="aiokafka")
    (tmp_path / "logs").mkdir()
    outcome = await run(Plan(rounds=ROUNDS, seed=4, pause_s=PAUSE_S), tmp_path, print)
    assert outcome.verdict.broken == {}, f"seed {outcome.plan.seed}, logs in {tmp_path}"
    # What nobody had to do under fire proves nothing.
    assert outcome.ended_under_fire > outcome.plan.rounds
    assert outcome.holds, f"workers ended by themselves: {outcome.ended_by_themselves}"
    assert outcome.late_stops == 0
