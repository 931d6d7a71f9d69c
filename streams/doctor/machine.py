"""The model store and the disks."""

import shutil
from pathlib import Path

from streams.doctor.finding import Finding, Verdict
from streams.settings import Settings
from workers.store import ModelStore

MACHINE = "this machine"

GIB = 1024**3
FULL_BYTES, TIGHT_BYTES = GIB // 10, GIB
"""No room for a model, and room for few (guesses: the example's adapter has 2 MB, an encoder 90, a 3B model 6,000)."""


def store(settings: Settings) -> list[Finding]:
    """Whether the model store can be read. Blocks. Raises: StoreError."""
    url = str(settings.store)
    if isinstance(settings.store, Path) and not settings.store.exists():
        # Opening it would make it.
        return [Finding(MACHINE, "model store", "ok", f"{url} is not there yet: the first push makes it")]
    return [Finding(MACHINE, "model store", "ok", f"{len(ModelStore(url).list())} versions in {url}")]


def disks(settings: Settings) -> list[Finding]:
    """Free space where models are kept and where runs leave their logs: a finding a disk. Blocks."""
    folders = [Path.cwd(), settings.router.model.parent]
    if isinstance(settings.store, Path):
        folders.append(settings.store)
    by_disk = {folder.stat().st_dev: folder for folder in folders if folder.exists()}
    return [judged_disk(str(folder), shutil.disk_usage(folder).free) for folder in by_disk.values()]


def judged_disk(folder: str, free_bytes: int) -> Finding:
    """Room for models and logs?"""
    said = f"{free_bytes / GIB:.1f} GiB free at {folder}"
    if free_bytes >= TIGHT_BYTES:
        return Finding(MACHINE, "disk", "ok", said)
    verdict: Verdict = "wrong" if free_bytes < FULL_BYTES else "warning"
    return Finding(MACHINE, "disk", verdict, said, "free some: old versions in the model store, logs in .headgate")
