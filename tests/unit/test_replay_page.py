"""A replay's page: every figure, what the log can't say, and nothing that isn't in the replay."""

from streams.reporting.replay_page import page, rows
from tests.replay_world import END, START, a_policy, logged, with_category, world
from workers.learning.replay import replay


def test_the_page_has_the_figures_and_what_they_rest_on() -> None:
    """Each row of the terminal's table, each note, each category; and text from records is escaped."""
    log = with_category(a_policy(0.75, 0.55, 0.4), "<moving>", audit_share=0.0)
    tickets = logged(world(1, 400, ("billing", "<moving>")), log)
    candidate = a_policy(0.35, 0.5, 0.1, version="loose")
    found = replay(tickets, candidate, {"log": log}, {}, (START, END), {"records that can't be read": 3})
    made = page(found)
    assert made == page(found)
    for name, *figures in rows(found.everything):
        assert all(f"<td>{figure}</td>" in made for figure in figures), name
    assert found.notes
    for note in (*found.notes, "left out: 3 records that can't be read"):
        assert note.replace("'", "&#x27;") in made
    assert "&lt;moving&gt;" in made
    assert "<moving>" not in made
    assert "400 tickets under the policies that they were under" in made


def test_a_replay_without_a_check_says_so() -> None:
    """Where no policy of the log is known."""
    found = replay(logged(world(1, 100), a_policy()), a_policy(version="c"), {}, {}, (START, END), {})
    assert "there is no such check" in page(found)
    assert any("could not be checked" in note for note in found.notes)
