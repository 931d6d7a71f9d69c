"""What a watcher sees of a call to a model: times, tokens and how it ended; never a text.

Who watches is a context variable, so that a call needs to know neither the ticket nor the stage that it is made for.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct

from schemas.generations import Usage


class ModelCall(Struct, kw_only=True):
    """One call, complete once it has ended. Times are seconds since the epoch."""

    provider: str
    model: str
    """That was asked."""
    max_tokens: int
    began_s: float
    ended_s: float = 0.0
    answered_by: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    """None where no answer came."""
    error: str = ""
    """The class of what went wrong."""

    def answered(self, model: str, finish_reason: str, usage: Usage) -> None:
        """An answer came."""
        self.answered_by, self.finish_reason, self.usage = model, finish_reason, usage


WATCHER: ContextVar[Callable[[ModelCall], None] | None] = ContextVar("model_call_watcher", default=None)
"""Is given each call when it has ended; it must not raise."""


@contextmanager
def model_call(provider: str, model: str, max_tokens: int) -> Iterator[ModelCall]:
    """Around one call."""
    call = ModelCall(provider=provider, model=model, max_tokens=max_tokens, began_s=time.time())
    try:
        yield call
    except BaseException as exc:
        call.error = type(exc).__name__
        raise
    finally:
        call.ended_s = time.time()
        if (watch := WATCHER.get()) is not None:
            watch(call)
