"""The models file, and which model answers which ticket."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.tier1.models import Entry, Models, ServedModel, load_models, single

IDS = [f"ticket-{n}" for n in range(4_000)]
SHARES = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=5)


def models(*shares: float) -> Models:
    return Models("v", tuple(Entry(ServedModel(name=f"m{n}"), share) for n, share in enumerate(shares)))


def load(tmp_path: Path, text: str) -> Models:
    (tmp_path / "models.toml").write_text(text)
    return load_models(tmp_path / "models.toml")


def test_a_file_names_models_shares_adapters_and_further_fields(tmp_path: Path) -> None:
    """An adapter's folder counts from the file; the version tells files apart."""
    text = """
        [[model]]
        name = "old"

        [[model]]
        name = "new"
        share = 0.25
        adapter = "adapters/new"
        [model.extra]
        lora = [{id = 1, scale = 1.0}]
    """
    found = load(tmp_path, text)
    new = ServedModel(name="new", adapter=tmp_path / "adapters/new", extra={"lora": [{"id": 1, "scale": 1.0}]})
    assert found.entries == (Entry(ServedModel(name="old"), 1.0), Entry(new, 0.25))
    assert found.shares == {"old": 0.8, "new": 0.2}
    assert load(tmp_path, text).version == found.version
    assert load(tmp_path, text + "\n").version != found.version


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "model"),
        ("model = []", "length"),
        ("[[model]]\nshare = 1.0", "name"),
        ('[[model]]\nname = ""', "name"),
        ('[[model]]\nname = "a"\nshare = 0', "share"),
        ('[[model]]\nname = "a"\nshare = -1.0', "share"),
        ('[[model]]\nname = "a"\nshare = inf', "share"),
        ('[[model]]\nname = "a"\nshare = nan', "share"),
        ('[[model]]\nname = "a"\nshares = 1.0', "shares"),
        ('[[models]]\nname = "a"', "models"),
        ('[[model]]\nname = "a"\n[[model]]\nname = "a"', "named a"),
        ("[[model", "end of an array"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    """And says what is wrong with it."""
    with pytest.raises(ValueError, match=rf"models\.toml.*{why}"):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    """As one that can't be read."""
    with pytest.raises(ValueError, match=r"none\.toml"):
        load_models(tmp_path / "none.toml")


@given(st.text())
def test_one_model_answers_everything(ticket_id: str) -> None:
    """Whatever an id looks like."""
    assert single("only").pick(ticket_id).name == "only"


@given(SHARES, st.text())
def test_a_ticket_has_one_model_whatever_their_order(shares: list[float], ticket_id: str) -> None:
    """Done again, after a crash or in another process, it is answered by the same one."""
    found = models(*shares)
    reordered = Models("w", found.entries[::-1])
    assert found.pick(ticket_id) == reordered.pick(ticket_id)


@pytest.mark.parametrize("shares", [(95.0, 5.0), (1.0, 1.0, 2.0), (0.001, 0.001)])
def test_models_get_their_shares(shares: tuple[float, ...]) -> None:
    """Within four standard deviations of so many tickets."""
    found = models(*shares)
    picked = [found.pick(ticket_id).name for ticket_id in IDS]
    for name, share in found.shares.items():
        assert abs(picked.count(name) / len(IDS) - share) < 4 * (share * (1 - share) / len(IDS)) ** 0.5


@given(SHARES, st.data())
def test_a_share_that_grows_only_takes(shares: list[float], data: st.DataObject) -> None:
    """A canary keeps its tickets as it grows, and none moves between the others."""
    grown = data.draw(st.integers(0, len(shares) - 1))
    before = models(*shares)
    after = models(*(share * 3 if n == grown else share for n, share in enumerate(shares)))
    for ticket_id in IDS[:200]:
        was, now = before.pick(ticket_id).name, after.pick(ticket_id).name
        assert now in (was, f"m{grown}")
