"""Rows for thresholds and scorer, from labels and audits."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from schemas.audits import Audit
from schemas.labels import Label
from schemas.policy import CategoryPolicy, Policy
from schemas.tickets import TicketId
from tests.records import AT, a_decision, a_draft, a_ticket, an_attempt
from workers.checker.features import NAMES
from workers.knowledge import Passage
from workers.learning import datasets
from workers.learning.datasets import (
    LeftOut,
    Made,
    as_draft,
    judged_drafts,
    newest,
    normalised,
    plain_draft,
    plain_row,
    read_drafts,
    scorer_rows,
    threshold_rows,
)
from workers.learning.provenance import MANIFEST, DataSet, Kept, Manifest, Placed, contents, ticket_digest, write
from workers.learning.scorer import LabelledDraft
from workers.learning.thresholds import Row

MADE = Made("router-1", "small-1")

SHADOW = CategoryPolicy(p_ok_threshold=1.0, score_threshold=1.0, state="shadow")
IN_FORCE = Policy(scope="default", version="v1", default=SHADOW)


def a_label(number: int = 1, acceptable: bool = True, **fields: Any) -> Placed[Label]:
    values: dict[str, Any] = {
        "ticket_id": TicketId(f"t{number}"),
        "category": "orders",
        "acceptable": acceptable,
        "source": "judge",
        "propensity": 0.2,
        "at": AT,
        "p_ok": 0.7,
        "score": 0.8,
        "model": MADE.tier1,
        "model_version": MADE.router,
    }
    return Placed(Label(**values | fields), f"labels/0/{number}")


def an_audit(number: int = 1, text: str = "It arrives in 2 business days.", **fields: Any) -> Placed[Audit]:
    values: dict[str, Any] = {
        "ticket": a_ticket(f"Where is router {chr(96 + number)}?", ticket_id=TicketId(f"t{number}")),
        "decision": a_decision(),
        "draft": an_attempt(text=text, model=MADE.tier1, finish_reason="stop"),
        "at": AT,
    }
    return Placed(Audit(**values | fields), f"audits/0/{number}")


def test_an_audited_draft_becomes_a_threshold_row_that_says_where_it_comes_from() -> None:
    """With the digest of its ticket's name, and never the name."""
    found = threshold_rows([a_label(acceptable=False, judge="frontier", policy_version="v3")], MADE, IN_FORCE)
    assert found.rows == [Row("orders", 0.7, 0.8, False, 0.2)]
    origin = found.kept[0].provenance
    assert (origin.records, origin.label_source, origin.judge, origin.policy_version, origin.at) == (
        ("labels/0/1",),
        "judge",
        "frontier",
        "v3",
        AT,
    )
    assert origin.ticket == ticket_digest(("default", "t1"))
    assert ticket_digest(("default", "t1")) != ticket_digest(("other", "t1"))


def test_a_draft_that_a_gate_refused_scores_nothing() -> None:
    """It ships under no threshold."""
    assert [row.score for row in threshold_rows([a_label(score=None)], MADE, IN_FORCE).rows] == [0.0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tier": "tier2"}, LeftOut.TIER2),
        ({"source": "feedback"}, LeftOut.NOT_RANDOM),
        ({"source": "escalation"}, LeftOut.NOT_RANDOM),
        ({"model_version": "router-0"}, LeftOut.OTHER_ROUTER),
        ({"model": "small-0"}, LeftOut.OTHER_TIER1),
        ({"scorer": "scorer-0", "at": AT - timedelta(1)}, LeftOut.OTHER_SCORER),
        ({"p_ok": None}, LeftOut.NO_P_OK),
    ],
)
def test_a_label_that_thresholds_cannot_use_is_counted(fields: dict[str, Any], reason: LeftOut) -> None:
    """By the reason, and makes no row."""
    found = threshold_rows([a_label(1, scorer="scorer-1"), a_label(2, **fields)], MADE, IN_FORCE)
    assert (len(found.rows), found.left_out) == (1, {reason: 1})


def test_the_latest_label_of_an_audit_counts_whatever_a_helpdesk_says_later() -> None:
    """A person's word over the judge's; feedback, which comes on some answers alone, replaces none."""
    at = [AT + timedelta(hours=h) for h in range(3)]
    labels = [
        a_label(acceptable=False, at=at[1], source="person"),
        a_label(acceptable=True, at=at[0]),
        a_label(acceptable=True, at=at[2], source="feedback"),
    ]
    found = threshold_rows(labels, MADE, IN_FORCE)
    assert [row.acceptable for row in found.rows] == [False]
    assert found.left_out == {LeftOut.REPLACED: 1, LeftOut.NOT_RANDOM: 1}


def test_labels_from_before_an_alarm_make_no_rows() -> None:
    """Else a certificate that fell would come back by what it rested on."""
    fell = structs.replace(SHADOW, since=AT + timedelta(hours=1))
    in_force = structs.replace(IN_FORCE, categories={"orders": fell})
    labels = [a_label(1), a_label(2, at=AT + timedelta(hours=2)), a_label(3, category="billing")]
    found = threshold_rows(labels, MADE, in_force)
    assert [row.category for row in found.rows] == ["billing", "orders"]
    assert found.left_out == {LeftOut.BEFORE_ALARM: 1}


@given(st.permutations(range(6)))
def test_every_label_is_a_row_or_counted_in_whichever_order_it_comes(order: list[int]) -> None:
    """And the same labels make the same rows in the same order."""
    labels = [
        a_label(1),
        a_label(1, at=AT + timedelta(hours=1), acceptable=False),
        a_label(2, tier="tier2"),
        a_label(3, model="small-0"),
        a_label(4, tenant="b"),
        a_label(4),
    ]
    found = threshold_rows([labels[i] for i in order], MADE, IN_FORCE)
    assert len(found.rows) + sum(found.left_out.values()) == len(labels)
    assert found == threshold_rows(labels, MADE, IN_FORCE)


def test_the_newest_models_are_those_of_the_latest_audit() -> None:
    """Not of the latest label: tier-2's have another model."""
    labels = [a_label(1), a_label(2, tier="tier2", model="frontier", at=AT + timedelta(days=1))]
    assert newest(labels) == MADE
    with pytest.raises(ValueError, match="no label"):
        newest(labels[1:])


def test_an_attempt_becomes_the_draft_that_the_checker_got() -> None:
    """In everything that gates and features look at."""
    before = a_draft()
    attempt = an_attempt(
        text=before.text, finish_reason="length", logprobs=before.logprobs, model="m", cost_usd=0.01, duration_s=2.0
    )
    made = as_draft(before.routed.ticket, before.routed.decision, attempt, AT)
    assert (made.text, made.finish_reason, made.logprobs, made.tier) == (
        before.text,
        "length",
        before.logprobs,
        "tier1",
    )
    assert (made.routed.ticket, made.routed.decision) == (before.routed.ticket, before.routed.decision)


def test_audits_are_joined_with_their_labels() -> None:
    """By tenant and ticket; what has no other half is counted, and so is a label of tier-2's answer."""
    labels = [a_label(1), a_label(2, acceptable=False), a_label(2, tier="tier2"), a_label(3, tenant="b")]
    found = judged_drafts([an_audit(1), an_audit(2), an_audit(3)], labels, MADE, "")
    assert [(j.draft.routed.ticket.ticket_id, j.acceptable) for j in found.rows] == [("t1", True), ("t2", False)]
    assert found.left_out == {LeftOut.UNLABELLED: 1, LeftOut.TIER2: 1, LeftOut.AUDIT_GONE: 1}
    assert found.kept[0].provenance.records == ("audits/0/1", "labels/0/1")


def test_a_draft_in_the_shadow_is_scored_if_it_passes_the_gates() -> None:
    """Its reason says only that nobody was to get it: the gates are asked anew."""
    audits = [
        an_audit(1, draft=an_attempt(text="It takes 2 business days.", reason="shadow", model=MADE.tier1)),
        an_audit(2, draft=an_attempt(text="Hello!", reason="shadow", model=MADE.tier1)),
    ]
    found = judged_drafts(audits, [a_label(1), a_label(2)], MADE, "")
    assert [j.draft.text for j in found.rows] == ["It takes 2 business days."]
    assert found.left_out == {LeftOut.GATE: 1}


def test_of_two_equal_questions_with_equal_drafts_the_latest_stays() -> None:
    """In two folds of a fit they would be a leak; with another draft they are two examples."""
    same = a_ticket("where IS  my router", ticket_id=TicketId("t2"))
    audits = [
        an_audit(1, ticket=a_ticket("Where is my router?", ticket_id=TicketId("t1"))),
        an_audit(2, ticket=same, at=AT + timedelta(hours=1)),
        an_audit(3, ticket=a_ticket(ticket_id=TicketId("t3")), text="It is on its way to you."),
    ]
    found = judged_drafts(audits, [a_label(1), a_label(2), a_label(3)], MADE, "")
    assert {j.draft.routed.ticket.ticket_id for j in found.rows} == {"t2", "t3"}
    assert found.left_out == {LeftOut.TWIN: 1}


@pytest.mark.parametrize(
    ("one", "other", "are_twins"),
    [
        ("My order 4711 is late!", "my order 12  is late", True),
        ("It costs $1,054.20.", "it costs $7", True),
        ("It is late", "It is early", False),
        ("Große Straße", "grosse strasse", True),
        ("Où est-il ?", "ou est il", False),
    ],
)
def test_twins_are_the_same_but_for_case_marks_and_figures(one: str, other: str, are_twins: bool) -> None:
    """Letters with accents are other letters."""
    assert (normalised(one) == normalised(other)) == are_twins


class Reader:
    """Reads every text alike."""

    version = "graph-1"

    def classify(self, texts: list[str]) -> list[Any]:
        return [
            SimpleNamespace(embedding=np.ones(2), passage_probs=np.array([0.9, 0.1]), category="orders") for _ in texts
        ]

    def embed(self, texts: list[str]) -> Any:
        return np.eye(2)[: len(texts)]


PASSAGES = (Passage("orders.a", "orders", "It takes 2 days."), Passage("orders.b", "orders", "Call us."))


def test_a_scorers_data_set_holds_numbers_and_no_text(tmp_path: Path) -> None:
    """And comes back from disk as it was fitted on in memory."""
    judged = judged_drafts([an_audit(1), an_audit(2)], [a_label(1), a_label(2, acceptable=False)], MADE, "")
    rows = scorer_rows(judged, cast(Any, Reader()), PASSAGES)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(contents(rows.kept, plain_draft).lines)
    assert b"router a" not in path.read_bytes()
    assert b"business" not in path.read_bytes()
    found = read_drafts(path)
    assert [(r.p_ok, r.acceptable) for r in found] == [(0.9, True), (0.9, False)]
    assert np.array_equal([r.features for r in found], [r.features for r in rows.rows])


def test_no_drafts_make_no_rows() -> None:
    """The classifier is not asked."""
    assert scorer_rows(DataSet((), {"x": 1}), cast(Any, None), PASSAGES) == DataSet((), {"x": 1})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{}", "rows.jsonl:2: no row"),
        (b'{"features": {"p_ok": 1}, "p_ok": 1, "acceptable": true}', "rows.jsonl:2: has other"),
    ],
)
def test_rows_that_are_none_are_refused_by_their_line(line: bytes, why: str, tmp_path: Path) -> None:
    """Features of another version would be taken for ours."""
    good = msgspec.json.encode(plain_draft(LabelledDraft(np.zeros(len(NAMES), np.float32), 0.5, True)))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=why):
        datasets.read_drafts(path)


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    """The manifest has each file's rows and sha256; it is gone while files are being replaced."""
    found = threshold_rows([a_label(1), a_label(2, category="bills"), a_label(3, tier="tier2")], MADE, IN_FORCE)
    made = contents(found.kept, plain_row)
    manifest = Manifest(
        kind="thresholds",
        made_at=AT,
        command="headgate dataset",
        files={"rows.jsonl": made.file},
        left_out=dict(found.left_out),
        unreadable=0,
        settings=MADE._asdict(),
    )
    write(tmp_path / "set", {"rows.jsonl": made}, {"policy.json": b"{}"}, manifest)
    assert (tmp_path / "set" / "policy.json").read_bytes() == b"{}"
    lines = (tmp_path / "set" / "rows.jsonl").read_bytes()
    said = msgspec.json.decode((tmp_path / "set" / MANIFEST).read_bytes(), type=Manifest)
    assert said == manifest
    assert said.files["rows.jsonl"].sha256 == sha256(lines).hexdigest()
    assert said.files["rows.jsonl"].by["category"] == {"bills": 1, "orders": 1}
    first = msgspec.json.decode(lines.splitlines()[0])
    assert (first["p_ok"], first["provenance"]["records"]) == (0.7, ["labels/0/1"]) or first["category"] == "bills"
    (tmp_path / "set" / "other").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "set", {"other": made}, {}, manifest)
    assert not (tmp_path / "set" / MANIFEST).exists()


def test_rows_are_written_in_the_order_of_their_time() -> None:
    """Whichever partition was read first: the same records make the same bytes."""
    labels = [a_label(n, at=AT + timedelta(minutes=n)) for n in range(1, 5)]
    one, other = (threshold_rows(each, MADE, IN_FORCE) for each in (labels, labels[::-1]))
    assert contents(one.kept, plain_row) == contents(other.kept, plain_row)
    assert [kept.provenance.at for kept in one.kept] == [label.value.at for label in labels]
    assert isinstance(one.kept[0], Kept)
