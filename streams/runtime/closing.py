"""Closing clients within a time, whatever their broker does."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()

CLOSE_LIMIT_S = 3.0
"""A client whose broker is gone may never finish closing; past this it is left to the garbage collector."""


async def closed(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a client; what it says on its way out changes nothing, since its work is committed or will be redone."""
    # In a task of its own: a client that was fetching from a lost broker ends its stop with a stray CancelledError,
    # which here would read as our own cancellation.
    stopping = asyncio.create_task(close())
    _, late = await asyncio.wait({stopping}, timeout=CLOSE_LIMIT_S)
    if late:
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=1.0)
    if not stopping.done() or stopping.cancelled():
        log.info("client_close_failed", error="cancelled" if stopping.done() else "no end")
    elif error := stopping.exception():
        log.info("client_close_failed", error=type(error).__name__)
