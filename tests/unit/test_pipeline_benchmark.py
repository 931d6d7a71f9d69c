"""benchmarks/pipeline.py: what its tickets ask of the simulated models arrives there, and its sums are right."""

import random

import numpy as np
import pytest

from benchmarks.pipeline import growth
from benchmarks.pipeline_chain import STAGES, Slots
from benchmarks.pipeline_simulated import simulated
from benchmarks.pipeline_stages import ANSWER, BLANK
from benchmarks.pipeline_tickets import CHECKER_S, ROUTER_S, Script, scripts
from schemas.answers import GateReason
from tests.records import a_draft, a_routed
from workers.checker.gates import failed_gates
from workers.tier1.prompts import fit
from workers.tier2.outgoing import outgoing


@pytest.mark.parametrize("seed", range(20))
def test_a_script_reaches_both_tiers_models_through_their_prompts(seed: int) -> None:
    """Neither cutting nor redaction takes a part of it."""
    script = Script.drawn(random.Random(seed))
    ticket = script.ticket("t1")
    tier1 = fit(ticket, "Fernway", ("A passage of the company's knowledge. " * 10,), 3_000)
    assert Script.of("\n".join(message["content"] for message in tier1.messages)) == script
    assert Script.of(outgoing(ticket, redacting=True, phone_region="US").message) == script


def test_a_text_without_a_script_is_an_error() -> None:
    """A model that can't know how long to wait must not answer at once."""
    with pytest.raises(ValueError, match="without a script"):
        Script.of("How do I reset my router?")


def test_the_ways_take_the_models_that_they_pass() -> None:
    """Tier-1's answer is scored; a draft that a gate refuses is not, and tier-2 comes on top."""
    assert Script("tier1", 700, 2_000).model_s == pytest.approx(ROUTER_S + 0.7 + CHECKER_S)
    assert Script("refused", 700, 2_000).model_s == pytest.approx(ROUTER_S + 0.7 + 2.0)
    assert Script("tier2", 700, 2_000).model_s == pytest.approx(ROUTER_S + 2.0)


def test_the_same_seed_gives_the_same_scripts() -> None:
    """So live tickets beside a backfill are those that came without it."""
    one, other = scripts(3), scripts(3)
    assert [next(one) for _ in range(50)] == [next(other) for _ in range(50)]


@pytest.mark.parametrize(("text", "reasons"), [(ANSWER, ()), (BLANK, (GateReason.PLACEHOLDER,))])
def test_the_gates_refuse_the_drafts_that_are_to_be_refused_and_no_others(
    text: str, reasons: tuple[GateReason, ...]
) -> None:
    """The real gates decide a ticket's way, so both texts must be what they are meant to be."""
    ticket = Script("tier1", 700, 2_000).ticket("t1")
    assert failed_gates(a_draft(text, a_routed(ticket))) == reasons


def test_growth_is_a_line_without_the_first_fifth() -> None:
    """A process fills its caches first; what it leaks afterwards goes on."""
    seconds = np.arange(0.0, 1_000.0, 5.0)
    mib = np.where(seconds < 150, seconds, 150 + 2 * (seconds - 150) / 3600)
    assert growth(list(zip(seconds, mib, strict=True))) == pytest.approx(2.0)


def test_what_is_simulated_of_a_slow_chain_is_its_hops() -> None:
    """One ticket at a time waits for nothing: three or more commits, fetches and loops."""
    cpu_ms, commit_ms = dict.fromkeys(STAGES, 1.0), dict.fromkeys(STAGES, 4.0)
    added = simulated(0.2, Slots(100, 100), 8, cpu_ms, commit_ms)
    assert 3 * 0.007 <= added.p50_s <= 6 * 0.007
