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
