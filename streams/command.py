"""What the commands share: the terminal, the example company, and work that Ctrl-C ends in order."""

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

FERNWAY = Path(__file__).parent.parent / "examples" / "fernway"
RUNS = Path(".headgate")
"""Where local runs keep logs, the broker's data and reports."""

console = Console(stderr=False)


def failed(text: str, code: int) -> int:
    """Say in a line why a command ends, and return the exit code that it ends with."""
    Console(stderr=True).print(f"headgate: {text}", style="red", markup=False, highlight=False)
    return code


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end, or until Ctrl-C or SIGTERM: then everything that was opened is closed in order."""

    async def interruptible() -> Any:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        raise typer.Exit(failed("interrupted; everything that was started is stopped", 130)) from None
