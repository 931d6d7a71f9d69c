"""Failures, classed by what the caller does about them. A poison record has its own: schemas.codec.PoisonError."""


class RetryableError(Exception):
    """It may go better later: a busy engine, a broken connection, a rate limit."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class PermanentError(Exception):
    """It will never go better for this ticket: the request was rejected, or a limit is final."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HeldError(Exception):
    """Nothing is wrong with this ticket and nothing was tried: do it again in `after_s`, however often that happens."""

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after_s = after_s


class WorkerDiedError(Exception):
    """The worker can't do anything any more: the process must end, so that its supervisor starts it again. The record
    is not done, and not failed either."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
