"""The hard spend limit: reserved before a call, settled after it, in whole micro-dollars.

With a file a restart, even after kill -9, still knows what was spent: a
reservation that was never settled counts at its worst case. One process a file,
and the limit is that file's: two tier-2 processes with two files may spend
twice the limit together. A new period starts with a new file.

The file is append-only, one line a step: `reserve ID MICRO_USD`, `settle ID MICRO_USD`.
"""

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from workers.errors import PermanentError

_TORN = re.compile(rb"[a-z]{1,7}[ 0-9]*")


class SpendLimitError(PermanentError):
    """The call could pass the spend limit, so it is not made.

    `final` is False where only the worst cases of calls under way stand in between.
    """

    def __init__(self, reason: str, final: bool) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one call."""

    id: int
    micro_usd: int


@dataclass(slots=True)
class Balance:
    """What was spent for certain, and what calls under way may still cost."""

    spent_micro_usd: int
    reserved: dict[int, int]
    """Worst case in micro-dollars by reservation id."""
    next_id: int

    @property
    def committed_micro_usd(self) -> int:
        return self.spent_micro_usd + sum(self.reserved.values())

    def apply(self, step: str, reservation_id: int, micro_usd: int) -> None:
        """Take one step. Raises: KeyError if it settles what was not reserved."""
        if step == "reserve":
            self.reserved[reservation_id] = micro_usd
            self.next_id = reservation_id + 1
        else:
            del self.reserved[reservation_id]
            self.spent_micro_usd += micro_usd


class Ledger:
    """Keeps one process under its limit. Not for several threads."""

    def __init__(self, path: Path | None, limit_micro_usd: int | None) -> None:
        """Open the ledger; without a path it forgets with the process, without a limit it only counts.

        Raises: OSError; ValueError if the file isn't a ledger; RuntimeError if another process has it open.
        """
        self._limit_micro_usd = limit_micro_usd
        self._balance = Balance(0, {}, 1)
        self._fd: int | None = None
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                _lock(self._fd, path)
                self._balance = _replayed(self._fd, path)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def committed_micro_usd(self) -> int:
        """Spent, plus the worst case of calls under way."""
        return self._balance.committed_micro_usd

    def reserve(self, worst_case_micro_usd: int) -> Reservation:
        """Set money aside, durably, before the call is made.

        Raises: SpendLimitError if spent + reserved + worst case would pass the limit.
        """
        committed = self.committed_micro_usd
        if self._limit_micro_usd is not None and committed + worst_case_micro_usd > self._limit_micro_usd:
            raise SpendLimitError(
                f"spend limit: {committed} micro-dollars spent or reserved of {self._limit_micro_usd}, "
                f"and the call may cost {worst_case_micro_usd}",
                final=self._balance.spent_micro_usd + worst_case_micro_usd > self._limit_micro_usd,
            )
        reservation = Reservation(self._balance.next_id, worst_case_micro_usd)
        self._record("reserve", reservation.id, worst_case_micro_usd)
        if self._fd is not None:
            # Only reservations need the disk: a settlement lost in a power cut errs to the safe side.
            os.fsync(self._fd)
        return reservation

    def settle(self, reservation: Reservation, micro_usd: int) -> None:
        """Replace a reservation by what the call cost: 0 where the provider certainly charged nothing."""
        self._record("settle", reservation.id, micro_usd)

    def close(self) -> None:
        """Close the file and give its lock back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _record(self, step: str, reservation_id: int, micro_usd: int) -> None:
        self._balance.apply(step, reservation_id, micro_usd)
        if self._fd is not None:
            # One write a line: a killed process leaves whole lines.
            os.write(self._fd, f"{step} {reservation_id} {micro_usd}\n".encode("ascii"))


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise RuntimeError(
            f"{path}: in use by another process; give each tier-2 process a spend file of its own"
        ) from exc


def _replayed(fd: int, path: Path) -> Balance:
    """The file's balance; reservations that were never settled are spent at their worst case."""
    with open(fd, "rb", closefd=False) as file:
        *lines, torn = file.read().split(b"\n")
    balance = Balance(0, {}, 1)
    for number, line in enumerate(lines, 1):
        _replay(line, balance, f"{path}: line {number}")
    if torn:
        # A power cut in the middle of a line: its call was not made yet. Anything else is some other file, left alone.
        if not _TORN.fullmatch(torn):
            raise ValueError(f"{path}: not a spend ledger")
        os.ftruncate(fd, sum(len(line) + 1 for line in lines))
    balance.spent_micro_usd += sum(balance.reserved.values())
    balance.reserved.clear()
    return balance


def _replay(line: bytes, balance: Balance, place: str) -> None:
    try:
        step, reservation_id, micro_usd = line.decode("ascii").split(" ")
        if step not in ("reserve", "settle"):
            raise ValueError(f"unknown step {step!r}")
        balance.apply(step, int(reservation_id), int(micro_usd))
    except (ValueError, KeyError) as exc:
        raise ValueError(f"{place} is not a step of a spend ledger") from exc
