"""Closing clients within a time, whatever their broker does."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()

CLOSE_LIMIT_S = 5.0
"""A client whose broker is gone, whose group is in a rebalance, or that was given other partitions a moment ago (then
aiokafka's task may miss its cancellation) takes long to close, or for ever; past this nobody waits."""

_late: set[asyncio.Task[None]] = set()
"""Clients that are still closing: asyncio itself keeps no hold of a task."""


async def closed(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close a client; what it says on its way out changes nothing, since its work is committed or will be redone.

    One that is late goes on by itself: cancelled, it would leave its connections open and its place in the group taken.
    """
    # In a task of its own: a client that was fetching from a lost broker ends its stop with a stray CancelledError,
    # which here would read as our own cancellation.
    closing = asyncio.create_task(close())
    _late.add(closing)
    closing.add_done_callback(_say)
    await asyncio.wait({closing}, timeout=CLOSE_LIMIT_S)
    if not closing.done():
        log.info("client_close_late", waited_s=CLOSE_LIMIT_S)


def _say(closing: "asyncio.Task[None]") -> None:
    _late.discard(closing)
    if closing.cancelled():
        log.info("client_close_failed", error="cancelled")
    elif error := closing.exception():
        log.info("client_close_failed", error=type(error).__name__)
