"""How many cores a process may use: the affinity, or the container's quota."""

import os
from pathlib import Path

import pytest

from workers.router.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_a_containers_quota_counts(tmp_path: Path, limit: str, cores: int) -> None:
    """Rounded up: half a core's worth of a second thread is still work done."""
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3)])
def test_an_older_kernels_quota_counts_too(tmp_path: Path, quota: str, cores: int) -> None:
    """Two files, and -1 for no limit."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_without_a_container_the_affinity_counts(tmp_path: Path) -> None:
    """Where there is no such file at all."""
    assert usable_cores(tmp_path) == 8
