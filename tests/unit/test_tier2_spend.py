"""The hard spend limit."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import PermanentError
from workers.tier2.spend import Ledger, Reservation, SpendLimitError


def test_a_call_that_could_pass_the_limit_is_refused() -> None:
    """Spent, reserved and the new worst case are summed; exactly the limit is allowed."""
    ledger = Ledger(None, 100)
    ledger.settle(ledger.reserve(50), 30)
    ledger.reserve(40)
    with pytest.raises(SpendLimitError, match="70 micro-dollars spent or reserved of 100, and the call may cost 31"):
        ledger.reserve(31)
    ledger.reserve(30)
    assert issubclass(SpendLimitError, PermanentError)


def test_a_call_that_cost_nothing_gives_its_reservation_back() -> None:
    """Settling at 0 makes room again."""
    ledger = Ledger(None, 100)
    ledger.settle(ledger.reserve(100), 0)
    assert ledger.committed_micro_usd == 0
    ledger.reserve(100)


def test_a_refusal_is_final_only_if_the_money_is_spent() -> None:
    """Calls under way that end below their worst case make room."""
    ledger = Ledger(None, 100)
    first = ledger.reserve(80)
    with pytest.raises(SpendLimitError) as refused:
        ledger.reserve(80)
    assert not refused.value.final
    ledger.settle(first, 30)
    with pytest.raises(SpendLimitError) as refused:
        ledger.reserve(80)
    assert refused.value.final


def test_a_reservation_is_settled_once() -> None:
    """The second settlement is a bug and says so."""
    ledger = Ledger(None, None)
    reservation = ledger.reserve(5)
    ledger.settle(reservation, 5)
    with pytest.raises(KeyError):
        ledger.settle(reservation, 5)


def test_without_a_limit_it_only_counts() -> None:
    """None is no limit, and 0 is a limit."""
    assert Ledger(None, None).reserve(10**12).micro_usd == 10**12
    with pytest.raises(SpendLimitError):
        Ledger(None, 0).reserve(1)


def test_a_restart_remembers_what_was_spent(tmp_path: Path) -> None:
    """Settled calls count at their cost."""
    path = tmp_path / "new folder" / "spend"
    with Ledger(path, 100) as ledger:
        ledger.settle(ledger.reserve(90), 60)
    with Ledger(path, 100) as ledger:
        assert ledger.committed_micro_usd == 60
        with pytest.raises(SpendLimitError):
            ledger.reserve(41)


def test_after_kill_a_call_under_way_counts_at_its_worst_case(tmp_path: Path) -> None:
    """A process killed between reserve and settle can't have called for free."""
    path = tmp_path / "spend"
    code = (
        "import os, sys, signal; from pathlib import Path; from workers.tier2.spend import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]), None); ledger.settle(ledger.reserve(50), 20); ledger.reserve(70)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    for _ in range(2):
        with Ledger(path, None) as ledger:
            assert ledger.committed_micro_usd == 90


def test_a_second_process_cannot_open_the_file(tmp_path: Path) -> None:
    """The error names the file and what to do; closing gives the lock back."""
    path = tmp_path / "spend"
    with Ledger(path, None), pytest.raises(RuntimeError, match="spend: in use by another process"):
        Ledger(path, None)
    Ledger(path, None).close()


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    """A power cut in the middle of a reservation was before its call; the file stays usable."""
    path = tmp_path / "spend"
    path.write_bytes(b"reserve 1 50\nsettle 1 20\nreserve 2 7")
    with Ledger(path, None) as ledger:
        assert ledger.committed_micro_usd == 20
        ledger.reserve(3)
    assert path.read_bytes() == b"reserve 1 50\nsettle 1 20\nreserve 2 3\n"


@pytest.mark.parametrize(
    "data", [b'{"thresholds": 1}', b"hello\n", b"settle 1 20\n", b"reserve 1 x\n", b"refund 1 5\n", b"\xff\n"]
)
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, data: bytes) -> None:
    """A wrong path in the settings must not cost a user his file."""
    path = tmp_path / "policy.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"policy\.json"):
        Ledger(path, None)
    assert path.read_bytes() == data


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans()), max_size=12))
def test_the_limit_holds_in_any_order_of_reservations_and_settlements(
    steps: list[tuple[int, int, bool]],
) -> None:
    """With costs within their worst cases, spent plus reserved never passes the limit."""
    ledger = Ledger(None, 100)
    under_way: list[Reservation] = []
    for worst, cost, settle_oldest in steps:
        try:
            under_way.append(ledger.reserve(worst))
        except SpendLimitError:
            assert ledger.committed_micro_usd + worst > 100
        if settle_oldest and under_way:
            oldest = under_way.pop(0)
            ledger.settle(oldest, min(cost, oldest.micro_usd))
        assert ledger.committed_micro_usd <= 100
